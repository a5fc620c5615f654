"""Which pairs to measure: those of one family whose spans on the x axis meet, found by sorting.

Axes: N, A and B things, L pairs. A family is an integer, for example one label of one answer.
"""

import numpy as np

from rewards.geometry.boxes import FloatArray, IntArray

Spans = tuple[FloatArray, FloatArray]
"""[N] where each thing begins and ends on the x axis; one that ends before it begins meets little or nothing."""


def meeting_pairs(spans_A: Spans, family_A: IntArray, spans_B: Spans, family_B: IntArray) -> tuple[IntArray, IntArray]:
    """Pairs of one family whose spans share a point: all that do, and of odd spans perhaps some more.

    Returns:
        first_L, second_L: [L] places in A, ascending, and in B.

    >>> spans_A, spans_B = np.array([[0.0, 20.0], [9.0, 29.0]]), np.array([[5.0, 9.0, 50.0], [8.0, 30.0, 60.0]])
    >>> [part.tolist() for part in meeting_pairs(spans_A, np.array([0, 0]), spans_B, np.array([0, 0, 0]))]
    [[0, 0, 1], [0, 1, 1]]
    """
    (low_A, high_A), (low_B, high_B) = spans_A, spans_B
    if not len(low_A) or not len(low_B):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    widest = max((high_B - low_B).max(), 0.0)
    # Families lie further apart than any two things of one family.
    stride = max(high_A.max(), low_B.max()) - min(low_A.min() - widest, low_B.min()) + 1.0
    key_B = family_B * stride + low_B
    order_B = key_B.argsort(kind="stable")
    sorted_B, base_A = key_B[order_B], family_A * stride
    first_A = sorted_B.searchsorted(base_A + (low_A - widest))
    first_L, place_L = _windows(first_A, sorted_B.searchsorted(base_A + high_A, side="right"))
    second_L = order_B[place_L]
    meets_L = high_B[second_L] >= low_A[first_L]
    return first_L[meets_L], second_L[meets_L]


def neighbours(start_N: FloatArray, reach_N: FloatArray, family_N: IntArray) -> tuple[IntArray, IntArray]:
    """Pairs of one family of which one starts within the other's reach, [L] and [L], each pair once."""
    stride = np.ptp(start_N) + reach_N.max() + 1.0
    key_N = family_N * stride + start_N
    order_N = key_N.argsort()
    sorted_N = key_N[order_N]
    first_L, second_L = _windows(
        np.arange(1, len(key_N) + 1), sorted_N.searchsorted(sorted_N + reach_N[order_N], side="right")
    )
    return order_N[first_L], order_N[second_L]


def _windows(first_N: IntArray, end_N: IntArray) -> tuple[IntArray, IntArray]:
    """[L] each row with each place from `first` to before `end`, rows ascending."""
    counts_N = np.maximum(end_N - first_N, 0)
    row_L = np.arange(len(counts_N)).repeat(counts_N)
    skipped_N = counts_N.cumsum() - counts_N
    return row_L, np.arange(len(row_L)) + (first_N - skipped_N)[row_L]
