"""One-to-one matching between groups of duplicates and true shapes, at the largest total value.

Axes: N predicted shapes of one answer, in the order written; B true shapes.

The construction. Duplicates form groups (duplicates.py). A group's value for a truth is the best of its members'
values. Within a label, a group matches at most one truth and a truth at most one group; the total is the largest there
is. The member that has the group's value is matched; every other shape is unmatched.

Why the laws hold. Which shapes are duplicates of each other depends on those two and the truth alone. So take away an
unmatched shape: a group may fall apart, but each matched member is still in a group of its own, the old matching is
still allowed, and the total cannot fall. Add a shape that ends up unmatched: it may join several groups, but the member
each match rests on stood in one of them, so the new matching was allowed before and the total cannot have risen. Add an
exact copy: it aims where its original does, so it joins its group and brings no value that the group has not. The
shapes of a perfect answer each aim at a truth of their own, so all are alone in their groups, and each matches it at
the value 1. Plain one-to-one matching without groups breaks the second law: in a crowd a duplicate can serve a second,
overlapping truth.
"""

import math
from dataclasses import dataclass

import numpy as np

from rewards.geometry.boxes import FloatArray, IntArray

UNMATCHED = -1
"""`Match.truth_N` of a shape that serves no truth."""


@dataclass(frozen=True, slots=True)
class Match:
    """A best matching: its total, and the truth each shape serves."""

    total: float
    """Sum of the matched values, in [0, B]."""
    truth_N: IntArray
    """[N] index of the truth, or UNMATCHED; a pair of value 0 is no match."""


def group_values(value_NB: FloatArray, root_N: IntArray) -> FloatArray:
    """Value of every group for every truth, in the row of the group's first member; the other rows are 0.

    Args:
        value_NB: [N, B] value of each shape for each truth, 0 where labels differ.
        root_N: [N] from `group_roots`.

    >>> group_values(np.array([[0.5, 0.1], [0.2, 0.9]]), np.array([0, 0])).tolist()
    [[0.5, 0.9], [0.0, 0.0]]
    """
    is_duplicate_N = root_N != np.arange(len(root_N))
    if not is_duplicate_N.any():
        return value_NB
    best_NB = value_NB.copy()
    best_NB[is_duplicate_N] = 0.0
    duplicates = np.flatnonzero(is_duplicate_N)
    duplicates = duplicates[root_N[duplicates].argsort(kind="stable")]
    roots, starts = np.unique(root_N[duplicates], return_index=True)
    best_NB[roots] = np.maximum(value_NB[roots], np.maximum.reduceat(value_NB[duplicates], starts, axis=0))
    return best_NB


def best_total(group_value_NB: FloatArray) -> float:
    """Largest total of a one-to-one assignment of rows to columns; either may stay free.

    One call covers all labels: pairs of different labels have value 0 and add nothing. Summed with `math.fsum`,
    so that the order of the shapes does not change the last bit.

    >>> best_total(np.array([[0.6, 0.5], [0.5, 0.0]]))
    1.0
    """
    return math.fsum(group_value_NB[_assign(group_value_NB)].tolist())


def first_choices(
    predicted_L: IntArray, true_L: IntArray, value_L: FloatArray, answer_A: IntArray, num_answers: int
) -> tuple[IntArray, FloatArray, list[bool]]:
    """The truth each shape of G answers would take if it were alone, in one pass.

    Args:
        predicted_L: [L] place among the shapes of all answers, for each pair of value above 0.
        true_L: [L] place in the truth of that shape's answer.
        value_L: [L] value of each pair, above 0.
        answer_A: [A] the answer of each shape.
        num_answers: G.

    Returns:
        choice_A: [A] the best truth, the first of several, or UNMATCHED where a shape has no value for any.
        best_A: [A] the shape's value for that truth, else 0.
        contested_G: [G] whether two shapes would take the same truth; if not, the choices are the best matching.

    >>> predicted_L, true_L = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 0])
    >>> value_L = np.array([5, 1, 2, 9, 3]) / 10
    >>> choice_A, best_A, contested_G = first_choices(predicted_L, true_L, value_L, np.array([0, 0, 1]), 2)
    >>> choice_A.tolist(), best_A.tolist(), contested_G
    ([0, 1, 0], [0.5, 0.9, 0.3], [False, False])
    """
    num_true = int(true_L.max(initial=0)) + 1
    best_A, choice_A = np.zeros(len(answer_A)), np.full(len(answer_A), num_true)
    np.maximum.at(best_A, predicted_L, value_L)
    is_best_L = value_L == best_A[predicted_L]
    np.minimum.at(choice_A, predicted_L[is_best_L], true_L[is_best_L])
    choice_A[best_A <= 0.0] = UNMATCHED
    # Every answer has a block of B + 1 numbers; shapes without value take the first, which may be taken often.
    taken = np.bincount(answer_A * (num_true + 1) + choice_A + 1, minlength=num_answers * (num_true + 1))
    contested_G = (taken.reshape(num_answers, num_true + 1)[:, 1:].max(axis=1) > 1).tolist()
    return choice_A, best_A, contested_G


def best_assignment(group_value_NB: FloatArray) -> tuple[float, set[int]]:
    """`best_total`, and the columns that are matched (with a value above 0).

    >>> best_assignment(np.array([[0.6, 0.0, 0.5], [0.5, 0.0, 0.0]]))
    (1.0, {0, 2})
    """
    rows, columns = _assign(group_value_NB)
    values = group_value_NB[rows, columns].tolist()
    taken = {column for column, value in zip(columns.tolist(), values, strict=True) if value > 0.0}
    return math.fsum(values), taken


def match(value_NB: FloatArray, root_N: IntArray) -> Match:
    """The best matching between groups of duplicates and truths.

    Args:
        value_NB: [N, B] value of each shape for each truth, 0 where labels differ.
        root_N: [N] group of each shape, from `group_roots`.

    Returns:
        Match: of several best members of a group, the one written first is matched.

    Two duplicates cannot serve two truths; two shapes that are apart can:

    >>> value_NB = np.array([[0.9, 0.4], [0.8, 0.6]])
    >>> match(value_NB, np.array([0, 0]))
    Match(total=0.9, truth_N=array([ 0, -1]))
    >>> match(value_NB, np.array([0, 1]))
    Match(total=1.5, truth_N=array([0, 1]))
    """
    best_NB = group_values(value_NB, root_N)
    rows, columns = _assign(best_NB)
    truth_N = np.full(len(value_NB), UNMATCHED, dtype=np.int64)
    values = best_NB[rows, columns].tolist()
    for root, truth, value in zip(rows.tolist(), columns.tolist(), values, strict=True):
        if value > 0.0:
            members = np.flatnonzero(root_N == root)
            truth_N[members[value_NB[members, truth].argmax()]] = truth
    return Match(math.fsum(values), truth_N)


def _assign(value_NB: FloatArray) -> tuple[IntArray, IntArray]:
    """Rows and their columns in a one-to-one assignment of the largest total."""
    from scipy.optimize import linear_sum_assignment  # 0.3 s, which commands that match nothing need not wait for

    rows, columns = linear_sum_assignment(value_NB, maximize=True)
    return rows, columns
