"""Finds the segments of answers by the grammar of codec.py, and names what is wrong around their shapes.

Every id becomes one letter, its kind, so that a regular expression finds whole segments, and only what is broken is
read mark by mark. What stands inside the segments is cut into shapes by segment_shapes.py, for all answers at once.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np

from rex_rl.vocabulary import (
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
    "broken_segment": "a segment without its phrase, its shapes or its end mark; what it says stays",
    "stray_tokens": "tokens outside the grammar; they are skipped",
    "undefined_id": "an id the tokenizer does not define; it is skipped",
    "truncated": "the answer does not end with the end token",
}
"""Every fault decoding can name. Decoding never raises: what a model says becomes shapes plus faults.

An answer without a fault of form (any but swapped corners, no area, unknown and repeated labels) follows the grammar up
to spaces, commas between segments, and segments that are missing.
"""

UNDEFINED, COORDINATE, START, PHRASE_END, SHAPES_START, SHAPES_END, END, SPACE, COMMA, TEXT = b"?cOoBbE ,t"
"""What a token is to the grammar, as the letter it is written with."""

MARK_TEXT = "\0"
"""What a mark of the grammar is in :attr:`TokenTable.texts`: nothing that JSON allows."""

_MARKS = {
    OBJECT_START: START,
    OBJECT_END: PHRASE_END,
    BOX_START: SHAPES_START,
    BOX_END: SHAPES_END,
    ANSWER_END: END,
}
_MARK = re.compile(rb"[OoBb]")
_SEGMENT = re.compile(rb"[ ,]*+O([t ,]*+)oB[^OoBb]*+b")
"""A segment with all its marks; the group is its phrase."""

# Where a reader stands: between segments, in a phrase, behind a phrase, among the shapes of a segment.
_OUTSIDE, _PHRASE, _LABELLED, _SHAPES = range(4)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTable:
    """What the ids of one vocabulary are to the grammar."""

    kind_of: np.ndarray
    """uint8 [size + 2] kind of the id at its place less one; the first and the last stand for ids outside."""
    texts: tuple[str, ...]
    """[size + 1] Latin-1 texts, the last one for ids outside; `<k>` is the one letter U+0100 + k, which no text can be
    mistaken for, and what is undefined says nothing."""
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
    for mark, kind in _MARKS.items():
        mark_id = vocabulary.id_of(mark)
        kind_of[mark_id + 1], texts[mark_id] = kind, MARK_TEXT
    return TokenTable(kind_of=kind_of, texts=(*texts, ""), first_coordinate_id=first)


def _kind_of(text: str) -> int:
    said = text.strip(SPACES)
    if said == ",":
        return COMMA
    return TEXT if said else SPACE


@dataclass(slots=True)
class Remarks:
    """What one answer says beside its shapes."""

    phrases: list[str]
    absent: list[str]
    faults: set[str]


class Ending(IntEnum):
    """What ends a segment: its mark, something that should not, or the limit of an answer's tokens."""

    MARK, BREAK, LIMIT = range(3)


_MARKED, _BROKEN, _LIMITED = Ending
"""Looked up once: Python 3.11 takes a microsecond for a member of an Enum."""


