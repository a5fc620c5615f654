"""The answer grammar and the coordinate grid, both ways; nothing else in the project knows either.

```
answer  := segment (", " segment)* END
segment := <|object_ref_start|>PHRASE<|object_ref_end|><|box_start|>SHAPES<|box_end|>
SHAPES  := shape ("," shape)* | None
shape   := <x0><y0><x1><y1> | <x><y>
```
(paper section 2.3; the released model's answers look so, with a comma and no space between shapes.)

Grid: bin = round(x / width * 999), x = bin / 999 * width. The official code floors instead, and its reward divides
by 1000; rounding halves the error (reference: mean IoU of a perfect 20 px target at 1,000 px is 0.951, not 0.905).

Axes: N shapes, K numbers of one shape (4 box, 2 point), T tokens.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from rex_rl.tasks import TASKS, Geometry
from rex_rl.types import Object, Record, Shapes
from rex_rl.vocabulary import (
    ANSWER_END,
    BOX_END,
    BOX_START,
    NUM_BINS,
    OBJECT_END,
    OBJECT_START,
    Vocabulary,
)

GRID_STEPS = NUM_BINS - 1
ABSENT = "None"
"""What stands in place of shapes for a category that is not in the image."""

FAULTS = {
    "bad_count": "a shape with the wrong number of coordinates; it is left out",
    "swapped_corners": "a box with x1 < x0 or y1 < y0; it stays, and overlaps nothing",
    "zero_area": "a box with x1 = x0 or y1 = y0; it stays, and overlaps nothing",
    "unknown_label": "shapes under a phrase that was not asked for; they stay",
    "repeated_label": "a second segment for the same phrase; its shapes stay",
    "stray_tokens": "tokens outside the grammar; they are skipped",
    "undefined_id": "an id the tokenizer does not define; it is skipped",
    "truncated": "the answer does not end with the end token",
}
"""Every fault decoding can name. Decoding never raises: what a model says becomes shapes plus faults."""


def quantise(pixels_NK: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels [N, K] (x, y alternating) of an image of `size` (width, height) to bins 0..999, int64.

    A box never loses its area: where two sides fall into one bin, the far one moves out by one bin, or at the
    grid's end the near one does.

    >>> quantise(np.array([[12.0, 30.0, 99.0, 140.0]]), (200, 200))
    array([[ 60, 150, 495, 699]])
    >>> quantise(np.array([[199.99, 50.0, 200.0, 50.01]]), (200, 200))
    array([[998, 250, 999, 251]])
    """
    pixels_NK = np.asarray(pixels_NK, dtype=np.float64)
    scale_K = np.resize(np.array(size, dtype=np.float64), pixels_NK.shape[1])
    bins_NK = np.rint(np.clip(pixels_NK / scale_K, 0.0, 1.0) * GRID_STEPS).astype(np.int64)
    if bins_NK.shape[1] == Geometry.BOX.value:
        near_N2, far_N2 = bins_NK[:, :2], bins_NK[:, 2:]
        flat_N2 = near_N2 == far_N2
        at_end_N2 = far_N2 == GRID_STEPS
        near_N2 -= flat_N2 & at_end_N2
        far_N2 += flat_N2 & ~at_end_N2
    return bins_NK


