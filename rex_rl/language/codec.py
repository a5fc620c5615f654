"""Writes and reads answers by their grammar, which only this file and the two readers beside it know.

```
answer  := segment (", " segment)* END
segment := <|object_ref_start|>PHRASE<|object_ref_end|><|box_start|>SHAPES<|box_end|>
SHAPES  := shape ("," shape)* | None
shape   := <x0><y0><x1><y1> | <x><y> | <x0><y0><x1><y1><x2><y2>..
```
(paper section 2.3; the released model's answers look so, with a comma and no space between shapes.) A phrase is the
category asked for; in tasks that read text, the text itself; under a visual prompt, `object_1`. Where there is
nothing to read, tasks that read text answer `None` under the category. Key points are JSON: see keypoint_reader.py.

Order: categories as asked, or texts by their first shape; shapes by ascending first coordinate, ties as annotated.

Grid: bin = round(x / width * 999), x = bin / 999 * width (grid.py). The official code floors instead, and its reward
divides by 1000; rounding halves the error (reference: mean IoU of a perfect 20 px target at 1,000 px is 0.951, not
0.905).

Axes: N shapes, K numbers of one shape, T tokens, J key points.
"""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from rewards.truth import Truth
from rex_rl.language.answer_reader import ABSENT, AnswerReader, token_table
from rex_rl.language.decision_points import DecisionPoints, find_points
from rex_rl.language.decoded import Decoded
from rex_rl.language.grid import (
    UNSEEN_BIN,
    geometry_of,
    is_in_mask,
    quantise,
    ragged,
    shapes_on_grid,
    unpadded,
)
from rex_rl.language.keypoint_reader import KeypointReader, write_keypoints
from rex_rl.language.segment_shapes import cut_shapes
from rex_rl.language.tasks import EXAMPLE_PHRASE, TASKS, Geometry, Task
from rex_rl.language.vocabulary import BOX_END, BOX_START, OBJECT_END, OBJECT_START, Vocabulary, text_of
from rex_rl.types import Record, Shapes

_NO_TOKENS = np.zeros(0, dtype=np.int64)
_NO_NAMES: Mapping[str, str] = {}


def question_of(record: Record, wording: int | None = None) -> str:
    """The user's turn about a record: its categories in their order, its visual prompt on the grid.

    The visual prompt's form is the official wrapper's: `{"object_1": ["<x0><y0><x1><y1>", ..]}`.
    """
    task, prompt = TASKS[record.task], ""
    if task.takes_examples:
        boxes_N4 = quantise(np.array(record.visual_prompt).reshape(-1, 4), record.size)
        prompt = json.dumps({EXAMPLE_PHRASE: [_written(box_4, Geometry.BOX) for box_4 in boxes_N4.tolist()]})
    return task.question(record.categories, wording, visual_prompt=prompt)


def truth_on_grid(record: Record) -> Truth:
    """A record's objects as the model should predict them, in the record's order; those that coincide are one.

    Points come with masks if every object has one that a line of the grid meets, else with boxes if every object has
    one.
    """
    task, things = TASKS[record.task], record.objects
    bins_NK = shapes_on_grid(things, task, record.size)
    more: dict[str, Any] = {}
    if task.geometry is Geometry.POINT and things:
        if all(is_in_mask(thing, (x, y)) for thing, (x, y) in zip(things, bins_NK.tolist(), strict=True)):
            more["masks"] = tuple(thing.mask for thing in things)
        elif all(thing.bbox is not None for thing in things):
            more["boxes_N4"] = quantise(geometry_of(things, Geometry.BOX), record.size)
    if task.skeleton is not None:
        more["sigmas_J"] = np.array(task.skeleton.sigmas)
    if task.geometry in (Geometry.POLYGON, Geometry.KEYPOINTS):
        more["geometry"] = task.geometry.value
    if task.reads_text:
        more["reads_text"] = True
    return Truth(record.labels, bins_NK, record.categories, **more)


def encode_answer(record: Record, categories: Sequence[str]) -> str:
    """The true answer as text, without the end token.

    Ties in the first coordinate keep the annotation's order (as the official targets do).
    """
    truth = truth_on_grid(record)
    return answer_text(truth.labels, truth.bins_NK, categories, TASKS[record.task])


