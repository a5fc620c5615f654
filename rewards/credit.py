"""Per-shape credit: what each shape of an answer added to the reward.

Axes: N predicted shapes in the order written, B true shapes. R is the part of the default total that shapes decide: f1
and the penalties for duplicates, surplus and giants (not format and truncation, which no shape is to blame for).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from rewards.duplicates import group_roots, is_duplicate
from rewards.geometry.boxes import BoolArray, FloatArray, IntArray
from rewards.matching import best_assignment, best_total, group_values, totals_without
from rewards.overlaps import Overlaps
from rewards.records import RewardWeights
from rewards.terms import shape_terms, weighted_total

RewardOf = Callable[[IntArray], float]
"""Reward of the shapes at these indices alone."""
_Counts = tuple[FloatArray, IntArray, IntArray, IntArray]
"""[V] of V variants of an answer: matched total, number of shapes, of duplicates, of lost giants."""
_NONE = np.zeros(1, dtype=np.int64)


def prefix_credits(overlaps_G: Sequence[Overlaps], weights: RewardWeights) -> tuple[FloatArray, ...]:
    """Credit of shape i: R(first i shapes) - R(first i - 1), in the order written.

    They add up to R(all) - R(none). A duplicate carries the blame and not its original.

    Returns:
        credits_GN: [G] of [N] float64.

    >>> from types import SimpleNamespace
    >>> from rewards import Truth
    >>> from rewards.overlaps import measure
    >>> predicted = SimpleNamespace(labels=("a", "a"), bins_NK=np.array([[0, 0, 9, 9]] * 2), faults=(), absent=())
    >>> overlaps_G = measure([[predicted]], [Truth(("a",), np.array([[0, 0, 9, 9]]), ("a",))], RewardWeights())
    >>> prefix_credits(overlaps_G, RewardWeights())[0].round(3).tolist()
    [1.0, -1.083]
    """
    rewards_GP = _rewards([_count_prefixes(overlaps) for overlaps in overlaps_G], overlaps_G, weights)
    return tuple(rewards_P[1:] - rewards_P[:-1] for rewards_P in rewards_GP)


def leave_one_out_credits(overlaps_G: Sequence[Overlaps], weights: RewardWeights) -> tuple[FloatArray, ...]:
    """Credit of shape i: R(all) - R(all without i). Of two duplicates either is superfluous: both carry the blame.

    Returns:
        credits_GN: [G] of [N] float64.

    >>> from types import SimpleNamespace
    >>> from rewards import Truth
    >>> from rewards.overlaps import measure
    >>> predicted = SimpleNamespace(labels=("a", "a"), bins_NK=np.array([[0, 0, 9, 9]] * 2), faults=(), absent=())
    >>> truth = Truth(("a",), np.array([[0, 0, 9, 9]]), ("a",))
    >>> overlaps_G = measure([[predicted]], [truth], RewardWeights())
    >>> leave_one_out_credits(overlaps_G, RewardWeights())[0].round(3).tolist()
    [-1.083, -1.083]
    """
    rewards_GV = _rewards([_count_leave_one_out(overlaps) for overlaps in overlaps_G], overlaps_G, weights)
    return tuple(rewards_V[-1] - rewards_V[:-1] for rewards_V in rewards_GV)


def in_order_credits(overlaps_G: Sequence[Overlaps], weights: RewardWeights) -> tuple[FloatArray, ...]:
    """Credit of shape i: R - R without i, both of the answer without later duplicates of i.

    A duplicate carries the blame and not its original, as in `prefix_credits`. A right shape earns the same wherever it
    stands, as in `leave_one_out_credits`. Prefix credit does not give that: F1 is concave, so the last right shapes of
    a long answer earn a fraction of what the first earn, and are blamed when compared with them.

    Returns:
        credits_GN: [G] of [N] float64.

    >>> from types import SimpleNamespace
    >>> from rewards import Truth
    >>> from rewards.overlaps import measure
    >>> bins_NK = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [20, 0, 29, 9]])
    >>> predicted = SimpleNamespace(labels=("a",) * 3, bins_NK=bins_NK, faults=(), absent=())
    >>> overlaps_G = measure([[predicted]], [Truth(("a", "a"), bins_NK[:2], ("a", "a"))], RewardWeights())
    >>> in_order_credits(overlaps_G, RewardWeights())[0].round(3).tolist()
    [0.175, 0.333, -0.575]
    """
    rewards_GV = _rewards([_count_in_order(overlaps) for overlaps in overlaps_G], overlaps_G, weights)
    return tuple(with_N - without_N for with_N, without_N in (np.split(rewards_V, 2) for rewards_V in rewards_GV))


def prefix_differences(reward_of: RewardOf, num_predicted: int) -> FloatArray:
    """Prefix credits of any reward, from their definition: `reward_of` is called on all N + 1 prefixes.

    >>> prefix_differences(lambda shapes: float(len(shapes) ** 2), 3).tolist()
    [1.0, 3.0, 5.0]
    """
    return np.diff([reward_of(np.arange(num)) for num in range(num_predicted + 1)])


def leave_one_out_differences(reward_of: RewardOf, num_predicted: int) -> FloatArray:
    """Leave-one-out credits of any reward, from their definition.

    >>> leave_one_out_differences(lambda shapes: float(len(shapes) ** 2), 3).tolist()
    [5.0, 5.0, 5.0]
    """
    shapes_N = np.arange(num_predicted)
    whole = reward_of(shapes_N)
    return np.array([whole - reward_of(shapes_N[shapes_N != shape]) for shape in shapes_N], dtype=np.float64)


def in_order_differences(reward_of: RewardOf, near_NN: BoolArray | None, num_predicted: int) -> FloatArray:
    """In-order credits of any reward, from their definition; `near_NN`: which shapes are near-duplicates, None: no two.

    >>> in_order_differences(lambda shapes: float(len(shapes) ** 2), np.eye(3, k=1, dtype=bool), 3).tolist()
    [3.0, 3.0, 5.0]
    """
    shapes_N = np.arange(num_predicted)
    later_NN = np.zeros((num_predicted, num_predicted), dtype=np.bool_) if near_NN is None else np.triu(near_NN, 1)
    kept_N = [shapes_N[~later_N] for later_N in later_NN]
    credits = [reward_of(kept) - reward_of(kept[kept != shape]) for shape, kept in enumerate(kept_N)]
    return np.array(credits, dtype=np.float64)


def _rewards(
    counts_GV: Sequence[_Counts], overlaps_G: Sequence[Overlaps], weights: RewardWeights
) -> tuple[FloatArray, ...]:
    """R of every variant of every answer, [G] of [V]: the formulas run once over all of them."""
    if not overlaps_G:
        return ()
    total, num_predicted, duplicates, giants = (np.concatenate(column) for column in zip(*counts_GV, strict=True))
    num_G = [len(counts_V[0]) for counts_V in counts_GV]
    num_true = np.repeat([overlaps.num_true for overlaps in overlaps_G], num_G)
    rewards = weighted_total(shape_terms(total, num_predicted, duplicates, giants, num_true), weights)
    ends_G = np.cumsum(num_G).tolist()
    return tuple(rewards[start:end] for start, end in pairwise([0, *ends_G]))


def _count_prefixes(overlaps: Overlaps) -> _Counts:
    """Counts of the N + 1 prefixes, from no shape to all."""
    total_P, duplicates_P = _match_prefixes(overlaps)
    giants_P = np.concatenate([_NONE, np.cumsum(overlaps.lost_giant_N)])
    return total_P, np.arange(overlaps.num_predicted + 1), duplicates_P, giants_P


def _match_prefixes(overlaps: Overlaps) -> tuple[FloatArray, IntArray]:
    """([P] matched total, [P] number of duplicates) of every prefix, P = N + 1.

    A shape whose best truth is free adds exactly its value: no shape can add more than its best. Only where a truth
    is taken already, or a group changes, is the assignment solved again.
    """
    if overlaps.is_plain:
        return np.concatenate([[0.0], np.cumsum(overlaps.best_N)]), np.zeros(overlaps.num_predicted + 1, dtype=np.int64)
    near_NN, num_predicted = overlaps.near_NN, overlaps.num_predicted
    linked_N = [False] * num_predicted if near_NN is None else np.asarray(np.tril(near_NN).any(axis=1)).tolist()
    choice_N, best_N = overlaps.choice_N.tolist(), overlaps.best_N.tolist()
    group_NB, root_N = overlaps.value_NB, np.arange(num_predicted)  # a group's values stand in its first member's row
    total, duplicates = 0.0, 0
    taken: set[int] = set()
    totals_P, duplicates_P = [total], [duplicates]
    for shape, (choice, best, linked) in enumerate(zip(choice_N, best_N, linked_N, strict=True)):
        if near_NN is not None and linked:
            joined = np.unique(root_N[:shape][near_NN[shape, :shape]])
            duplicates += len(joined)
            if _join(group_NB, root_N, joined, shape):
                total, taken = best_assignment(group_NB[: shape + 1])
        elif choice in taken:
            total, taken = best_assignment(group_NB[: shape + 1])
        elif best > 0.0:
            total += best
            taken.add(choice)
        totals_P.append(total)
        duplicates_P.append(duplicates)
    return np.array(totals_P), np.array(duplicates_P, dtype=np.int64)


def _join(group_NB: FloatArray, root_N: IntArray, joined: IntArray, shape: int) -> bool:
    """Join a shape and the groups it is near to, in place; False when the matching cannot have changed by it."""
    first, members = joined[0], np.append(joined, shape)
    joint_B = group_NB[members].max(axis=0, initial=0.0)
    changed = len(joined) > 1 or bool((joint_B > group_NB[first]).any())
    group_NB[members] = 0.0
    group_NB[first] = joint_B
    root_N[np.isin(root_N, members)] = first
    return changed


def _count_leave_one_out(overlaps: Overlaps) -> _Counts:
    """Counts of the N variants that lack one shape, then of the whole answer."""
    num_predicted, near_NN = overlaps.num_predicted, overlaps.near_NN
    if overlaps.is_plain:
        total, total_N = overlaps.total, overlaps.total - overlaps.best_N
    else:
        total, total_N = totals_without(overlaps.group_value_NB)
    total_V, duplicates_V = np.append(total_N, total), np.full(num_predicted + 1, overlaps.num_duplicates)
    if near_NN is not None:
        value_NB = overlaps.value_NB
        for shape in np.flatnonzero(near_NN.any(axis=1)).tolist():
            total_V[shape], duplicates_V[shape] = _match_of(value_NB, near_NN, np.arange(num_predicted) != shape)
    lost_V = np.append(overlaps.lost_giant_N, False)
    predicted_V = np.append(np.full(num_predicted, num_predicted - 1), num_predicted)
    return total_V, predicted_V, duplicates_V, np.count_nonzero(lost_V) - lost_V


def _count_in_order(overlaps: Overlaps) -> _Counts:
    """Counts of the answer without later duplicates of each of the N shapes, then of the same less that shape."""
    counts_V = _count_leave_one_out(overlaps)
    num_predicted, near_NN = overlaps.num_predicted, overlaps.near_NN
    total_V, predicted_V, duplicates_V, giants_V = (
        np.concatenate([np.repeat(column[-1:], num_predicted), column[:-1]]) for column in counts_V
    )
    if near_NN is not None:
        later_NN = np.triu(near_NN, 1)
        for shape in np.flatnonzero(later_NN.any(axis=1)).tolist():
            kept_N = ~later_NN[shape]
            for variant in (shape, num_predicted + shape):
                total_V[variant], duplicates_V[variant] = _match_of(overlaps.value_NB, near_NN, kept_N)
                predicted_V[variant] = np.count_nonzero(kept_N)
                giants_V[variant] = np.count_nonzero(overlaps.lost_giant_N & kept_N)
                kept_N[shape] = False
    return total_V, predicted_V, duplicates_V, giants_V


def _match_of(value_NB: FloatArray, near_NN: BoolArray, kept_N: BoolArray) -> tuple[float, int]:
    """(matched total, number of duplicates) of some of an answer's shapes, whose groups may fall apart."""
    root_N = group_roots(np.argwhere(near_NN[np.ix_(kept_N, kept_N)]), int(np.count_nonzero(kept_N)))
    return best_total(group_values(value_NB[kept_N], root_N)), int(is_duplicate(root_N).sum())
