"""Where actors go: a pure plan of what a run asks for, and the check that the cluster has room for it."""

import re
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rex_rl.config.load import Config
from rex_rl.errors import PlacementError

POLL_S = 1.0
CONNECT_S = 5.0
"""How long a cluster at an address may take to accept a connection."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorPlan:
    """Actors of one role, which all reserve the same resources."""

    role: str
    count: int
    num_cpus: float
    num_gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """What one actor reserves."""
        return {"CPU": self.num_cpus, "GPU": self.num_gpus}


def join(address: str | None, *, key: str, num_cpus: int | None = None, namespace: str | None = None) -> None:
    """Connect this process to the cluster at an address; None: the one a job runs in, else a new one here.

    `key` is the user's name for the address. Raises PlacementError: nothing answers there, or it is no cluster of Ray.
    """
    import ray

    try:
        if found := re.fullmatch(r"([^/]+):(\d+)", address or ""):  # Ray itself would try for many minutes
            socket.create_connection((found[1], int(found[2])), timeout=CONNECT_S).close()
        # A new cluster lives as long as this process: it gets no dashboard, which takes two seconds to start.
        quiet: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        ray.init(address=address, num_cpus=num_cpus, namespace=namespace, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise PlacementError(f"{key} = {address}: cannot join a Ray cluster ({str(error).splitlines()[0]})") from error


def plan_actors(config: Config) -> list[ActorPlan]:
    """What a run asks the cluster for, the largest first."""
    plans = [
        ActorPlan(
            role="learner",
            count=config.learner.num_ranks,
            num_cpus=config.learner.num_cpus,
            num_gpus=config.learner.num_gpus,
        ),
        ActorPlan(
            role="rollout",
            count=config.rollout.num_workers,
            num_cpus=config.rollout.num_cpus,
            num_gpus=config.rollout.num_gpus,
        ),
    ]
    if "grpo" in config.stages:
        reward = config.reward_workers
        plans.append(ActorPlan(role="reward", count=reward.num_workers, num_cpus=reward.num_cpus, num_gpus=0.0))
    return plans


def count_placeable(plans: Sequence[ActorPlan], nodes: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """How many actors of each role fit the nodes' free resources, first fit, roles in the order given.

    >>> plans = [ActorPlan(role="rollout", count=3, num_cpus=1.0, num_gpus=0.0)]
    >>> count_placeable(plans, [{"CPU": 2.0}])
    {'rollout': 2}
    """
    free = [dict(node) for node in nodes]
    placed = dict.fromkeys((plan.role for plan in plans), 0)
    for plan in plans:
        for _ in range(plan.count):
            node = next((node for node in free if _fits(plan, node)), None)
            if node is None:
                break
            for name, amount in plan.resources.items():
                node[name] = node.get(name, 0.0) - amount
            placed[plan.role] += 1
    return placed


def _fits(plan: ActorPlan, node: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) + 1e-9 >= amount for name, amount in plan.resources.items())


def require_placeable(plans: Sequence[ActorPlan], *, wait_s: float) -> None:
    """Wait up to `wait_s` until the cluster has room for every actor; raises PlacementError, which says what is there.

    Called before any actor starts: otherwise Ray would silently queue actors that do not fit.
    """
    deadline = time.monotonic() + wait_s
    while True:
        nodes = _free_by_node()
        placed = count_placeable(plans, nodes)
        missing = [plan for plan in plans if placed[plan.role] < plan.count]
        if not missing:
            return
        if time.monotonic() >= deadline:
            raise PlacementError(_shortage(missing[0], placed, nodes, wait_s))
        time.sleep(POLL_S)


def _free_by_node() -> list[dict[str, float]]:
    from ray._private.state import available_resources_per_node

    return [dict(resources) for resources in available_resources_per_node().values()]


def _shortage(plan: ActorPlan, placed: Mapping[str, int], nodes: Sequence[Mapping[str, float]], wait_s: float) -> str:
    key = {"rollout": "rollout.num_workers", "learner": "learner.num_ranks", "reward": "reward_workers.num_workers"}
    there = ", ".join(f"{node.get('CPU', 0.0):g} CPU + {node.get('GPU', 0.0):g} GPU free" for node in nodes)
    return (
        f"{key[plan.role]} = {plan.count}, each {plan.num_cpus:g} CPU + {plan.num_gpus:g} GPU: "
        f"the cluster can place {placed[plan.role]} (nodes: {there or 'none'}; waited cluster.wait_s = {wait_s:g} s)"
    )
