"""Near-duplicate groups against slow references."""

from collections.abc import Callable

import numpy as np
import pytest

from rewards import Predictions, Truth
from rewards.duplicates import group_roots, is_duplicate, near_pairs
from rewards.values import read_shapes

SceneMaker = Callable[[np.random.Generator, str], tuple[Predictions, Truth]]


def _components(near_NN: np.ndarray) -> list[int]:
    """First member of each shape's connected component, by depth-first search."""
    root_N = [-1] * len(near_NN)
    for start in range(len(near_NN)):
        stack = [start] if root_N[start] < 0 else []
        while stack:
            shape = stack.pop()
            if root_N[shape] < 0:
                root_N[shape] = start
                stack += np.flatnonzero(near_NN[shape]).tolist()
    return root_N


@pytest.mark.parametrize("kind", ["box", "point", "polygon", "keypoints"])
def test_near_pairs_are_all_pairs_of_one_family_that_are_near(random_scene: SceneMaker, kind: str) -> None:
    """The window along the x axis loses no pair: same pairs as every pair measured, odd shapes included."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        scenes = [random_scene(rng, kind) for _ in range(4)]
        shapes = read_shapes([predicted for predicted, _ in scenes], [scenes[0][1]])
        num = sum(len(predicted.labels) for predicted, _ in scenes)
        family_N = rng.integers(0, 3, num)
        first_L, second_L = np.nonzero(np.triu(family_N[:, None] == family_N, 1))
        near_L = shapes.near(first_L, second_L)
        expected = set(zip(first_L[near_L].tolist(), second_L[near_L].tolist(), strict=True))
        pairs = [tuple(sorted(pair)) for pair in near_pairs(shapes, family_N).tolist()]
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == expected
        found += len(pairs)
    assert found > 120


@pytest.mark.parametrize("kind", ["box", "point", "polygon", "keypoints"])
def test_being_near_is_mutual(random_scene: SceneMaker, kind: str) -> None:
    """So the order in which a pair is written makes no difference."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        answer, truth = random_scene(rng, kind)
        shapes = read_shapes([answer], [truth])
        first_L, second_L = (pairs.ravel() for pairs in np.indices([len(answer.labels)] * 2))
        np.testing.assert_array_equal(shapes.near(first_L, second_L), shapes.near(second_L, first_L))


def test_groups_are_the_connected_components() -> None:
    """Cliques, chains and long random graphs, each named by its first member."""
    rng = np.random.default_rng(1)
    chain_NN = np.eye(60, k=1, dtype=np.bool_)
    shuffled = rng.permutation(60)
    graphs = [chain_NN, chain_NN[np.ix_(shuffled, shuffled)]]
    graphs += [rng.random((num, num)) < density for num in (1, 5, 30) for density in (0.0, 0.02, 0.1, 1.0)]
    graphs += [rng.random((40, 40)) < 0.03 for _ in range(200)]
    for graph in graphs:
        near_NN = graph | graph.T
        np.fill_diagonal(near_NN, False)
        root_N = group_roots(np.argwhere(np.triu(near_NN)), len(near_NN))
        assert root_N.tolist() == _components(near_NN)
        assert is_duplicate(root_N).sum() == len(root_N) - len(set(root_N.tolist()))


def test_no_shapes_have_no_groups() -> None:
    """The empty answer needs no case of its own."""
    nothing = read_shapes([], [Truth((), np.zeros((0, 4)), ())])
    assert near_pairs(nothing, np.zeros(0, dtype=np.int64)).shape == (0, 2)
    assert group_roots(np.zeros((0, 2), dtype=np.int64), 0).shape == (0,)