def answer_text(labels: Sequence[str], bins_NK: np.ndarray, categories: Sequence[str], task: Task) -> str:
    """The answer that predicts these shapes [N, K], in the order of all answers, without the end token."""
    order = np.argsort(bins_NK[:, 0], kind="stable").tolist()
    if task.geometry is Geometry.KEYPOINTS:
        return _keypoints_text([labels[i] for i in order], bins_NK[order], categories, task)
    if task.reads_text:
        phrased = dict.fromkeys(labels[i] for i in order) or dict.fromkeys(categories)
        phrases = {text: text for text in phrased}
    else:
        phrases = dict(zip(categories, task.phrases(categories), strict=True))
    segments = []
    for label, phrase in phrases.items():
        shapes = [_written(bins_NK[i].tolist(), task.geometry) for i in order if labels[i] == label]
        body = ",".join(shapes) or ABSENT
        segments.append(f"{OBJECT_START}{phrase}{OBJECT_END}{BOX_START}{body}{BOX_END}")
    return ", ".join(segments)


def _written(bins: list[int], geometry: Geometry) -> str:
    return "".join(f"<{value}>" for value in (unpadded(bins) if geometry is Geometry.POLYGON else bins))


def _keypoints_text(labels: Sequence[str], bins_NK: np.ndarray, categories: Sequence[str], task: Task) -> str:
    instances: dict[str, Any] = {}
    for category in categories:
        rows = [row for label, row in zip(labels, bins_NK.tolist(), strict=True) if label == category]
        for number, row in enumerate(rows, start=1):
            points = [None if x == UNSEEN_BIN else (x, y) for x, y in zip(row[4::2], row[5::2], strict=True)]
            instances[f"{category}{number}"] = (row[:4], dict(zip(task.keypoints, points, strict=True)))
        if not rows:
            instances[category] = None
    return write_keypoints(instances)


