"""Finds the segments of answers by the grammar of codec.py, and names what is wrong around their shapes.

Every id becomes one letter, its kind. A regular expression then finds whole segments, and only broken ones are read
delimiter by delimiter. segment_shapes.py cuts the insides of segments into shapes, for all answers at once.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from rex_rl.language.vocabulary import (
    ANSWER_END,
    BOX_END,
    BOX_START,
    NUM_BINS,
    OBJECT_END,
    OBJECT_START,
    SPACES,
    Vocabulary,
)

ABSENT = "None"
"""What stands in place of shapes for a category that is not in the image."""

FAULTS = {
    "bad_count": "a shape with the wrong number of coordinates; it is left out",
    "bad_keypoint": "a key point missing, repeated, of another name or without two coordinates; it counts as unseen",
    "swapped_corners": "a box with x1 < x0 or y1 < y0; it stays, and overlaps nothing",
    "zero_area": "a box with x1 = x0 or y1 = y0, or a polygon without area; it stays, and overlaps nothing",
    "unknown_label": "a segment for a phrase that was not asked for, or shapes without one; they stay",
    "repeated_label": "a second segment for the same phrase, or `None` beside recognised text; its shapes stay",
    "broken_segment": "a segment without its phrase, its shapes or its end delimiter; its shapes stay",
    "stray_tokens": "tokens outside the grammar; they are skipped",
    "undefined_id": "an id the tokenizer does not define; it is skipped",
    "truncated": "the answer does not end with the end token",
}
"""Every fault decoding can name. Decoding never raises: whatever a model writes becomes shapes plus faults.

A fault of form is any but swapped corners, no area, unknown and repeated labels. An answer without one follows the
grammar, apart from spaces, commas between segments and missing segments.
"""

UNDEFINED, COORDINATE, START, PHRASE_END, SHAPES_START, SHAPES_END, END, SPACE, COMMA, TEXT = b"?cOoBbE ,t"
"""The kinds of tokens in the grammar, each written as one letter."""

DELIMITER_TEXT = "\0"
"""The text of a delimiter in :attr:`TokenTable.texts`: a letter that JSON does not allow."""

_DELIMITERS = {
    OBJECT_START: START,
    OBJECT_END: PHRASE_END,
    BOX_START: SHAPES_START,
    BOX_END: SHAPES_END,
    ANSWER_END: END,
}
_DELIMITER = re.compile(rb"[OoBb]")
_SEGMENT = re.compile(rb"[ ,]*+O([t ,]*+)oB[^OoBb]*+b")
"""A segment with all its delimiters; the group is its phrase."""

# Where a reader stands: between segments, in a phrase, behind a phrase, among the shapes of a segment.
_OUTSIDE, _PHRASE, _LABELLED, _SHAPES = range(4)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTable:
    """The kinds and texts of the ids of one vocabulary."""

    kind_of: np.ndarray
    """uint8 [size + 2] kind of id i at place i + 1; the first and the last place are for ids outside."""
    texts: tuple[str, ...]
    """[size + 1] Latin-1 texts, the last one for ids outside; `<k>` is the one letter U+0100 + k, which no other text
    contains; the text of an undefined id is empty."""
    first_coordinate_id: int

    def kinds(self, tokens_T: np.ndarray) -> bytes:
        """The kind of every token, one letter each."""
        return self.kind_of.take(tokens_T + 1, mode="clip").tobytes()

    def places(self, tokens_T: np.ndarray) -> np.ndarray:
        """Where every token stands in :attr:`texts`; -1 is the last."""
        return np.clip(tokens_T, -1, len(self.texts) - 1)


def token_table(vocabulary: Vocabulary) -> TokenTable:
    """The table of a vocabulary."""
    first, texts = vocabulary.first_coordinate_id, list(vocabulary.texts)
    kind_of = np.full(vocabulary.size + 2, UNDEFINED, dtype=np.uint8)
    kind_of[1:-1] = [_kind_of(text) if text else UNDEFINED for text in texts]
    kind_of[first + 1 : first + NUM_BINS + 1] = COORDINATE
    texts[first : first + NUM_BINS] = [chr(256 + value) for value in range(NUM_BINS)]
    for delimiter, kind in _DELIMITERS.items():
        delimiter_id = vocabulary.id_of(delimiter)
        kind_of[delimiter_id + 1], texts[delimiter_id] = kind, DELIMITER_TEXT
    return TokenTable(kind_of=kind_of, texts=(*texts, ""), first_coordinate_id=first)


def _kind_of(text: str) -> int:
    stripped = text.strip(SPACES)
    if stripped == ",":
        return COMMA
    return TEXT if stripped else SPACE


@dataclass(slots=True)
class Remarks:
    """What one answer holds beside its shapes."""

    phrases: dict[int, str]
    """Token behind which a phrase is known -> the phrase."""
    absent: dict[int, str]
    """Token behind which `None` is known -> its phrase."""
    faults: dict[str, int]
    """Fault -> the first token that shows it, whatever follows."""

    def note(self, fault: str, at: int) -> None:
        """Add a fault that the token `at` shows."""
        self.faults[fault] = min(at, self.faults.get(fault, at))


class Ending(IntEnum):
    """What ends a segment: its delimiter, something that should not, or the limit of an answer's tokens."""

    DELIMITER, BREAK, LIMIT = range(3)


_DELIMITED, _BROKEN, _LIMITED = Ending
"""Looked up once: Python 3.11 takes a microsecond for a member of an Enum."""


