"""Near-copy groups against slow references."""

import numpy as np

from rewards.duplicates import group_roots, near_pairs, num_copies
from rewards.geometry import near_copies, pairwise_value


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


def test_near_pairs_are_all_pairs_of_one_family_that_are_near() -> None:
    """The window over sorted x0 loses no pair: same pairs as the full matrix, boxes and points, odd boxes included."""
    rng = np.random.default_rng(0)
    found = 0
    for trial in range(300):
        num, num_coordinates = int(rng.integers(0, 30)), (2, 4)[trial % 2]
        shapes_NK = rng.integers(0, 30, (num, num_coordinates))
        if num_coordinates == 4:  # most sound and long, so that many are near
            shapes_NK[: num // 2, :2], shapes_NK[: num // 2, 2:] = shapes_NK[: num // 2, :2] // 4, 29
        family_N = rng.integers(0, 3, num)
        near_NN = near_copies(pairwise_value(shapes_NK, shapes_NK), num_coordinates)
        near_NN &= family_N[:, None] == family_N
        expected = {(a, b) for a, b in zip(*np.nonzero(np.triu(near_NN, 1)), strict=True)}
        pairs = [tuple(sorted(pair)) for pair in near_pairs(shapes_NK, family_N).tolist()]
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == expected
        found += len(pairs)
    assert found > 1000


def test_groups_are_the_connected_components() -> None:
    """Cliques, chains and long random graphs, each named by its first member."""
    rng = np.random.default_rng(1)
    chain_NN = np.eye(60, k=1, dtype=np.bool_)
    shuffled = rng.permutation(60)
    graphs = [chain_NN, chain_NN[np.ix_(shuffled, shuffled)]]
    graphs += [rng.random((num, num)) < density for num in (1, 5, 30) for density in (0.0, 0.02, 0.1, 1.0)]
    for graph in graphs:
        near_NN = graph | graph.T
        np.fill_diagonal(near_NN, False)
        root_N = group_roots(near_NN)
        assert root_N.tolist() == _components(near_NN)
        assert num_copies(root_N) == len(root_N) - len(set(root_N.tolist()))


def test_no_shapes_have_no_groups() -> None:
    """The empty answer needs no case of its own."""
    assert near_pairs(np.zeros((0, 4)), np.zeros(0)).shape == (0, 2)
    assert group_roots(np.zeros((0, 0), dtype=np.bool_)).shape == (0,)
