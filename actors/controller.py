"""The run controller: a named actor through which other shells and hosts see a running job and change its size.

It holds what the driver last reported and what was last asked for; the driver's monitor takes the wish from there.
"""

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.placement import join
from rex_rl.errors import UserError

NAMESPACE = "rex_rl"
REPLY_S = 10.0


class RunController:
    """Runs as a Ray actor named after its run."""

    def __init__(self) -> None:
        self._status: dict[str, Any] = {}
        self._wish = (0, 0)
        self._driver = ""

    def report(self, status: dict[str, Any], driver: str) -> tuple[int, int]:
        """Take a driver's newest status; gives how many wishes it was sent, and the last: for so many workers.

        It is given again and again, as a reply may be late and lost. What the run's driver before this one was asked
        for is no wish any more.
        """
        if self._driver not in ("", driver):
            self._wish = (0, 0)
        self._driver = driver
        self._status = {**status, "reported": time.time()}
        return self._wish

    def status(self) -> dict[str, Any]:
        """What the driver last reported."""
        return self._status

    def scale(self, rollouts: int) -> None:
        """Wish for so many rollout workers."""
        self._wish = self._wish[0] + 1, rollouts


def start_controller(run: str) -> ActorHandle:
    """The controller of a run; it ends with its driver. Where a killed driver left one, the monitor starts another."""
    return ray.remote(RunController).options(name=run, namespace=NAMESPACE, num_cpus=0, get_if_exists=True).remote()


def run_status(address: str, run: str | None) -> Mapping[str, Any]:
    """The status of a running job, `run` where the cluster has several."""
    return ray.get(_find(address, run).status.remote(), timeout=REPLY_S)


def scale_run(address: str, run: str | None, rollouts: int) -> None:
    """Ask a running job to have so many rollout workers."""
    ray.get(_find(address, run).scale.remote(rollouts), timeout=REPLY_S)


def _find(address: str, run: str | None) -> ActorHandle:
    join(address, key="--address", namespace=NAMESPACE)
    running = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if _is_ours(actor)]
    if run is None and len(running) == 1:
        run = running[0]
    if run not in running:
        asked = "RUN: name one of" if run is None else f"{run}: no such run; there are"
        raise UserError(f"{asked} {', '.join(sorted(running)) or 'none running'}")
    return ray.get_actor(run, namespace=NAMESPACE)


def _is_ours(actor: Mapping[str, Any]) -> bool:
    return actor["namespace"] == NAMESPACE