class Codec:
    """Reads and writes answers in one model's token ids."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._table = token_table(vocabulary)
        self._closes_brace = np.array(["}" in text for text in self._table.texts])
        self._phrase_of = lru_cache(maxsize=4096)(self._decode_phrase)
        self._names_of = lru_cache(maxsize=4096)(self._asked_names)

    def encode(self, record: Record, categories: Sequence[str]) -> np.ndarray:
        """Token ids [T] of the true answer, the end token included."""
        return self._ended(encode_answer(record, categories))

    def encode_shapes(
        self, labels: Sequence[str], bins_NK: np.ndarray, categories: Sequence[str], *, task: Task = TASKS["detection"]
    ) -> np.ndarray:
        """Token ids [T] of the answer that predicts these shapes [N, K], the end token included."""
        return self._ended(answer_text(labels, bins_NK, categories, task))

    def _ended(self, text: str) -> np.ndarray:
        return np.array([*self._vocabulary.encode(text), self._vocabulary.answer_end_id], dtype=np.int64)

    def decode(self, tokens: Sequence[int] | np.ndarray, *, categories: Sequence[str], task: Task) -> Shapes:
        """The predictions of an answer. Never raises; see :data:`FAULTS` for what can be wrong with it."""
        return self.decode_group([tokens], categories=categories, task=task)[0]

    def decode_group(
        self,
        tokens_G: Sequence[Sequence[int] | np.ndarray],
        *,
        categories: Sequence[str],
        task: Task,
        with_marks: bool = False,
    ) -> list[Shapes]:
        """The predictions of each answer to one question."""
        return self.decode_groups([tokens_G], [categories], task=task, with_marks=with_marks)[0]

    def decode_groups(
        self,
        tokens_PG: Sequence[Sequence[Sequence[int] | np.ndarray]],
        categories_P: Sequence[Sequence[str]],
        *,
        task: Task,
        with_marks: bool = False,
    ) -> list[list[Shapes]]:
        """The predictions of each answer to some questions of one task: as one by one, but faster; with their `Marks`
        where asked for.
        """
        names_P: list[Mapping[str, str]] = [
            self._names_of(task.phrases(categories), tuple(categories)) for categories in categories_P
        ]
        names_G = [names for names, tokens_G in zip(names_P, tokens_PG, strict=True) for _ in tokens_G]
        parts_G = [np.asarray(tokens, dtype=np.int64) for tokens_G in tokens_PG for tokens in tokens_G]
        tokens_T = np.concatenate([_NO_TOKENS, *parts_G])
        tokens_at_G = [0, *accumulate(map(len, parts_G))]
        kinds = self._table.kinds(tokens_T)
        decode = self._decode_keypoints if task.geometry is Geometry.KEYPOINTS else self._decode_segments
        shapes_G = decode(tokens_T, kinds, tokens_at_G, names_G, task).shapes(
            tokens_at_G, names_G, task, with_marks=with_marks
        )
        ends_P = accumulate(map(len, tokens_PG), initial=0)
        return [shapes_G[start:end] for start, end in pairwise(ends_P)]

    def _decode_segments(
        self, tokens_T: np.ndarray, kinds: bytes, tokens_at_G: list[int], names_G: list[Mapping[str, str]], task: Task
    ) -> Decoded:
        """Read answers that follow the grammar."""
        reader = AnswerReader(tokens_T, kinds, phrase_of=self._phrase_of)
        remarks_G = [
            reader.read(at, end, _NO_NAMES if task.reads_text else names)
            for (at, end), names in zip(pairwise(tokens_at_G), names_G, strict=True)
        ]
        size = task.geometry.size
        cut = cut_shapes(reader.segments, kinds, size=size, reads_text=task.reads_text)
        bins_C = tokens_T[cut.number_tokens_C] - self._table.first_coordinate_id
        decoded = Decoded(
            remarks_G=remarks_G,
            labels=np.array(reader.labels, dtype=object)[cut.segment_A].tolist(),
            bins_AK=bins_C.reshape(-1, size) if size else ragged(bins_C, cut.num_numbers_A),
            spans_A2=cut.spans_A2,
            last_A=cut.number_tokens_C[cut.num_numbers_A.cumsum() - 1],
            shapes_at_G=cut.spans_A2[:, 0].searchsorted(tokens_at_G).tolist(),
            num_numbers=None if size else cut.num_numbers_A.tolist(),
        )
        for fault, tokens_F in cut.faults.items():
            decoded.blame(fault, tokens_F, tokens_at_G)
        return decoded

    def _decode_keypoints(
        self, tokens_T: np.ndarray, kinds: bytes, tokens_at_G: list[int], names_G: list[Mapping[str, str]], task: Task
    ) -> Decoded:
        """Read answers of a key point task; the places of their faults are not known."""
        reader = KeypointReader(task.keypoints, self._table.texts)
        places, remarks_G, shapes_at_G = self._table.places(tokens_T).tolist(), [], [0]
        for (at, end), names in zip(pairwise(tokens_at_G), names_G, strict=True):
            remarks_G.append(reader.read(places, kinds, at, end, names))
            shapes_at_G.append(len(reader.labels))
        return Decoded(
            remarks_G=remarks_G,
            labels=reader.labels,
            bins_AK=np.array(reader.bins, dtype=np.int64).reshape(-1, 4 + 2 * len(task.keypoints)),
            spans_A2=np.array([reader.starts, reader.ends], dtype=np.int64).T,
            last_A=np.array(reader.ends, dtype=np.int64) - 1,
            shapes_at_G=shapes_at_G,
        )

    def decision_points(self, tokens_G: Sequence[Sequence[int] | np.ndarray], *, task: Task) -> list[DecisionPoints]:
        """Where the decisions of each answer begin, whatever the questions."""
        tokens_T = np.concatenate([_NO_TOKENS, *[np.asarray(tokens, dtype=np.int64) for tokens in tokens_G]])
        is_json = task.geometry is Geometry.KEYPOINTS
        closes_T = self._closes_brace[self._table.places(tokens_T)] if is_json else None
        tokens_at_G = [0, *accumulate(map(len, tokens_G))]
        return find_points(self._table.kinds(tokens_T), closes_T, tokens_at_G, size=task.geometry.size)

    def ended(self, tokens_T: np.ndarray, *, task: Task) -> np.ndarray:
        """An answer that stopped behind a shape, with its list and itself ended; JSON stays open."""
        closing = [] if task.geometry is Geometry.KEYPOINTS else [self._vocabulary.id_of(BOX_END)]
        return np.append(tokens_T, [*closing, self._vocabulary.answer_end_id])

    def decode_text(self, text: str, *, categories: Sequence[str], task: Task) -> Shapes:
        """The predictions of an answer given as text; a text without the end token counts as ended."""
        ids = self._vocabulary.encode(text)
        if self._vocabulary.answer_end_id not in ids:
            ids.append(self._vocabulary.answer_end_id)
        return self.decode(ids, categories=categories, task=task)

    def _decode_phrase(self, ids: bytes) -> str:
        text = text_of("".join([self._table.texts[token_id] for token_id in np.frombuffer(ids, dtype=np.int64)]))
        return unicodedata.normalize("NFC", text).strip()

    def _asked_names(self, phrases: tuple[str, ...], categories: tuple[str, ...]) -> dict[str, str]:
        """How each phrase reads once it went through the tokenizer (NFC, no space at its ends) -> its category."""
        pairs = list(zip(phrases, categories, strict=True))
        return {
            self._decode_phrase(np.array(self._vocabulary.encode(phrase), dtype=np.int64).tobytes()): name
            for phrase, name in reversed(pairs)
        }