class Segment(NamedTuple):
    """A segment with coordinates; its label is at the same place in `AnswerReader.labels`."""

    begun: int
    """The first token behind the segment before it."""
    opened: int
    """The token of the delimiter in front of its shapes."""
    closed: int
    """The token behind its shapes."""
    ending: Ending


class AnswerReader:
    """Reads answers that stand one behind the other; tokens are counted over all of them."""

    def __init__(self, tokens_T: np.ndarray, kinds: bytes, *, phrase_of: Callable[[bytes], str]) -> None:
        """`phrase_of` reads int64 ids as bytes."""
        self._tokens_T, self._kinds, self._phrase_of = tokens_T, kinds, phrase_of
        self._token_bytes = tokens_T.tobytes()
        self.segments: list[Segment] = []
        """The segments with coordinates."""
        self.labels: list[str] = []
        """The label of each segment."""

    def read(self, at: int, stop: int, names: Mapping[str, str]) -> Remarks:
        """Read the answer from token `at` to its end token, or to `stop` where it has none.

        `names` maps a phrase to the label of its shapes, where the two differ.
        """
        self._names = names
        self._state, self._phrase, self._label = _OUTSIDE, "", ""
        self._text: list[int] = []
        self._remarks = Remarks({}, {}, {})
        kinds = self._kinds
        end = kinds.find(END, at, stop)
        if end >= 0:
            stop = end
        if (undefined := kinds.find(UNDEFINED, at, stop)) >= 0:
            self._remarks.note("undefined_id", undefined)
        while at < stop:
            segment = _SEGMENT.match(kinds, at, stop)
            at = self._read_delimiters(at, stop) if segment is None else self._read_segment(segment)
        if end < 0:
            self._remarks.note("truncated", stop)
        elif self._state != _OUTSIDE:
            self._remarks.note("broken_segment", stop)
        if self._state == _SHAPES:
            self._close(stop, _LIMITED if end < 0 else _BROKEN)
        return self._remarks

    def _read_segment(self, segment: re.Match[bytes]) -> int:
        """Read a segment that has all its delimiters; returns where it ends."""
        at, behind = segment.span(1)
        self._name(self._token_bytes[8 * at : 8 * behind], behind)
        self._begun, self._opened = segment.start(), behind + 1
        self._close(segment.end() - 1, _DELIMITED)
        return segment.end()

    def _name(self, ids: bytes, at: int) -> None:
        self._phrase = phrase = self._phrase_of(ids)
        self._label = self._names.get(phrase, phrase)
        self._remarks.phrases[at] = phrase

    def _close(self, at: int, ending: Ending) -> None:
        """End a segment; without coordinates it must hold `None`."""
        if self._kinds.find(COORDINATE, self._opened, at) >= 0:
            self.segments.append(Segment(self._begun, self._opened, at, ending))
            self.labels.append(self._label)
            return
        if (comma := self._kinds.find(COMMA, self._opened, at)) >= 0:
            self._remarks.note("stray_tokens", comma)
        if ending is _DELIMITED:
            text = [i for i in range(self._opened, at) if self._kinds[i] == TEXT]
            if self._phrase_of(self._tokens_T[text].tobytes()) == ABSENT:
                self._remarks.absent[at] = self._phrase
            else:
                self._remarks.note("broken_segment", at)

    def _read_delimiters(self, at: int, stop: int) -> int:
        """Read delimiter by delimiter until a segment ends; returns where."""
        kinds, self._begun = self._kinds, at
        for delimiter in _DELIMITER.finditer(kinds, at, stop):
            place = delimiter.start()
            if place > at:
                self._read_between(at, place)
            _STEPS[kinds[place]](self, place)
            at = place + 1
            if self._state == _OUTSIDE:
                return at
        self._read_between(at, stop)
        return stop

    def _read_between(self, at: int, end: int) -> None:
        """Read what stands between two delimiters, unless it is shapes."""
        if self._state == _SHAPES:
            return
        kinds = self._kinds[at:end]
        if self._state == _PHRASE:
            if (stray := kinds.find(COORDINATE)) >= 0:
                self._remarks.note("stray_tokens", at + stray)
            self._text += [i for i, kind in enumerate(kinds, at) if kind not in b"c?"]
        elif strays := kinds.lstrip(b" ,?" if self._state == _OUTSIDE else b" ?"):
            self._remarks.note("stray_tokens", end - len(strays))

    def _object_start(self, at: int) -> None:
        if self._state == _SHAPES:
            self._close(at, _BROKEN)
            self._begun = at
        if self._state != _OUTSIDE:
            self._remarks.note("broken_segment", at)
        self._state, self._text = _PHRASE, []

    def _object_end(self, at: int) -> None:
        if self._state != _PHRASE:
            self._remarks.note("stray_tokens", at)
            return
        self._name(self._tokens_T[self._text].tobytes(), at)
        self._state = _LABELLED

    def _box_start(self, at: int) -> None:
        if self._state in (_PHRASE, _SHAPES):
            self._remarks.note("stray_tokens", at)
            return
        if self._state == _OUTSIDE:
            self._remarks.note("broken_segment", at)
        self._state, self._opened = _SHAPES, at

    def _box_end(self, at: int) -> None:
        if self._state != _SHAPES:
            self._remarks.note("stray_tokens", at)
            return
        self._close(at, _DELIMITED)
        self._state = _OUTSIDE


_STEPS: dict[int, Callable[[AnswerReader, int], None]] = {
    START: AnswerReader._object_start,
    PHRASE_END: AnswerReader._object_end,
    SHAPES_START: AnswerReader._box_start,
    SHAPES_END: AnswerReader._box_end,
}
"""What a reader does at each delimiter."""