def dequantise(bins_NK: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bins [N, K] back to pixels of an image of `size` (width, height), float64.

    >>> dequantise(np.array([[0, 999]]), (200, 100))
    array([[  0., 100.]])
    """
    scale_K = np.resize(np.array(size, dtype=np.float64), bins_NK.shape[1])
    return bins_NK / GRID_STEPS * scale_K


def geometry_of(objects: Iterable[Object], geometry: Geometry) -> np.ndarray:
    """The objects' coordinates as float64 [N, K] pixels."""
    rows = [thing.bbox if geometry is Geometry.BOX else thing.point for thing in objects]
    return np.array(rows, dtype=np.float64).reshape(-1, geometry.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class GridTruth:
    """A record's truth as the model could say it: what rewards compare with."""

    labels: tuple[str, ...]
    bins_NK: np.ndarray
    categories: tuple[str, ...]


def truth_on_grid(record: Record) -> GridTruth:
    """A record's objects on the grid, in the record's order."""
    pixels_NK = geometry_of(record.objects, TASKS[record.task].geometry)
    return GridTruth(
        labels=tuple(thing.label for thing in record.objects),
        bins_NK=quantise(pixels_NK, record.size),
        categories=record.categories,
    )


def encode_answer(record: Record, categories: Sequence[str]) -> str:
    """The true answer as text, without the end token: `categories` in their order, shapes by ascending x0.

    Ties in x0 keep the annotation's order (as the official targets do); absent categories are `None`.
    """
    truth = truth_on_grid(record)
    order = np.argsort(truth.bins_NK[:, 0], kind="stable")
    segments = []
    for category in categories:
        shapes = ["".join(f"<{value}>" for value in truth.bins_NK[i]) for i in order if truth.labels[i] == category]
        body = ",".join(shapes) or ABSENT
        segments.append(f"{OBJECT_START}{category}{OBJECT_END}{BOX_START}{body}{BOX_END}")
    return ", ".join(segments)


class _Kind(IntEnum):
    """What a token is to the grammar."""

    UNDEFINED = 0
    COORDINATE = 1
    OBJECT_START = 2
    OBJECT_END = 3
    BOX_START = 4
    BOX_END = 5
    END = 6
    SPACE = 7
    COMMA = 8
    TEXT = 9


@dataclass(kw_only=True)
class _Draft:
    """Shapes and faults while an answer is read."""

    labels: list[str] = field(default_factory=list)
    numbers: list[list[int]] = field(default_factory=list)
    spans: list[tuple[int, int]] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    faults: set[str] = field(default_factory=set)


class Codec:
    """Reads and writes answers in one model's token ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._first = vocabulary.first_coordinate_id
        self._kinds = [_kind_of(piece) for piece in vocabulary.pieces]

    def encode(self, record: Record, categories: Sequence[str]) -> np.ndarray:
        """Token ids [T] of the true answer, the end token included."""
        ids = self._vocabulary.encode(encode_answer(record, categories))
        return np.array([*ids, self._vocabulary.answer_end_id], dtype=np.int64)

    def decode(self, tokens: Sequence[int] | np.ndarray, *, geometry: Geometry, categories: Sequence[str]) -> Shapes:
        """What an answer says. Never raises; see :data:`FAULTS` for what can be wrong with it.

        A shape ends at a comma, at the end of its segment, or at the end of the answer, so one bad shape never
        shifts the next. Its span starts at the comma before it: whoever continues a list does so for that shape.
        """
        draft = _Draft()
        ids = tokens.tolist() if isinstance(tokens, np.ndarray) else list(tokens)
        kinds = self._kinds
        defined = len(kinds)
        phrase, phrase_start, in_boxes, said_shape = "", -1, False, False
        numbers: list[int] = []
        text: list[int] = []
        start, ended = 0, False
        for at, token in enumerate(ids):
            kind = kinds[token] if 0 <= token < defined else _Kind.UNDEFINED
            if kind == _Kind.COORDINATE and in_boxes:
                numbers.append(token - self._first)
            elif kind == _Kind.COMMA and in_boxes:
                said_shape |= self._close(draft, numbers, phrase, (start, at), geometry)
                numbers, start = [], at
            elif kind == _Kind.SPACE:
                if phrase_start >= 0:
                    text.append(token)
            elif kind == _Kind.OBJECT_START:
                said_shape |= in_boxes and self._close(draft, numbers, phrase, (start, at), geometry)
                numbers, text, phrase_start, in_boxes = [], [], at, False
            elif kind == _Kind.OBJECT_END and phrase_start >= 0:
                phrase, phrase_start = self._vocabulary.decode(text).strip(), -1
                if phrase in draft.seen:
                    draft.faults.add("repeated_label")
                draft.seen.add(phrase)
            elif kind == _Kind.BOX_START and phrase_start < 0 and not in_boxes:
                in_boxes, said_shape, numbers, text, start = True, False, [], [], at
            elif kind == _Kind.BOX_END and in_boxes:
                said_shape |= self._close(draft, numbers, phrase, (start, at), geometry)
                if not said_shape and self._vocabulary.decode(text).strip() == ABSENT:
                    draft.absent.append(phrase)
                numbers, in_boxes = [], False
            elif kind == _Kind.END:
                ended = True
                break
            elif (kind == _Kind.TEXT and (phrase_start >= 0 or (in_boxes and not said_shape and not numbers))) or (kind == _Kind.COMMA and phrase_start >= 0):
                text.append(token)
            elif kind == _Kind.UNDEFINED:
                draft.faults.add("undefined_id")
            elif kind != _Kind.COMMA:
                draft.faults.add("stray_tokens")
        if in_boxes and numbers:
            self._close(draft, numbers, phrase, (start, len(ids)), geometry)
        if not ended:
            draft.faults.add("truncated")
        return self._finish(draft, geometry, categories)

    def decode_text(self, text: str, *, geometry: Geometry, categories: Sequence[str]) -> Shapes:
        """The same for an answer given as text; a text without the end token counts as ended."""
        ids = self._vocabulary.encode(text)
        if self._vocabulary.answer_end_id not in ids:
            ids.append(self._vocabulary.answer_end_id)
        return self.decode(ids, geometry=geometry, categories=categories)

    @staticmethod
    def _close(draft: _Draft, numbers: list[int], phrase: str, span: tuple[int, int], geometry: Geometry) -> bool:
        if not numbers:
            return False
        if len(numbers) != geometry.value:
            draft.faults.add("bad_count")
            return True
        draft.labels.append(phrase)
        draft.numbers.append(numbers)
        draft.spans.append(span)
        return True

    @staticmethod
    def _finish(draft: _Draft, geometry: Geometry, categories: Sequence[str]) -> Shapes:
        bins_NK = np.array(draft.numbers, dtype=np.int64).reshape(-1, geometry.value)
        if geometry is Geometry.BOX and len(bins_NK):
            sides_N2 = bins_NK[:, 2:] - bins_NK[:, :2]
            if (sides_N2 < 0).any():
                draft.faults.add("swapped_corners")
            if (sides_N2 == 0).any():
                draft.faults.add("zero_area")
        if draft.seen - set(categories):
            draft.faults.add("unknown_label")
        return Shapes(
            labels=tuple(draft.labels),
            bins_NK=bins_NK,
            spans_N2=np.array(draft.spans, dtype=np.int64).reshape(-1, 2),
            faults=tuple(sorted(draft.faults)),
            absent=tuple(draft.absent),
        )


_MARKS = {
    OBJECT_START: _Kind.OBJECT_START,
    OBJECT_END: _Kind.OBJECT_END,
    BOX_START: _Kind.BOX_START,
    BOX_END: _Kind.BOX_END,
    ANSWER_END: _Kind.END,
    "": _Kind.UNDEFINED,
    ",": _Kind.COMMA,
}
_BYTE_LEVEL_SPACES = str.maketrans("", "", "ĠĊĉč")
"""How byte-level BPE writes space, newline, tab and carriage return."""


def _kind_of(piece: str) -> _Kind:
    if piece in _MARKS:
        return _MARKS[piece]
    if piece.startswith("<") and piece.endswith(">") and piece[1:-1].isdigit() and int(piece[1:-1]) < NUM_BINS:
        return _Kind.COORDINATE
    if not piece.translate(_BYTE_LEVEL_SPACES):
        return _Kind.SPACE
    return _Kind.COMMA if piece.translate(_BYTE_LEVEL_SPACES) == "," else _Kind.TEXT
