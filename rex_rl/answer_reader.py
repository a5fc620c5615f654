"""Reads an answer's token ids by the grammar of codec.py into shapes, and names what is wrong with it."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rex_rl.tasks import Geometry
from rex_rl.vocabulary import ANSWER_END, BOX_END, BOX_START, NUM_BINS, OBJECT_END, OBJECT_START, Vocabulary

ABSENT = "None"
"""What stands in place of shapes for a category that is not in the image."""

FAULTS = {
    "bad_count": "a shape with the wrong number of coordinates; it is left out",
    "swapped_corners": "a box with x1 < x0 or y1 < y0; it stays, and overlaps nothing",
    "zero_area": "a box with x1 = x0 or y1 = y0; it stays, and overlaps nothing",
    "unknown_label": "a segment for a phrase that was not asked for, or shapes without one; they stay",
    "repeated_label": "a second segment for the same phrase; its shapes stay",
    "broken_segment": "a segment without its phrase, its shapes or its end mark; what it says stays",
    "stray_tokens": "tokens outside the grammar; they are skipped",
    "undefined_id": "an id the tokenizer does not define; it is skipped",
    "truncated": "the answer does not end with the end token",
}
"""Every fault decoding can name. Decoding never raises: what a model says becomes shapes plus faults.

An answer without a fault of form (any but swapped corners, no area, unknown and repeated labels) follows the grammar up
to spaces, commas between segments, and segments that are missing.
"""

# What a token is to the grammar. Plain integers: comparing members of an IntEnum took more time than all else here.
_UNDEFINED, _COORDINATE, _OBJECT_START, _OBJECT_END, _BOX_START, _BOX_END, _END, _SPACE, _COMMA, _TEXT = range(10)

# Where a reader stands: between segments, in a phrase, behind a phrase, among the shapes of a segment.
_OUTSIDE, _PHRASE, _LABELLED, _SHAPES = range(4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kinds:
    """What the ids of one vocabulary are to the grammar; an id that is not in `of_id` is undefined."""

    of_id: Mapping[int, int]
    first_coordinate_id: int


class AnswerReader:
    """Reads one answer token by token into shapes and faults.

    A shape ends at a comma, at the end of its segment, or at the end of the answer, so one bad shape never shifts
    the next. Its span starts at the mark or comma before it: whoever continues a list does so for that shape.
    """

    def __init__(self, geometry: Geometry, kinds: Kinds, phrase_of: Callable[[tuple[int, ...]], str]) -> None:
        self._size, self._kinds, self._phrase_of = geometry.value, kinds, phrase_of
        self._state, self._start, self._phrase = _OUTSIDE, 0, ""
        self._text: list[int] = []
        self._numbers: list[int] = []
        self._says_shape = False
        self.labels: list[str] = []
        self.flat_bins: list[int] = []
        self.flat_spans: list[int] = []
        self.absent: list[str] = []
        self.phrases: set[str] = set()
        self.faults: set[str] = set()

    def read(self, ids: Iterable[int]) -> None:
        """Read an answer up to its end token; what it says is in the attributes then."""
        kinds, first = self._kinds.of_id, self._kinds.first_coordinate_id
        at = -1
        for at, token in enumerate(ids):
            kind = kinds.get(token, _UNDEFINED)
            if kind == _COORDINATE and self._state == _SHAPES:
                self._numbers.append(token - first)
            elif kind == _END:
                self._end(at)
                return
            else:
                _STEPS[kind](self, at, token)
        if self._state == _SHAPES and len(self._numbers) >= self._size:  # one that the limit cut is no second fault
            self._close_shape(at + 1)
        self.faults.add("truncated")

    def _end(self, at: int) -> None:
        if self._state == _SHAPES:
            self._close_shape(at)
        if self._state != _OUTSIDE:
            self.faults.add("broken_segment")

    def _undefined(self, at: int, token: int) -> None:
        self.faults.add("undefined_id")

    def _stray(self, at: int, token: int) -> None:
        self.faults.add("stray_tokens")

    def _object_start(self, at: int, token: int) -> None:
        if self._state == _SHAPES:
            self._close_shape(at)
        if self._state != _OUTSIDE:
            self.faults.add("broken_segment")
        self._state, self._text = _PHRASE, []

    def _object_end(self, at: int, token: int) -> None:
        if self._state != _PHRASE:
            self._stray(at, token)
            return
        self._phrase = self._phrase_of(tuple(self._text))
        if self._phrase in self.phrases:
            self.faults.add("repeated_label")
        self.phrases.add(self._phrase)
        self._state = _LABELLED

    def _box_start(self, at: int, token: int) -> None:
        if self._state in (_PHRASE, _SHAPES):
            self._stray(at, token)
            return
        if self._state == _OUTSIDE:
            self.faults.add("broken_segment")
        self._state, self._text, self._start, self._says_shape = _SHAPES, [], at, False

    def _box_end(self, at: int, token: int) -> None:
        if self._state != _SHAPES:
            self._stray(at, token)
            return
        behind_comma = self._says_shape and not self._numbers
        self._close_shape(at)
        if not self._says_shape:
            self._close_empty()
        elif behind_comma or self._text:
            self.faults.add("stray_tokens")
        self._state = _OUTSIDE

    def _space(self, at: int, token: int) -> None:
        if self._state == _PHRASE:
            self._text.append(token)

    def _comma(self, at: int, token: int) -> None:
        if self._state == _PHRASE:
            self._text.append(token)
        elif self._state == _SHAPES:
            if not self._numbers:
                self.faults.add("stray_tokens")
            self._close_shape(at)
            self._start = at
        elif self._state == _LABELLED:
            self._stray(at, token)

    def _word(self, at: int, token: int) -> None:
        begun = self._says_shape or self._numbers
        if self._state == _PHRASE or (self._state == _SHAPES and not begun):
            self._text.append(token)
        else:
            self._stray(at, token)

    def _close_shape(self, end: int) -> None:
        numbers = self._numbers
        if not numbers:
            return
        self._numbers, self._says_shape = [], True
        if len(numbers) != self._size:
            self.faults.add("bad_count")
            return
        if self._size == Geometry.BOX.value:
            self._check_sides(*numbers)
        self.labels.append(self._phrase)
        self.flat_bins += numbers
        self.flat_spans += (self._start, end)

    def _close_empty(self) -> None:
        """A segment without a shape must say `None`."""
        if self._phrase_of(tuple(self._text)) == ABSENT:
            self.absent.append(self._phrase)
        else:
            self.faults.add("broken_segment")

    def _check_sides(self, x0: int, y0: int, x1: int, y1: int) -> None:
        if x1 < x0 or y1 < y0:
            self.faults.add("swapped_corners")
        if x1 == x0 or y1 == y0:
            self.faults.add("zero_area")


_STEPS = {
    _UNDEFINED: AnswerReader._undefined,
    _COORDINATE: AnswerReader._stray,
    _OBJECT_START: AnswerReader._object_start,
    _OBJECT_END: AnswerReader._object_end,
    _BOX_START: AnswerReader._box_start,
    _BOX_END: AnswerReader._box_end,
    _SPACE: AnswerReader._space,
    _COMMA: AnswerReader._comma,
    _TEXT: AnswerReader._word,
}
"""What a reader does at each kind of token that is no coordinate in its place and no end."""

_MARKS = {
    OBJECT_START: _OBJECT_START,
    OBJECT_END: _OBJECT_END,
    BOX_START: _BOX_START,
    BOX_END: _BOX_END,
    ANSWER_END: _END,
}
_BYTE_LEVEL_SPACES = str.maketrans("", "", "ĠĊĉč")
"""How byte-level BPE writes space, newline, tab and carriage return."""


def kinds_of(vocabulary: Vocabulary) -> Kinds:
    """The kinds of a vocabulary's ids."""
    first = vocabulary.first_coordinate_id
    of_id = {token_id: _kind_of(piece) for token_id, piece in enumerate(vocabulary.pieces) if piece}
    return Kinds(
        of_id=of_id | dict.fromkeys(range(first, first + NUM_BINS), _COORDINATE),
        first_coordinate_id=first,
    )


def _kind_of(piece: str) -> int:
    if piece in _MARKS:
        return _MARKS[piece]
    text = piece.translate(_BYTE_LEVEL_SPACES)
    if text == ",":
        return _COMMA
    return _TEXT if text else _SPACE
