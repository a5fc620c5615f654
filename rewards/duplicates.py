"""Groups of near-duplicates: which predictions repeat each other.

Axes: N shapes, in the order written; L pairs of them. Two near-duplicates of one label are joined, and what is joined
to a member belongs to its group (connected components). So the groups do not depend on the order of the shapes.
"""

import numpy as np

from rewards.geometry.boxes import BoolArray, IntArray
from rewards.geometry.pairs import neighbours
from rewards.values import PredictedShapes


def near_pairs(shapes: PredictedShapes, family_N: IntArray) -> IntArray:
    """All pairs of near-duplicates within each family.

    Args:
        shapes: N predictions.
        family_N: [N] integers; only shapes of one family (one label of one answer, for example) are compared.

    Returns:
        pairs_L2: [L, 2] indices of the two shapes, each pair once.

    Shapes are sorted by where they start on the x axis. The near-duplicates of a shape start within its reach, so few
    pairs are measured.

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
    """The near-duplicate group of every shape, named by its first member.

    Args:
        pairs_L2: [L, 2] near-duplicates.
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


def is_duplicate(root_N: IntArray) -> BoolArray:
    """[N] which shapes come after the first of their near-duplicate group.

    >>> is_duplicate(np.array([0, 0, 2, 0])).tolist()
    [False, True, False, True]
    """
    return np.asarray(root_N != np.arange(len(root_N)))
