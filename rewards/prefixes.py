"""What an answer had earned after each of its shapes, from none to all: what credit stands on.

Axes: N predicted shapes in the order written, P = N + 1 prefixes, B true shapes.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from rewards.geometry.boxes import BoolArray, FloatArray, IntArray
from rewards.matching import UNMATCHED, best_assignment
from rewards.overlaps import Overlaps
from rewards.records import Prefixes, RewardWeights
from rewards.terms import shape_terms, weighted_total

_Counts = tuple[FloatArray, IntArray, BoolArray]
"""([P] matched total, [P] number of duplicates, [P, B] which truths are matched)."""


def measure_prefixes(overlaps_G: Sequence[Overlaps], weights: RewardWeights) -> tuple[Prefixes, ...]:
    """[G] every prefix of every answer, under the terms of `matched` that shapes decide.

    >>> from types import SimpleNamespace
    >>> from rewards import Truth
    >>> from rewards.overlaps import measure
    >>> predicted = SimpleNamespace(labels=("a", "a"), bins_NK=np.array([[0, 0, 9, 9]] * 2), faults=(), absent=())
    >>> overlaps_G = measure([[predicted]], [Truth(("a",), np.array([[0, 0, 9, 9]]), ("a",))], RewardWeights())
    >>> measure_prefixes(overlaps_G, RewardWeights())[0].earned_P.round(3).tolist()
    [0.0, 1.0, -0.083]
    """
    if not overlaps_G:
        return ()
    counts_G = [_count_plain(overlaps) if overlaps.is_plain else _count(overlaps) for overlaps in overlaps_G]
    num_G = [overlaps.num_predicted + 1 for overlaps in overlaps_G]
    terms = shape_terms(
        np.concatenate([total_P for total_P, _, _ in counts_G]),
        np.concatenate([np.arange(num) for num in num_G]),
        np.concatenate([duplicates_P for _, duplicates_P, _ in counts_G]),
        np.concatenate([[0, *np.cumsum(overlaps.lost_giant_N)] for overlaps in overlaps_G]),
        np.repeat([overlaps.num_true for overlaps in overlaps_G], num_G),
    )
    earned = weighted_total(terms, weights)
    return tuple(
        Prefixes(earned_P=earned[start:end], total_P=total_P, is_matched_PB=is_matched_PB)
        for (start, end), (total_P, _, is_matched_PB) in zip(
            pairwise([0, *np.cumsum(num_G).tolist()]), counts_G, strict=True
        )
    )


def _count_plain(overlaps: Overlaps) -> _Counts:
    """Where every shape has its first choice, it has it in every prefix."""
    is_matched_PB = np.zeros((overlaps.num_predicted + 1, overlaps.num_true), dtype=np.bool_)
    matched = np.flatnonzero(overlaps.choice_N != UNMATCHED)
    is_matched_PB[matched + 1, overlaps.choice_N[matched]] = True
    total_P = np.concatenate([[0.0], np.cumsum(overlaps.best_N)])
    return total_P, np.zeros(len(total_P), dtype=np.int64), np.logical_or.accumulate(is_matched_PB, axis=0)


def _count(overlaps: Overlaps) -> _Counts:
    """A shape whose best truth is free adds exactly its value: no shape can add more than its best. Only where a truth
    is taken already, or a group changes, is the assignment solved again.
    """
    later_L, earlier_L = overlaps.duplicates_L2.max(axis=1), overlaps.duplicates_L2.min(axis=1)
    order_L = later_L.argsort()
    ends = later_L[order_L].searchsorted(np.arange(overlaps.num_predicted + 1)).tolist()
    earlier_L = earlier_L[order_L]
    group_NB, root_N = overlaps.value_NB, np.arange(overlaps.num_predicted)
    totals, duplicates, taken = [0.0], [0], [set[int]()]  # of every prefix
    for shape, (choice, best) in enumerate(zip(overlaps.choice_N.tolist(), overlaps.best_N.tolist(), strict=True)):
        joined = np.unique(root_N[earlier_L[ends[shape] : ends[shape + 1]]])
        total, now_taken = totals[-1], taken[-1]
        if _join(group_NB, root_N, joined, shape) if len(joined) else choice in now_taken:
            total, now_taken = best_assignment(group_NB[: shape + 1])
        elif best > 0.0 and not len(joined):
            total, now_taken = total + best, now_taken | {choice}
        totals.append(total)
        duplicates.append(duplicates[-1] + len(joined))
        taken.append(now_taken)
    is_matched_PB = np.zeros((len(totals), overlaps.num_true), dtype=np.bool_)
    for prefix, truths in enumerate(taken):
        is_matched_PB[prefix, list(truths)] = True
    return np.array(totals), np.array(duplicates, dtype=np.int64), is_matched_PB


def _join(group_NB: FloatArray, root_N: IntArray, joined: IntArray, shape: int) -> bool:
    """Join a shape and the groups it repeats, in place, in the row of the first member; False when the matching cannot
    have changed by it.
    """
    first, members = joined[0], np.append(joined, shape)
    joint_B = group_NB[members].max(axis=0, initial=0.0)
    changed = len(joined) > 1 or bool((joint_B > group_NB[first]).any())
    group_NB[members] = 0.0
    group_NB[first] = joint_B
    root_N[np.isin(root_N, members)] = first
    return changed
