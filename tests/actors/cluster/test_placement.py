"""Placement: actors are counted as a cluster would place them; a shortage names what was asked and what is there."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.cluster import placement
from actors.cluster.placement import ActorPlan, count_placeable, plan_actors, require_placeable
from rex_rl.config.load import Config
from rex_rl.errors import PlacementError


def plan(role: str, count: int, cpus: float, gpus: float = 0.0) -> ActorPlan:
    return ActorPlan(role=role, count=count, num_cpus=cpus, num_gpus=gpus)


@pytest.mark.parametrize(
    ("plans", "nodes", "placed"),
    [
        ([plan("rollout", 3, 1)], [{"CPU": 2.0}], [2]),
        ([plan("rollout", 3, 1)], [{"CPU": 1.5}, {"CPU": 1.5}], [2]),  # an actor does not span nodes
        ([plan("learner", 1, 2), plan("rollout", 2, 1)], [{"CPU": 4.0}], [1, 2]),
        ([plan("learner", 1, 2), plan("rollout", 2, 1)], [{"CPU": 1.0}, {"CPU": 3.0}], [1, 2]),
        ([plan("learner", 2, 1, 1), plan("rollout", 1, 1)], [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 8.0}], [1, 1]),
        ([plan("rollout", 4, 0.25, 0.5)], [{"CPU": 9.0, "GPU": 1.0}], [2]),
        ([plan("rollout", 10, 0.1)], [{"CPU": 1.0}], [10]),  # ten tenths are one, floats or not
        ([plan("rollout", 1, 1)], [], [0]),
        ([plan("rollout", 1, 1)], [{"memory": 1e9}], [0]),
    ],
)
def test_first_fit_by_hand(plans: list[ActorPlan], nodes: list[dict[str, float]], placed: list[int]) -> None:
    assert list(count_placeable(plans, nodes).values()) == placed


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(0, 2)), min_size=1, max_size=3),
    st.lists(st.tuples(st.integers(0, 8), st.integers(0, 4)), max_size=4),
)
@settings(max_examples=80, deadline=None)
def test_no_more_is_placed_than_asked_or_there(asked: list[tuple[int, int, int]], there: list[tuple[int, int]]) -> None:
    """And the given nodes are not changed."""
    plans = [plan(f"role{i}", count, cpus, gpus) for i, (count, cpus, gpus) in enumerate(asked)]
    nodes = [{"CPU": float(cpus), "GPU": float(gpus)} for cpus, gpus in there]
    before = [dict(node) for node in nodes]
    placed = count_placeable(plans, nodes)
    assert nodes == before
    assert all(0 <= placed[one.role] <= one.count for one in plans)
    for at, name in enumerate(("CPU", "GPU"), start=1):
        used = sum(placed[f"role{i}"] * wanted[at] for i, wanted in enumerate(asked))
        assert used <= sum(node[name] for node in nodes)


def config_with(tmp_path: Path, **changes: Any) -> Config:
    return Config(
        **{"name": "run", "run_root": tmp_path, "model": {"path": "tiny"}, "data": {"train": "shapes"}, **changes}
    )


def test_a_run_asks_for_all_its_actors(tmp_path: Path) -> None:
    config = config_with(
        tmp_path,
        learner={"num_ranks": 2, "num_cpus": 3.0, "num_gpus": 1.0},
        rollout={"num_workers": 4, "num_cpus": 2.0, "num_gpus": 0.5},
        reward_workers={"num_workers": 3, "num_cpus": 0.25},
    )
    assert plan_actors(config) == [
        plan("learner", 2, 3.0, 1.0),
        plan("rollout", 4, 2.0, 0.5),
        plan("reward", 3, 0.25),
    ]
    assert plan_actors(config)[1].resources == {"CPU": 2.0, "GPU": 0.5}


def test_sft_alone_needs_no_reward_workers(tmp_path: Path) -> None:
    assert [one.role for one in plan_actors(config_with(tmp_path, stages=("sft",)))] == ["learner", "rollout"]


class Cluster:
    """Free resources that change from look to look, and a clock that moves while the code sleeps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *looks: list[dict[str, float]]) -> None:
        self.now, self.num_looks = 0.0, 0
        self._looks = looks
        monkeypatch.setattr(placement, "_free_by_node", self.look)
        monkeypatch.setattr(placement, "time", self)

    def look(self) -> list[dict[str, float]]:
        self.num_looks += 1
        return self._looks[min(self.num_looks, len(self._looks)) - 1]

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_what_fits_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [{"CPU": 2.0}])
    require_placeable([plan("rollout", 2, 1)], wait_s=0)
    assert (cluster.num_looks, cluster.now) == (1, 0)


def test_a_shortage_says_what_was_asked_and_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with key, value, what each actor takes, how many fit, every node, and the time waited."""
    Cluster(monkeypatch, [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 1.5}])
    with pytest.raises(PlacementError) as caught:
        require_placeable([plan("learner", 1, 1), plan("rollout", 5, 1)], wait_s=0)
    assert str(caught.value) == (
        "rollout.num_workers = 5, each 1 CPU + 0 GPU: the cluster can place 2 "
        "(nodes: 2 CPU + 1 GPU free, 1.5 CPU + 0 GPU free; waited cluster.wait_s = 0 s)"
    )
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("role", "key"),
    [("learner", "learner.num_ranks"), ("reward", "reward_workers.num_workers"), ("rollout", "rollout.num_workers")],
)
def test_every_role_is_named_by_its_key(monkeypatch: pytest.MonkeyPatch, role: str, key: str) -> None:
    Cluster(monkeypatch, [])
    with pytest.raises(PlacementError, match=rf"{key} = 1, .* can place 0 \(nodes: none"):
        require_placeable([plan(role, 1, 1)], wait_s=0)


def test_an_autoscaler_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [{"CPU": 1.0}], [{"CPU": 1.0}], [{"CPU": 1.0}, {"CPU": 4.0}])
    require_placeable([plan("rollout", 3, 1)], wait_s=60)
    assert (cluster.num_looks, cluster.now) == (3, 2)


def test_the_wait_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, [{"CPU": 1.0}])
    with pytest.raises(PlacementError, match=r"waited cluster\.wait_s = 5 s"):
        require_placeable([plan("rollout", 3, 1)], wait_s=5)
    assert cluster.now == 5
