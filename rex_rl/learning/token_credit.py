"""From the credit of each shape of an answer to credit on the answer's tokens.

A shape's span holds the comma or delimiter before it (rex_rl/language/segment_shapes.py). Axes: G answers of a group,
N shapes of one answer, L its lists, T its tokens.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np


def answer_credit(
    credits_GN: Sequence[np.ndarray], spans_GN2: Sequence[np.ndarray], lengths_G: Sequence[int]
) -> list[np.ndarray]:
    """[G] of [T]: each shape's credit on its own tokens, less their mean, so that an answer sums to zero; 0 elsewhere.

    Tokens outside the spans have no credit: less the mean of right shapes, they would be blamed for nothing.

    >>> answer_credit([np.array([0.5, -0.1])], [np.array([[1, 3], [4, 6]])], [7])
    [array([ 0. ,  0.3,  0.3,  0. , -0.3, -0.3,  0. ])]
    """
    rows = []
    for credits_N, spans_N2, length in zip(credits_GN, spans_GN2, lengths_G, strict=True):
        credit_T, is_credited_T = np.zeros(length), np.zeros(length, dtype=bool)
        for credit, (start, end) in zip(credits_N, spans_N2, strict=True):
            credit_T[start:end], is_credited_T[start:end] = credit, True
        if is_credited_T.any():
            credit_T[is_credited_T] -= credit_T[is_credited_T].mean()
        rows.append(credit_T)
    return rows


def decision_credit(
    credits_GN: Sequence[np.ndarray], spans_GN2: Sequence[np.ndarray], lengths_G: Sequence[int]
) -> list[np.ndarray]:
    """[G] of [T]: what a token led to, less the mean of the group's tokens of its kind; each kind sums to zero.

    A shape's tokens lead to its credit. After a shape, going on leads to the next shape's credit, stopping the list to
    0. After a list, beginning another leads to the credits of all its shapes, ending the answer to 0. A label leads to
    the credits of its list. So a duplicate is blamed for being begun and for where it lies, and a list begun a second
    time for its separator and label. Stopping is blamed by what going on earns. What all answers share moves nothing.

    An answer `a[x,x]` whose shapes earn 0.6 and 0.1, and one `a[x]`, with delimiters and phrases of one token: where
    they go on or stop they earned 0.1, 0 and 0.

    >>> credits_GN = [np.array([0.6, 0.1]), np.array([0.6])]
    >>> spans_GN2 = [np.array([[1, 3], [3, 5]]), np.array([[1, 3]])]
    >>> for credit_T in decision_credit(credits_GN, spans_GN2, [7, 5]):
    ...     print(credit_T.round(2).tolist())
    [0.05, 0.1, 0.1, 0.07, -0.4, -0.03, 0.0]
    [-0.05, 0.1, 0.1, -0.03, 0.0]
    """
    rows = [_earned(*answer) for answer in zip(credits_GN, spans_GN2, lengths_G, strict=True)]
    earned, kinds = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    for kind in _Kind:
        is_of_kind = kinds == kind
        if is_of_kind.any():
            earned[is_of_kind] -= earned[is_of_kind].mean()
    return np.split(earned, np.cumsum(lengths_G)[:-1])


CREDIT_OVER = {"answer": answer_credit, "decisions": decision_credit}
"""Values of `grpo.advantage.credit_over`."""


class _Kind(IntEnum):
    """What a token decides."""

    NOTHING = 0
    LABEL = 1
    SHAPE = 2
    GO_ON = 3  # or that the list stops
    NEXT_LIST = 4  # or that the answer ends


def _earned(credits_N: np.ndarray, spans_N2: np.ndarray, num_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """[T] what each token led to, and [T] its kind."""
    earned_T, kind_T = np.zeros(num_tokens), np.full(num_tokens, _Kind.NOTHING)

    def write(start: int, end: int, kind: _Kind, credit: float) -> None:
        earned_T[start:end], kind_T[start:end] = credit, kind

    is_first_N = ~np.isin(spans_N2[:, 0], spans_N2[:, 1])  # of its list: it begins where no other ends
    list_N = is_first_N.cumsum() - 1
    credits_L = np.bincount(list_N, weights=credits_N)
    begun = 0
    for credit, (start, end), is_first, its_list in zip(credits_N, spans_N2, is_first_N, list_N, strict=True):
        if is_first:
            write(begun - 1, begun, _Kind.NEXT_LIST, credits_L[its_list])  # no token before an answer's first list
            write(begun, start, _Kind.LABEL, credits_L[its_list])
        write(start, end, _Kind.SHAPE, credit)
        if not is_first:
            write(start, start + 1, _Kind.GO_ON, credit)
        write(end, end + 1, _Kind.GO_ON, 0)  # a stop, and behind it the answer's end, unless more follows
        write(end + 1, end + 2, _Kind.NEXT_LIST, 0)
        begun = end + 2
    return earned_T, kind_T
