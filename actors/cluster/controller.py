"""The run controller: a named actor through which other shells and hosts see a running job and change its size.

It holds the driver's last report and the last number of workers asked for, which the driver's monitor fetches.
"""

import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.cluster.placement import join
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
        """Take a driver's newest status; returns (number of wishes so far, workers that the last one asks for).

        The last wish is returned at every call, as a reply may come late or be lost. A new driver of the run drops the
        wishes sent to the one before.
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
        """Wish for this many rollout workers."""
        self._wish = self._wish[0] + 1, rollouts


def start_controller(run: str) -> ActorHandle:
    """The controller of a run; ends with its driver. Where a killed driver's is left, the monitor starts another."""
    return ray.remote(RunController).options(name=run, namespace=NAMESPACE, num_cpus=0, get_if_exists=True).remote()


def run_status(address: str, run: str | None) -> Mapping[str, Any]:
    """The status of a running job; `run` names it where the cluster has several."""
    return ray.get(_find(address, run).status.remote(), timeout=REPLY_S)


def scale_run(address: str, run: str | None, rollouts: int) -> None:
    """Ask a running job to have this many rollout workers."""
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
