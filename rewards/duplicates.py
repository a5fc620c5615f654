"""Groups of near-copies: who says the same thing twice.

Axes: N shapes, in the order written; L pairs of them. Near-copies of one label are joined, and what is joined to a
member belongs to the group (connected components), so the groups do not depend on the order of the shapes.
"""

import numpy as np
from numpy.typing import ArrayLike

from rewards.geometry import BOX, NEAR_BINS, NEAR_IOU, BoolArray, FloatArray, IntArray, near_copies, pairwise_value

_SLACK_BINS = 1.0
"""Added to the window of candidates, so that rounding loses none; the exact test follows."""


def near_pairs(shapes_NK: ArrayLike, family_N: ArrayLike) -> IntArray:
    """All pairs of near-copies within each family.

    Args:
        shapes_NK: [N, 4] boxes or [N, 2] points, in bins.
        family_N: [N] integers; only shapes of one family (say, one label of one answer) are compared.

    Returns:
        pairs_L2: [L, 2] indices of the two shapes, each pair once.

    Sorted by x0, a near-copy of a box starts within 0.3 of its width: beyond that even the overlap of the two
    intervals is below 0.7 of the first, and the IoU is not above the interval's. So few pairs are ever measured.

    >>> near_pairs([[0, 0, 99, 99], [50, 0, 149, 99], [0, 0, 99, 90], [0, 0, 99, 99]], [0, 0, 0, 1]).tolist()
    [[0, 2]]
    """
    shapes = np.asarray(shapes_NK, dtype=np.float64)
    if len(shapes) < 2:
        return np.zeros((0, 2), dtype=np.int64)
    first_L, second_L = _candidates(shapes, np.asarray(family_N))
    values_L = pairwise_value(shapes[first_L, None], shapes[second_L, None])[:, 0, 0]
    near_L = near_copies(values_L, shapes.shape[1])
    return np.stack([first_L[near_L], second_L[near_L]], axis=1)


def _candidates(shapes_NK: FloatArray, family_N: IntArray) -> tuple[IntArray, IntArray]:
    """Pairs of one family whose x0 are close enough for near-copies."""
    x0_N = shapes_NK[:, 0]
    if shapes_NK.shape[1] == BOX:
        window_N = (1.0 - NEAR_IOU) * np.maximum(shapes_NK[:, 2] - x0_N, 0.0) + _SLACK_BINS
    else:
        window_N = np.full(len(x0_N), NEAR_BINS + _SLACK_BINS)
    stride = np.ptp(x0_N) + window_N.max() + 1.0  # families lie further apart than any window reaches
    key_N = family_N * stride + x0_N
    order_N = key_N.argsort()
    sorted_N = key_N[order_N]
    places_N = np.arange(len(x0_N))
    counts_N = sorted_N.searchsorted(sorted_N + window_N[order_N], side="right") - places_N - 1
    first_L = places_N.repeat(counts_N)
    skipped_N = counts_N.cumsum() - counts_N
    second_L = np.arange(len(first_L)) - skipped_N[first_L] + first_L + 1
    return order_N[first_L], order_N[second_L]


def group_roots(near_NN: BoolArray) -> IntArray:
    """The near-copy group of every shape, named by its first member.

    Args:
        near_NN: [N, N] symmetric, True where two shapes of one label are near-copies; the diagonal is not read.

    Returns:
        root_N: [N] index of the first shape of each shape's group; N groups of one give 0 .. N-1.

    >>> group_roots(np.array([[0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 0], [0, 1, 0, 0]], dtype=bool)).tolist()
    [0, 0, 2, 0]
    """
    root_N = np.arange(len(near_NN), dtype=np.int64)
    if not near_NN.any():
        return root_N
    linked_N = np.flatnonzero(near_NN.any(axis=1))
    near_LL = near_NN[np.ix_(linked_N, linked_N)]
    while True:  # the smallest index spreads to all neighbours; cliques, the usual case, need one round
        spread_L = np.where(near_LL, root_N[linked_N], len(near_NN)).min(axis=1, initial=len(near_NN))
        lowest_L = np.minimum(spread_L, root_N[linked_N])
        if np.array_equal(lowest_L, root_N[linked_N]):
            return root_N
        root_N[linked_N] = lowest_L
        root_N[linked_N] = root_N[root_N[linked_N]]  # jump to the root's own root: a chain of n needs log n rounds


def num_copies(root_N: IntArray) -> int:
    """Shapes beyond the first of their near-copy group.

    >>> num_copies(np.array([0, 0, 2, 0]))
    2
    """
    return int(np.count_nonzero(root_N != np.arange(len(root_N))))
