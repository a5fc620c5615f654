"""Where an answer's decisions begin, by what stands before each token alone.

An answer goes on in one of five ways: with a list or its end, with a list's phrase, with a list's first shape or
`None`, with a further shape, or, behind a shape, with "go on" or "stop". Two answers that agree up to a token agree on
whether a decision begins there, and on which. Polygons have no set length, so their go-on or stop belongs to the shape;
an instance of key points is one decision with all that stands before it.

Axes: T tokens of all answers, G answers, K decisions of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise

import numpy as np

from rex_rl.language.answer_reader import COMMA, COORDINATE, END, SHAPES_END, SHAPES_START, START

MAX_UNSURE = 16
"""So many shapes that go on behind their last number are looked at one by one in an answer; more are a broken one."""
MAX_ENTRIES = 64
"""Decisions of an answer that is JSON, each of which costs a reading of its own."""


class Choice(IntEnum):
    """What is decided."""

    LIST, PHRASE, FIRST, SHAPE, MORE = range(5)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionPoints:
    """One answer's."""

    starts_K: np.ndarray
    """int64 first token of each decision, counted from the answer's first: 0 for the first."""
    choices_K: np.ndarray
    """int64 of `Choice`."""
    is_unsure_K: np.ndarray
    """Whether later tokens change what decoding says of those before: a complete shape that goes on is left out, and
    JSON is read as a whole."""


def find_points(
    kinds: bytes, closes_T: np.ndarray | None, tokens_at_G: Sequence[int], *, size: int | None
) -> list[DecisionPoints]:
    """[G] the decisions of answers that stand one behind the other.

    Args:
        kinds: the letter of every token (answer_reader.py).
        closes_T: where given, whether each token closes a brace: answers are JSON, and decisions begin behind those.
        tokens_at_G: [G + 1] where each answer begins.
        size: numbers of a shape; None for polygons.

    >>> points = find_points(b"OtoBcc,ccb,OtoBtbE", None, [0, 18], size=2)[0]
    >>> [(start, Choice(choice).name) for start, choice in zip(points.starts_K.tolist(), points.choices_K)][:6]
    [(0, 'LIST'), (4, 'FIRST'), (6, 'MORE'), (7, 'SHAPE'), (9, 'MORE'), (10, 'LIST')]
    """
    kinds_T = np.frombuffer(kinds, dtype=np.uint8)
    is_first_T = np.zeros(len(kinds_T) + 1, dtype=np.bool_)
    is_first_T[tokens_at_G] = True
    is_first_T = is_first_T[:-1]
    choice_T = np.full(len(kinds_T), -1)
    is_unsure_T = np.zeros(len(kinds_T), dtype=np.bool_)
    if closes_T is None:
        _mark_segments(kinds_T, is_first_T, choice_T, is_unsure_T, size)
    else:
        num_T = closes_T.cumsum() - closes_T  # braces before each token
        num_T -= _latest(num_T, is_first_T)
        choice_T[1:][closes_T[:-1] & (num_T[1:] <= MAX_ENTRIES)] = Choice.LIST
        is_unsure_T |= ~is_first_T
    choice_T[is_first_T] = Choice.LIST
    found = np.flatnonzero(choice_T >= 0)
    return [
        DecisionPoints(starts_K=found[a:b] - at, choices_K=choice_T[found[a:b]], is_unsure_K=is_unsure_T[found[a:b]])
        for at, (a, b) in zip(tokens_at_G, pairwise(found.searchsorted(tokens_at_G).tolist()), strict=False)
    ]


def _mark_segments(
    kinds_T: np.ndarray, is_first_T: np.ndarray, choice_T: np.ndarray, is_unsure_T: np.ndarray, size: int | None
) -> None:
    """Write the choice that begins at each token of answers made of segments; -1 stays where none does."""
    before_T = np.concatenate([kinds_T[:0], [END], kinds_T[:-1]])
    before_T[is_first_T] = END
    within_T = _latest(before_T, np.isin(before_T, (START, SHAPES_START, SHAPES_END, END)))
    is_inside_T = within_T == SHAPES_START
    choice_T[before_T == SHAPES_END] = Choice.LIST
    choice_T[(before_T == COMMA) & (within_T != START)] = Choice.PHRASE
    choice_T[(before_T == COMMA) & is_inside_T] = Choice.SHAPE
    opens_T = is_inside_T & ~np.append(False, is_inside_T[:-1])  # a delimiter among shapes is stray and opens nothing
    choice_T[opens_T] = Choice.FIRST
    if size is None:
        return
    part_T = ((before_T == COMMA) | opens_T | ~is_inside_T).cumsum()
    is_number_T = is_inside_T & (kinds_T == COORDINATE)
    num_before_T = is_number_T.cumsum() - is_number_T
    written_T = num_before_T - num_before_T[np.searchsorted(part_T, part_T)]
    choice_T[is_inside_T & (written_T == size) & (before_T == COORDINATE)] = Choice.MORE
    is_unsure_T |= (choice_T == Choice.MORE) & (np.bincount(part_T, weights=is_number_T)[part_T] > size)
    # Each costs a reading of its own, so an answer with many such shapes ends in one long decision.
    is_over_T = is_number_T & (written_T == size)
    num_over_T = is_over_T.cumsum() - is_over_T
    num_over_T -= _latest(num_over_T, is_first_T)
    choice_T[num_over_T > MAX_UNSURE] = -1


def _latest(values_T: np.ndarray, is_set_T: np.ndarray) -> np.ndarray:
    """[T] the value at the last place that is set, up to and with each; the first value before any."""
    return values_T[np.maximum.accumulate(np.where(is_set_T, np.arange(len(values_T)), 0))]
