"""Reads an answer's token ids by the grammar of codec.py into shapes, and names what is wrong with it.

Every id becomes one letter, its kind, so that a regular expression finds whole segments, and only what is broken is
read mark by mark.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from rex_rl.grid import MIN_POLYGON
from rex_rl.tasks import Geometry
from rex_rl.vocabulary import (
    ANSWER_END,
    BOX_END,
    BOX_START,
    NUM_BINS,
    OBJECT_END,
    OBJECT_START,
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

# Where a reader stands: between segments, in a phrase, behind a phrase, among the shapes of a segment.
_OUTSIDE, _PHRASE, _LABELLED, _SHAPES = range(4)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenTable:
    """What the ids of one vocabulary are to the grammar."""

    kind_of: np.ndarray
    """uint8 [size + 2] kind of the id at its place less one; the first and the last stand for ids outside."""
    texts: tuple[str, ...]
    """[size] Latin-1 texts; `<k>` is the one letter U+0100 + k, which no text can be mistaken for."""
    first_coordinate_id: int

    def kinds(self, tokens_T: np.ndarray) -> bytes:
        """The kind of every token, one letter each."""
        return self.kind_of.take(tokens_T + 1, mode="clip").tobytes()


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
    return TokenTable(kind_of=kind_of, texts=tuple(texts), first_coordinate_id=first)


def _kind_of(text: str) -> int:
    said = text.strip(" \n\t\r")
    if said == ",":
        return COMMA
    return TEXT if said else SPACE


@dataclass(slots=True)
class Remarks:
    """What one answer says beside its shapes."""

    phrases: list[str]
    absent: list[str]
    faults: dict[str, int]
    """Name -> the token it was first seen at."""
    phrase_tokens: list[int]
    """Where each phrase stands."""

    def fault(self, name: str, token: int) -> None:
        """Name a fault."""
        self.faults.setdefault(name, token)


class AnswerReader:
    """Reads answers that stand one behind the other; their shapes gather in the attributes, spans count all tokens.

    A shape ends at a comma, at the end of its segment, or at the end of the answer, so one bad shape never shifts
    the next. Its span starts at the mark or comma before it: whoever continues a list does so for that shape.
    """

    def __init__(
        self,
        geometry: Geometry,
        tokens_T: np.ndarray,
        kinds: bytes,
        *,
        phrase_of: Callable[[bytes], str],
    ) -> None:
        """`phrase_of` reads int64 ids as bytes."""
        self._size = geometry.size
        self._good_shape, self._shape, self._segment = _GRAMMAR[geometry.size]
        self._tokens_T, self._kinds, self._phrase_of = tokens_T, kinds, phrase_of
        self._token_bytes = tokens_T.tobytes()
        self.labels: list[str] = []
        self.is_said_T = bytearray(len(kinds))
        """1 at the coordinates of each shape, in their order; 0 elsewhere."""
        self.counts: list[int] = []
        """How many coordinates each shape has; only where that differs."""
        self.starts: list[int] = []
        self.ends: list[int] = []

    def read(self, at: int, stop: int, names: Mapping[str, str]) -> Remarks:
        """Read the answer from token `at` to its end token, or to `stop` where it has none.

        `names` says how a shape's label reads where it is not its phrase.
        """
        self._names = names
        self._origin, self._state, self._phrase, self._label = at, _OUTSIDE, "", ""
        self._text: list[int] = []
        self._numbers: list[int] = []
        self._said = Remarks([], [], {}, [])
        kinds = self._kinds
        end = kinds.find(END, at, stop)
        if end >= 0:
            stop = end
        if (undefined := kinds.find(UNDEFINED, at, stop)) >= 0:
            self._fault("undefined_id", undefined)
        while at < stop:
            segment = self._segment.match(kinds, at, stop)
            at = self._read_marks(at, stop) if segment is None else self._read_segment(segment)
        if end < 0:
            num = len(self._numbers)
            if self._is_right_count(num) or (self._size and num > self._size):  # one that the limit cut is no fault
                self._close_shape(stop)
            self._fault("truncated", stop)
        elif self._state != _OUTSIDE:
            self._close_shape(stop)
            self._fault("broken_segment", stop)
        return self._said

    def _read_segment(self, segment: re.Match[bytes]) -> int:
        """A segment with all its marks; returns where it ends."""
        end = segment.end()
        at, behind = segment.span(1)
        self._name(at, self._token_bytes[8 * at : 8 * behind])
        first = segment.start(2)
        if first >= 0:
            shape, step = self._shape, len(self._shape)
            num = (end - first) // step
            self.is_said_T[first:end] = shape * num
            self.starts += range(first - 1, end - 1, step)
            self.ends += range(first - 1 + step, end, step)
            self.labels += [self._label] * num
        else:
            first = segment.start(3)
            self._state, self._start, self._text, self._says_shape = _SHAPES, first - 1, [], False
            self._read_shapes(first, end - 1)
            self._box_end(end - 1)
        return end

    def _name(self, at: int, ids: bytes) -> None:
        self._phrase = phrase = self._phrase_of(ids)
        self._label = self._names.get(phrase, phrase)
        self._said.phrases.append(phrase)
        self._said.phrase_tokens.append(at - self._origin)

    def _read_marks(self, at: int, stop: int) -> int:
        """Read mark by mark until a segment ends; returns where."""
        kinds = self._kinds
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
        """What stands between two marks."""
        if self._state == _SHAPES:
            self._read_shapes(at, end)
            return
        kinds = self._kinds[at:end]
        if self._state == _PHRASE:
            if COORDINATE in kinds:
                self._fault("stray_tokens", at)
            self._text += [i for i, kind in enumerate(kinds, at) if kind not in b"c?"]
        elif kinds.strip(b" ,?" if self._state == _OUTSIDE else b" ?"):
            self._fault("stray_tokens", at)

    def _read_shapes(self, at: int, end: int) -> None:
        """What stands between two marks of a segment: shapes that commas end, and one that is still open."""
        good_shape = self._good_shape
        *ended, still_open = self._kinds[at:end].split(b",")
        for part in ended:
            comma = at + len(part)
            if part == good_shape and not self._numbers:  # as `_close_shape` does, but all at once
                self._says_shape = True
                self.is_said_T[at : comma + 1] = self._shape
                self.labels.append(self._label)
                self.starts.append(self._start)
                self.ends.append(comma)
            else:
                self._read_numbers(at, part)
                if not self._numbers:
                    self._fault("stray_tokens", comma)
                self._close_shape(comma)
            self._start, at = comma, comma + 1
        if still_open:
            self._read_numbers(at, still_open)

    def _read_numbers(self, at: int, part: bytes) -> None:
        """Coordinates of one shape; text belongs in front of everything else that a segment says, as `None` does."""
        if part.count(COORDINATE) == len(part):
            self._numbers += range(at, at + len(part))
            return
        begun = self._says_shape or self._numbers
        for i, kind in enumerate(part, at):
            if kind == COORDINATE:
                self._numbers.append(i)
                begun = True
            elif kind == TEXT:
                if begun:
                    self._fault("stray_tokens", i)
                else:
                    self._text.append(i)

    def _fault(self, name: str, at: int) -> None:
        self._said.fault(name, at - self._origin)

    def _object_start(self, at: int) -> None:
        if self._state == _SHAPES:
            self._close_shape(at)
        if self._state != _OUTSIDE:
            self._fault("broken_segment", at)
        self._state, self._text = _PHRASE, []

    def _object_end(self, at: int) -> None:
        if self._state != _PHRASE:
            self._fault("stray_tokens", at)
            return
        self._name(at, self._tokens_T[self._text].tobytes())
        self._state = _LABELLED

    def _box_start(self, at: int) -> None:
        if self._state in (_PHRASE, _SHAPES):
            self._fault("stray_tokens", at)
            return
        if self._state == _OUTSIDE:
            self._fault("broken_segment", at)
        self._state, self._text, self._start, self._says_shape = _SHAPES, [], at, False

    def _box_end(self, at: int) -> None:
        if self._state != _SHAPES:
            self._fault("stray_tokens", at)
            return
        behind_comma = self._says_shape and not self._numbers
        self._close_shape(at)
        if not self._says_shape:
            self._close_empty(at)
        elif behind_comma or self._text:
            self._fault("stray_tokens", at)
        self._state = _OUTSIDE

    def _close_shape(self, end: int) -> None:
        numbers = self._numbers
        if not numbers:
            return
        self._numbers, self._says_shape = [], True
        if not self._is_right_count(len(numbers)):
            self._fault("bad_count", numbers[0])
            return
        if self._size is None:
            self.counts.append(len(numbers))
        for place in numbers:
            self.is_said_T[place] = 1
        self.labels.append(self._label)
        self.starts.append(self._start)
        self.ends.append(end)

    def _is_right_count(self, num: int) -> bool:
        return num == self._size if self._size else num >= MIN_POLYGON and num % 2 == 0

    def _close_empty(self, at: int) -> None:
        """A segment without a shape must say `None`."""
        if self._phrase_of(self._tokens_T[self._text].tobytes()) == ABSENT:
            self._said.absent.append(self._phrase)
        else:
            self._fault("broken_segment", at)


_STEPS: dict[int, Callable[[AnswerReader, int], None]] = {
    START: AnswerReader._object_start,
    PHRASE_END: AnswerReader._object_end,
    SHAPES_START: AnswerReader._box_start,
    SHAPES_END: AnswerReader._box_end,
}
"""What a reader does at each mark."""


def _grammar(size: int | None) -> tuple[bytes, bytes, re.Pattern[bytes]]:
    """Of shapes of `size` numbers: the kinds of a good one, which of its tokens and the next are said, a segment.

    The pattern is a segment with all its marks: phrase, then nothing but good shapes, or whatever else it says. Every
    polygon is looked at, so there no shape is known to be good.
    """
    shape = b"c" * (size or 0)
    shapes = rb"(?:%b,)*+%b" % (shape, shape) if size else rb"(?!)"
    segment = re.compile(rb"[ ,]*+O([t ,]*+)oB(?:(%b)b|([^OoBb]*+)b)" % shapes)
    return shape or b"O", b"\1" * len(shape) + b"\0", segment


_GRAMMAR = {size: _grammar(size) for size in (Geometry.POINT.size, Geometry.BOX.size, None)}
