"""Groups of near-copies: who says the same thing twice.

Axes: N shapes, in the order written; L pairs of them. Near-copies of one label are joined, and what is joined to a
member belongs to the group (connected components), so the groups do not depend on the order of the shapes.
"""

import numpy as np

from rewards.geometry import BoolArray, IntArray
from rewards.pairs import neighbours
from rewards.values import SaidShapes


def near_pairs(shapes: SaidShapes, family_N: IntArray) -> IntArray:
    """All pairs of near-copies within each family.

    Args:
        shapes: N said shapes.
        family_N: [N] integers; only shapes of one family (say, one label of one answer) are compared.

    Returns:
        pairs_L2: [L, 2] indices of the two shapes, each pair once.

    Sorted by where they start on the x axis, the near-copies of a shape start within its reach, so few pairs are ever
    measured.

    >>> from rewards.values import Boxes
    >>> boxes_N4 = np.array([[0.0, 0, 99, 99], [50, 0, 149, 99], [0, 0, 99, 90], [0, 0, 99, 99]])
    >>> near_pairs(Boxes(boxes_N4, boxes_N4), np.array([0, 0, 0, 1])).tolist()
    [[0, 2]]
    """
    if len(family_N) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    first_L, second_L = neighbours(*shapes.reach(), family_N)
    if len(first_L):
        near_L = shapes.near(first_L, second_L)
        first_L, second_L = first_L[near_L], second_L[near_L]
    return np.stack([first_L, second_L], axis=1)


def group_roots(pairs_L2: IntArray, num_shapes: int) -> IntArray:
    """The near-copy group of every shape, named by its first member.

    Args:
        pairs_L2: [L, 2] near-copies.
        num_shapes: N.

    Returns:
        root_N: [N] index of the first shape of each shape's group; N groups of one give 0 .. N-1.

    >>> group_roots(np.array([[0, 1], [3, 1]]), 4).tolist()
    [0, 0, 2, 0]
    """
    root_N = np.arange(num_shapes, dtype=np.int64)
    first_L, second_L = pairs_L2.T
    while len(pairs_L2):  # the smaller root spreads to both shapes and the larger root; cliques need two rounds
        first_root_L, second_root_L = root_N[first_L], root_N[second_L]
        if np.array_equal(first_root_L, second_root_L):
            break
        lowest_L = np.minimum(first_root_L, second_root_L)
        np.minimum.at(root_N, np.maximum(first_root_L, second_root_L), lowest_L)
        root_N = root_N[root_N]  # jump to the root's own root: a chain of n needs about log n rounds
    return root_N


def is_copy(root_N: IntArray) -> BoolArray:
    """[N] which shapes come after the first of their near-copy group.

    >>> is_copy(np.array([0, 0, 2, 0])).tolist()
    [False, True, False, True]
    """
    return np.asarray(root_N != np.arange(len(root_N)))