class Segment(NamedTuple):
    """Coordinates inside a segment, with what stands between them; its phrase is in `AnswerReader.labels`."""

    begun: int
    """The first token behind the segment before it."""
    opened: int
    """The token of the mark in front of its shapes."""
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
        """Those with coordinates."""
        self.labels: list[str] = []
        """Of each of the segments."""

    def read(self, at: int, stop: int, names: Mapping[str, str]) -> Remarks:
        """Read the answer from token `at` to its end token, or to `stop` where it has none.

        `names` says how a shape's label reads where it is not its phrase.
        """
        self._names = names
        self._state, self._phrase, self._label = _OUTSIDE, "", ""
        self._text: list[int] = []
        self._said = Remarks([], [], set())
        kinds = self._kinds
        end = kinds.find(END, at, stop)
        if end >= 0:
            stop = end
        if kinds.find(UNDEFINED, at, stop) >= 0:
            self._said.faults.add("undefined_id")
        while at < stop:
            segment = _SEGMENT.match(kinds, at, stop)
            at = self._read_marks(at, stop) if segment is None else self._read_segment(segment)
        if end < 0:
            self._said.faults.add("truncated")
        elif self._state != _OUTSIDE:
            self._said.faults.add("broken_segment")
        if self._state == _SHAPES:
            self._close(stop, _LIMITED if end < 0 else _BROKEN)
        return self._said

    def _read_segment(self, segment: re.Match[bytes]) -> int:
        """A segment with all its marks; returns where it ends."""
        at, behind = segment.span(1)
        self._name(self._token_bytes[8 * at : 8 * behind])
        self._begun, self._opened = segment.start(), behind + 1
        self._close(segment.end() - 1, _MARKED)
        return segment.end()

    def _name(self, ids: bytes) -> None:
        self._phrase = phrase = self._phrase_of(ids)
        self._label = self._names.get(phrase, phrase)
        self._said.phrases.append(phrase)

    def _close(self, at: int, ending: Ending) -> None:
        """What a segment says ends here; without coordinates it must say `None`."""
        if self._kinds.find(COORDINATE, self._opened, at) >= 0:
            self.segments.append(Segment(self._begun, self._opened, at, ending))
            self.labels.append(self._label)
            return
        if self._kinds.find(COMMA, self._opened, at) >= 0:
            self._said.faults.add("stray_tokens")
        if ending is _MARKED:
            text = [i for i in range(self._opened, at) if self._kinds[i] == TEXT]
            if self._phrase_of(self._tokens_T[text].tobytes()) == ABSENT:
                self._said.absent.append(self._phrase)
            else:
                self._said.faults.add("broken_segment")

    def _read_marks(self, at: int, stop: int) -> int:
        """Read mark by mark until a segment ends; returns where."""
        kinds, self._begun = self._kinds, at
        for mark in _MARK.finditer(kinds, at, stop):
            place = mark.start()
            if place > at:
                self._read_between(at, place)
            _STEPS[kinds[place]](self, place)
            at = place + 1
            if self._state == _OUTSIDE:
                return at
        self._read_between(at, stop)
        return stop

    def _read_between(self, at: int, end: int) -> None:
        """What stands between two marks, if not shapes."""
        if self._state == _SHAPES:
            return
        kinds = self._kinds[at:end]
        if self._state == _PHRASE:
            if COORDINATE in kinds:
                self._said.faults.add("stray_tokens")
            self._text += [i for i, kind in enumerate(kinds, at) if kind not in b"c?"]
        elif kinds.strip(b" ,?" if self._state == _OUTSIDE else b" ?"):
            self._said.faults.add("stray_tokens")

    def _object_start(self, at: int) -> None:
        if self._state == _SHAPES:
            self._close(at, _BROKEN)
            self._begun = at
        if self._state != _OUTSIDE:
            self._said.faults.add("broken_segment")
        self._state, self._text = _PHRASE, []

    def _object_end(self, at: int) -> None:
        if self._state != _PHRASE:
            self._said.faults.add("stray_tokens")
            return
        self._name(self._tokens_T[self._text].tobytes())
        self._state = _LABELLED

    def _box_start(self, at: int) -> None:
        if self._state in (_PHRASE, _SHAPES):
            self._said.faults.add("stray_tokens")
            return
        if self._state == _OUTSIDE:
            self._said.faults.add("broken_segment")
        self._state, self._opened = _SHAPES, at

    def _box_end(self, at: int) -> None:
        if self._state != _SHAPES:
            self._said.faults.add("stray_tokens")
            return
        self._close(at, _MARKED)
        self._state = _OUTSIDE


_STEPS: dict[int, Callable[[AnswerReader, int], None]] = {
    START: AnswerReader._object_start,
    PHRASE_END: AnswerReader._object_end,
    SHAPES_START: AnswerReader._box_start,
    SHAPES_END: AnswerReader._box_end,
}
"""What a reader does at each mark."""
