"""Cuts what stands inside segments into shapes, for all answers at once.

A shape ends at a comma, at the end of its segment, or at the end of the answer, so one bad shape never shifts the next.
Its span starts at the delimiter or comma before it: a list is continued for that shape. In tasks that read text the
span of a segment's first shape starts with the segment, as the phrase is the text of that shape.

Axes: T tokens of all answers, S segments with coordinates, P parts between commas, A shapes, C coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rex_rl.language.answer_reader import COMMA, COORDINATE, TEXT, Ending, Segment
from rex_rl.language.grid import MIN_POLYGON

UNLIMITED = np.iinfo(np.int64).max


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentShapes:
    """The shapes of some segments in their order; tokens are counted over all answers."""

    segment_A: np.ndarray
    """Which segment each shape stands in."""
    spans_A2: np.ndarray
    num_numbers_A: np.ndarray
    """How many coordinates each shape has."""
    number_tokens_C: np.ndarray
    """The tokens of their coordinates, one shape after the other."""
    faults: dict[str, np.ndarray]
    """Fault -> the tokens that show it, whatever follows."""


def cut_shapes(
    segments: Sequence[Segment], kinds: bytes, *, size: int | None, reads_text: bool = False
) -> SegmentShapes:
    """The shapes of `size` coordinates, or the polygons where that is None; each segment holds a coordinate.

    >>> shapes = cut_shapes([Segment(0, 0, 10, Ending.DELIMITER)], b"Bcc,ccc,ccb", size=2)
    >>> shapes.spans_A2.tolist(), shapes.number_tokens_C.tolist()
    ([[0, 3], [7, 10]], [1, 2, 8, 9])
    >>> {name: tokens_F.tolist() for name, tokens_F in shapes.faults.items()}
    {'bad_count': [6], 'stray_tokens': []}
    """
    begun_S, opened_S, closed_S, ending_S = np.array(segments, dtype=np.int64).reshape(-1, 4).T
    kinds_T = np.frombuffer(kinds, dtype=np.uint8)
    step_T = np.zeros(kinds_T.size + 1, dtype=np.int8)
    step_T[opened_S + 1], step_T[closed_S] = 1, -1
    is_inside_T = step_T[:-1].cumsum(dtype=np.int8).view(np.bool_)
    is_number_T = is_inside_T & (kinds_T == COORDINATE)
    number_tokens_N = is_number_T.nonzero()[0]
    num_before_T = np.zeros(kinds_T.size + 1, dtype=np.int64)
    is_number_T.cumsum(out=num_before_T[1:])

    is_start_T = is_inside_T & (kinds_T == COMMA)
    is_start_T[opened_S] = True
    starts_P = is_start_T.nonzero()[0]
    last_S = starts_P.searchsorted(closed_S) - 1
    is_last_P = np.zeros(starts_P.size, dtype=np.bool_)
    is_last_P[last_S] = True
    segment_P = is_last_P.cumsum() - is_last_P
    ends_P = np.empty_like(starts_P)
    ends_P[:-1], ends_P[last_S] = starts_P[1:], closed_S
    first_P = num_before_T[starts_P]
    num_P = num_before_T[ends_P] - first_P

    is_right_P = num_P == size if size else (num_P >= MIN_POLYGON) & (num_P % 2 == 0)
    faults, predicted_tokens_C = {}, number_tokens_N
    if not is_right_P.all():
        predicted_tokens_C = number_tokens_N[is_right_P.repeat(num_P)]
        limited = last_S[ending_S == Ending.LIMIT]  # a shape that the limit cut is no fault
        is_wrong_P = (num_P > 0) & ~is_right_P
        is_over_P = num_P > (size or UNLIMITED)
        is_wrong_P[limited] &= is_over_P[limited]
        is_empty_P = num_P == 0
        is_empty_P[last_S[ending_S != Ending.DELIMITER]] = False
        shown_P = ends_P.copy()  # too few numbers show at the end, one too many at once
        shown_P[is_over_P] = number_tokens_N[first_P[is_over_P] + (size or 0)]
        faults = {"bad_count": shown_P[is_wrong_P], "stray_tokens": ends_P[is_empty_P]}
    text_X = (is_inside_T & (kinds_T == TEXT)).nonzero()[0]
    if text_X.size:
        strays_X = _stray_texts(text_X, num_before_T, opened_S, closed_S, ending_S)
        faults["stray_tokens"] = np.append(faults.get("stray_tokens", text_X[:0]), strays_X)
    if reads_text:
        is_first_P = starts_P == opened_S[segment_P]
        starts_P[is_first_P] = begun_S[segment_P[is_first_P]]
    return SegmentShapes(
        segment_A=segment_P[is_right_P],
        spans_A2=np.array([starts_P[is_right_P], ends_P[is_right_P]]).T,
        num_numbers_A=num_P[is_right_P],
        number_tokens_C=predicted_tokens_C,
        faults=faults,
    )


def _stray_texts(
    text_X: np.ndarray, num_before_T: np.ndarray, opened_S: np.ndarray, closed_S: np.ndarray, ending_S: np.ndarray
) -> np.ndarray:
    """The tokens that show text among shapes; it may only stand in front of all else, and alone, as `None` does."""
    segment_X = opened_S.searchsorted(text_X) - 1
    is_behind_X = num_before_T[text_X] > num_before_T[opened_S[segment_X]]
    beside = segment_X[~is_behind_X & (ending_S[segment_X] == Ending.DELIMITER)]
    return np.append(text_X[is_behind_X], closed_S[beside])
