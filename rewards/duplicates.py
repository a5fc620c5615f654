"""Groups of duplicates: which predictions repeat each other.

Two predictions of one label are duplicates of each other where they are near (values.py) *and* aim at the same truth,
or at none. What is joined to a member belongs to its group (connected components), so the groups do not depend on the
order of the shapes. Two right shapes in a crowd are near, but aim at two truths: they are no duplicates.

Axes: N shapes, in the order written; A predictions and B truths of many answers; L pairs; F numbers of a frame.
"""

import numpy as np

from rewards.geometry.boxes import FloatArray, IntArray
from rewards.geometry.pairs import neighbours
from rewards.values import PredictedShapes

NOWHERE = -1
"""The nearest truth of a prediction that touches none."""


def near_pairs(shapes: PredictedShapes, family_N: IntArray) -> IntArray:
    """All pairs of near shapes within each family.

    Args:
        shapes: N predictions.
        family_N: [N] integers; only shapes of one family (one label of one answer, for example) are compared.

    Returns:
        pairs_L2: [L, 2] indices of the two shapes, each pair once.

    Shapes are sorted by where they start on the x axis. What is near to a shape starts within its reach, so few pairs
    are measured.

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
    """The group of duplicates of every shape, named by its first member.

    Args:
        pairs_L2: [L, 2] duplicates.
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


def nearest_truths(
    shapes: PredictedShapes,
    wanted_N: IntArray,
    predicted_L: IntArray,
    true_L: IntArray,
    value_L: FloatArray,
    likeness_L: FloatArray | None = None,
    text_L: IntArray | None = None,
) -> IntArray:
    """The truth that each of some predictions aims at: that of the largest value.

    A tie goes to the likelier text, if texts are compared, then to the truth whose own shape (of points: the true
    point) is nearest in bins, then to the first by coordinates, then by text. So an exact copy of a truth always aims
    at that truth: where another has the value 1 for it too (a point in several boxes), only its own lies at distance 0.

    Args:
        shapes: A predictions and B truths.
        wanted_N: places of the predictions that are asked about.
        predicted_L, true_L, value_L: pairs of a prediction and a truth of its label; those of value 0 do not count.
        likeness_L, text_L: how alike the texts of each pair are, and the true text's place in the alphabet; given
            where labels are recognised text and pairs are of any.

    Returns:
        nearest_A: [A] place of the truth; NOWHERE for a prediction that touches none, or is not wanted.

    >>> from rewards.values import Boxes
    >>> boxes = Boxes(np.array([[0.0, 0, 9, 9], [9, 9, 0, 0]]), np.array([[0.0, 0, 5, 9], [0, 0, 9, 8]]))
    >>> places_L, truths_L = np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])
    >>> nearest_truths(boxes, np.array([0, 1]), places_L, truths_L, boxes.values(places_L, truths_L)).tolist()
    [1, -1]
    """
    frames_AF, frames_BF = shapes.frames()
    nearest_A, is_wanted_A = np.full(len(frames_AF), NOWHERE), np.zeros(len(frames_AF), dtype=np.bool_)
    is_wanted_A[wanted_N] = True
    kept_L = np.flatnonzero(is_wanted_A[predicted_L] & (value_L > 0.0))
    predicted_L, true_L = predicted_L[kept_L], true_L[kept_L]
    apart_L = ((frames_AF[predicted_L] - frames_BF[true_L]) ** 2).sum(axis=1)
    keys = [*frames_BF[true_L].T[::-1], apart_L, -value_L[kept_L], predicted_L]
    if likeness_L is not None:
        keys.insert(-2, -likeness_L[kept_L])
    if text_L is not None:
        keys.insert(0, text_L[kept_L])
    order_L = np.lexsort(keys)
    first_A, starts = np.unique(predicted_L[order_L], return_index=True)
    nearest_A[first_A] = true_L[order_L[starts]]
    return nearest_A
