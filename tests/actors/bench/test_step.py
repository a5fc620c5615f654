"""The step bench runs the real loop in both modes, each side on a core of its own."""

import os
from collections.abc import Iterator

import pytest
import ray

from actors.bench.step import held_cluster
from rex_rl.bench.step import StepBench, step_figures
from rex_rl.data.splits import load_split

pytestmark = [pytest.mark.engine, pytest.mark.skipif(os.cpu_count() == 1, reason="needs two cores")]


def test_both_modes_run_and_the_sides_keep_apart(ray_cluster: None) -> None:
    with held_cluster() as (cluster, config, model):
        cores = [_cores_of(identity.pid) for identity in _identities(cluster)]
        assert all(len(one) == 1 for one in cores)
        assert cores[0] != cores[1]
        bench = StepBench(cluster, load_split(config).train, model)
        overlap, speedup = step_figures(bench, num_steps=3, edge=1, rounds=1, answer_tokens=8)
    assert (overlap.name, speedup.name) == ("overlap_step", "overlap_speedup")
    assert overlap.value == speedup.value > 0
    assert speedup.baseline is not None
    assert overlap.baseline is not None
    assert speedup.baseline > overlap.baseline > 0


def _identities(cluster: object) -> Iterator[object]:
    """The worker's, then the learner's."""
    yield cluster.rollouts.status().workers[0].identity  # type: ignore[attr-defined]
    yield ray.get(cluster.learner.ranks[0].identity.remote())  # type: ignore[attr-defined]


def _cores_of(pid: int) -> set[int]:
    """Cores any thread of a process may use."""
    return set().union(*(os.sched_getaffinity(int(task)) for task in os.listdir(f"/proc/{pid}/task")))
