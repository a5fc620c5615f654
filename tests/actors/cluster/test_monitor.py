"""The status that other processes see of a run: its workers, also after its controller has gone."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
import ray

from actors.cluster.controller import NAMESPACE
from actors.cluster.handles import RayLearner
from actors.cluster.monitor import Monitor
from actors.identity import Identity, own_identity
from tests.actors.rollout.test_pool import pool_of

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_cluster")]
TIMEOUT_S = 30


@dataclass
class OneRank:
    """What the monitor needs of a learner."""

    identities: list[Identity]


@pytest.fixture
def monitor() -> Iterator[Monitor]:
    with pool_of(2) as (pool, _):
        started = Monitor("seen", pool, cast(RayLearner, OneRank([own_identity()])), rewards=[])
        yield started
        started.close()


def status() -> dict[str, Any]:
    """The status another process gets, once the run has reported one."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline_s:
        try:
            if said := ray.get(ray.get_actor("seen", namespace=NAMESPACE).status.remote()):
                return dict(said)
        except (ValueError, ray.exceptions.RayActorError):  # no such actor, or not any more
            pass
        time.sleep(0.05)
    raise AssertionError("the run said nothing")


def test_a_run_reports_its_workers(monitor: Monitor) -> None:
    """Every worker with its process, state and weights."""
    monitor.step("grpo", 3, 10, {"learn": 1.0})
    deadline_s = time.monotonic() + TIMEOUT_S
    while (said := status())["step"] != 3:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    assert (said["run"], said["stage"], said["num_steps"]) == ("seen", "grpo", 10)
    assert [(one["role"], one["name"], one["state"], one["weight_version"]) for one in said["workers"]] == [
        ("rollout", "rollout-0", "HEALTHY", 0),
        ("rollout", "rollout-1", "HEALTHY", 0),
        ("learner", "learner-0", "HEALTHY", 3),
    ]
    assert all(one["pid"] and one["node"] for one in said["workers"])


def test_a_run_is_seen_again_after_its_controller_has_gone(monitor: Monitor) -> None:
    """A driver started after a killed one may find the old controller, which Ray ends a moment later."""
    status()
    ray.kill(ray.get_actor("seen", namespace=NAMESPACE))
    assert status()["run"] == "seen"
