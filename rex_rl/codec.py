"""The answer grammar and the coordinate grid, both ways; nothing else but answer_reader.py knows either.

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
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rex_rl.answer_reader import ABSENT, FAULTS, AnswerReader, kinds_of
from rex_rl.tasks import TASKS, Geometry
from rex_rl.types import Object, Record, Shapes
from rex_rl.vocabulary import BOX_END, BOX_START, NUM_BINS, OBJECT_END, OBJECT_START, Vocabulary

__all__ = [
    "ABSENT",
    "FAULTS",
    "GRID_STEPS",
    "Codec",
    "GridTruth",
    "dequantise",
    "encode_answer",
    "geometry_of",
    "quantise",
    "truth_on_grid",
]

GRID_STEPS = NUM_BINS - 1


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


class Codec:
    """Reads and writes answers in one model's token ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._kinds = kinds_of(vocabulary)
        self._phrase_of = lru_cache(maxsize=4096)(self._decode_phrase)
        self._names_of = lru_cache(maxsize=4096)(self._asked_names)

    def encode(self, record: Record, categories: Sequence[str]) -> np.ndarray:
        """Token ids [T] of the true answer, the end token included."""
        ids = self._vocabulary.encode(encode_answer(record, categories))
        return np.array([*ids, self._vocabulary.answer_end_id], dtype=np.int64)

    def decode(self, tokens: Sequence[int] | np.ndarray, *, geometry: Geometry, categories: Sequence[str]) -> Shapes:
        """What an answer says. Never raises; see :data:`FAULTS` for what can be wrong with it."""
        reader = AnswerReader(geometry, self._kinds, self._phrase_of)
        reader.read(tokens.tolist() if isinstance(tokens, np.ndarray) else tokens)
        names = self._names_of(tuple(categories))
        if not (names.keys() >= reader.phrases and names.keys() >= set(reader.labels)):
            reader.faults.add("unknown_label")
        return Shapes(
            labels=tuple([names.get(label, label) for label in reader.labels]),
            bins_NK=np.array(reader.flat_bins, dtype=np.int64).reshape(-1, geometry.value),
            spans_N2=np.array(reader.flat_spans, dtype=np.int64).reshape(-1, 2),
            faults=tuple(sorted(reader.faults)),
            absent=tuple([names.get(label, label) for label in reader.absent]),
        )

    def decode_text(self, text: str, *, geometry: Geometry, categories: Sequence[str]) -> Shapes:
        """The same for an answer given as text; a text without the end token counts as ended."""
        ids = self._vocabulary.encode(text)
        if self._vocabulary.answer_end_id not in ids:
            ids.append(self._vocabulary.answer_end_id)
        return self.decode(ids, geometry=geometry, categories=categories)

    def _decode_phrase(self, token_ids: tuple[int, ...]) -> str:
        return self._vocabulary.decode(list(token_ids)).strip()

    def _asked_names(self, categories: tuple[str, ...]) -> dict[str, str]:
        """How each category reads once it went through the tokenizer (NFC, no space at its ends) -> its own name."""
        return {self._decode_phrase(tuple(self._vocabulary.encode(name))): name for name in reversed(categories)}
