"""The answer grammar, both ways; nothing else but the two readers beside it knows it.

```
answer  := segment (", " segment)* END
segment := <|object_ref_start|>PHRASE<|object_ref_end|><|box_start|>SHAPES<|box_end|>
SHAPES  := shape ("," shape)* | None
shape   := <x0><y0><x1><y1> | <x><y> | <x0><y0><x1><y1><x2><y2>..
```
(paper section 2.3; the released model's answers look so, with a comma and no space between shapes.) A phrase is the
category asked for, in tasks that read text the text itself, and under a visual prompt `object_1`. Where there is
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
from operator import eq, ge, gt
from typing import Any

import numpy as np

from rewards.records import Truth
from rewards.terms import TRUNCATED
from rex_rl.answer_reader import ABSENT, FAULTS, AnswerReader, Remarks, token_table
from rex_rl.grid import (
    GRID_STEPS,
    UNSEEN_BIN,
    dequantise,
    doubled_areas,
    geometry_of,
    is_in_mask,
    objects_of,
    padded,
    quantise,
    shapes_on_grid,
    unpadded,
)
from rex_rl.keypoint_reader import KeypointReader, write_keypoints
from rex_rl.tasks import EXAMPLE_PHRASE, TASKS, Geometry, Task
from rex_rl.types import Record, Shapes
from rex_rl.vocabulary import BOX_END, BOX_START, OBJECT_END, OBJECT_START, Vocabulary, text_of

__all__ = [
    "ABSENT",
    "FAULTS",
    "GRID_STEPS",
    "UNSEEN_BIN",
    "Codec",
    "answer_text",
    "dequantise",
    "encode_answer",
    "geometry_of",
    "objects_of",
    "quantise",
    "question_of",
    "truth_on_grid",
]

_POINT, _BOX, _POLYGON, _KEYPOINTS = Geometry
UNKNOWN_TOKEN = -1
"""Where a fault stands that is not known to stand anywhere."""
"""Looked up once: Python 3.11 takes a microsecond for a member of an Enum."""
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
    """A record's objects as the model should say them, in the record's order.

    Texts are as a tokenizer gives them back: NFC, without space at their ends. Points come with their objects' masks
    where all have one that a line of the grid meets, else with their boxes where all have one.
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
    return Truth(_labels(record, task), bins_NK, record.categories, **more)


def encode_answer(record: Record, categories: Sequence[str]) -> str:
    """The true answer as text, without the end token.

    Ties in the first coordinate keep the annotation's order (as the official targets do).
    """
    task = TASKS[record.task]
    bins_NK = shapes_on_grid(record.objects, task, record.size)
    return answer_text(_labels(record, task), bins_NK, categories, task)


def answer_text(labels: Sequence[str], bins_NK: np.ndarray, categories: Sequence[str], task: Task) -> str:
    """The answer that says these shapes [N, K], in the order of all answers, without the end token."""
    order = np.argsort(bins_NK[:, 0], kind="stable").tolist()
    if task.geometry is Geometry.KEYPOINTS:
        return _keypoints_text([labels[i] for i in order], bins_NK[order], categories, task)
    if task.reads_text:
        said = dict.fromkeys(labels[i] for i in order) or dict.fromkeys(categories)
        phrases = {text: text for text in said}
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


def _labels(record: Record, task: Task) -> tuple[str, ...]:
    if not task.reads_text:
        return tuple(thing.label for thing in record.objects)
    return tuple(unicodedata.normalize("NFC", thing.label).strip() for thing in record.objects)


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
        self._phrase_of = lru_cache(maxsize=4096)(self._decode_phrase)
        self._names_of = lru_cache(maxsize=4096)(self._asked_names)

    def encode(self, record: Record, categories: Sequence[str]) -> np.ndarray:
        """Token ids [T] of the true answer, the end token included."""
        return self._ended(encode_answer(record, categories))

    def encode_shapes(
        self, labels: Sequence[str], bins_NK: np.ndarray, categories: Sequence[str], *, task: Task = TASKS["detection"]
    ) -> np.ndarray:
        """Token ids [T] of the answer that says these shapes [N, K], the end token included."""
        return self._ended(answer_text(labels, bins_NK, categories, task))

    def _ended(self, text: str) -> np.ndarray:
        return np.array([*self._vocabulary.encode(text), self._vocabulary.answer_end_id], dtype=np.int64)

    def decode(
        self,
        tokens: Sequence[int] | np.ndarray,
        *,
        categories: Sequence[str],
        task: Task,
    ) -> Shapes:
        """What an answer says. Never raises; see :data:`FAULTS` for what can be wrong with it."""
        names = self._names_of(task.phrases(categories), tuple(categories))
        tokens_T = np.asarray(tokens, dtype=np.int64)
        kinds = self._table.kinds(tokens_T)
        if task.geometry is _KEYPOINTS:
            return self._keypoints(tokens_T, kinds, task, names)
        reader = self._reader(task, tokens_T, kinds, names)
        said = reader.read(0, len(kinds))
        bins, spans_N2 = self._bins(reader, tokens_T), _spans(reader)
        bins_NK = (
            _polygons(bins, reader.counts) if task.geometry is _POLYGON else bins.reshape(-1, task.geometry.size or 1)
        )
        return _shapes(tuple(reader.labels), bins_NK, spans_N2, said, names, task)

    def decode_group(
        self, tokens_G: Sequence[Sequence[int] | np.ndarray], *, categories: Sequence[str], task: Task
    ) -> list[Shapes]:
        """What each of the answers to one question says: the same as one by one, in half the time."""
        if task.geometry.size is None:
            return [self.decode(tokens, categories=categories, task=task) for tokens in tokens_G]
        names = self._names_of(task.phrases(categories), tuple(categories))
        parts_G = [np.asarray(tokens, dtype=np.int64) for tokens in tokens_G]
        tokens_T = np.concatenate([_NO_TOKENS, *parts_G])
        reader = self._reader(task, tokens_T, self._table.kinds(tokens_T), names)
        said_G, shapes_G = [], [0]
        for at, end in pairwise([0, *accumulate(map(len, parts_G))]):
            said_G.append(reader.read(at, end))
            shapes_G.append(len(reader.labels))
        bins_AK, spans_A2 = self._bins(reader, tokens_T).reshape(-1, task.geometry.size), _spans(reader)
        return [
            _shapes(tuple(reader.labels[at:end]), bins_AK[at:end], spans_A2[at:end], said, names, task)
            for (at, end), said in zip(pairwise(shapes_G), said_G, strict=True)
        ]

    def _reader(self, task: Task, tokens_T: np.ndarray, kinds: bytes, names: Mapping[str, str]) -> AnswerReader:
        label_of = _NO_NAMES if task.reads_text else names
        return AnswerReader(task.geometry, tokens_T, kinds, phrase_of=self._phrase_of, names=label_of)

    def _bins(self, reader: AnswerReader, tokens_T: np.ndarray) -> np.ndarray:
        """The numbers of all shapes that were read, one behind the other."""
        return np.asarray(tokens_T[np.frombuffer(reader.is_said_T, dtype=np.bool_)] - self._table.first_coordinate_id)

    def _keypoints(self, tokens_T: np.ndarray, kinds: bytes, task: Task, names: Mapping[str, str]) -> Shapes:
        """What an answer of a key point task says."""
        reader = KeypointReader(task.keypoints, self._table, names)
        reader.read(tokens_T.tolist(), kinds)
        bins_NK = np.array(reader.bins, dtype=np.int64).reshape(-1, 4 + 2 * len(task.keypoints))
        phrases = [*dict.fromkeys(reader.labels), *reader.absent]
        nowhere = dict.fromkeys(reader.faults, UNKNOWN_TOKEN)
        said = Remarks(phrases, reader.absent, nowhere, [UNKNOWN_TOKEN] * len(phrases))
        labels = tuple(names.get(label, label) for label in reader.labels)
        return _shapes(labels, bins_NK, _spans(reader), said, names, task)

    def decode_text(self, text: str, *, categories: Sequence[str], task: Task) -> Shapes:
        """The same for an answer given as text; a text without the end token counts as ended."""
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


def _spans(reader: AnswerReader | KeypointReader) -> np.ndarray:
    return np.array([reader.starts, reader.ends], dtype=np.int64).T


def _polygons(bins: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Polygons of `counts` numbers each that stand one behind the other, as [N, K]."""
    numbers = bins.tolist()
    return padded([numbers[at:end] for at, end in pairwise([0, *accumulate(counts)])]).astype(np.int64)


def _shapes(
    labels: tuple[str, ...],
    bins_NK: np.ndarray,
    spans_N2: np.ndarray,
    said: Remarks,
    names: Mapping[str, str],
    task: Task,
) -> Shapes:
    """One answer; what its phrases and its areas should not be is named here."""
    phrases, faults = said.phrases, said.faults
    if task.reads_text:  # any text can be right, and only `None` belongs to what was asked: then it stands alone
        phrases = said.absent
        is_repeated = len(phrases) + bool(labels) > 1
        if "" in labels:
            said.fault("broken_segment", int(spans_N2[labels.index(""), 0]))
    else:
        is_repeated = len(set(phrases)) < len(phrases)
        if "broken_segment" in faults and "" in labels and "" not in names:  # shapes in front of every phrase
            said.fault("unknown_label", int(spans_N2[labels.index(""), 0]))
    if is_repeated:
        said.fault("repeated_label", _second_token(said))
    for phrase, token in zip(said.phrases, said.phrase_tokens, strict=True):
        if phrase in phrases and phrase not in names:
            said.fault("unknown_label", token)
    if labels and task.geometry is not _POINT:
        for fault, shape in _area_faults(bins_NK, task.geometry).items():
            said.fault(fault, int(spans_N2[shape, 0]))
    return Shapes(
        labels=labels,
        bins_NK=bins_NK,
        spans_N2=spans_N2,
        faults=tuple(sorted(faults)) if faults else (),
        absent=tuple([names.get(phrase, phrase) for phrase in said.absent]) if said.absent else (),
        fault_token=min((token for fault, token in faults.items() if fault != TRUNCATED), default=UNKNOWN_TOKEN),
    )


def _second_token(said: Remarks) -> int:
    """Where a phrase stands that was said before, else the last one."""
    seen: set[str] = set()
    for phrase, token in zip(said.phrases, said.phrase_tokens, strict=True):
        if phrase in seen:
            return token
        seen.add(phrase)
    return said.phrase_tokens[-1] if said.phrase_tokens else UNKNOWN_TOKEN


def _area_faults(bins_NK: np.ndarray, geometry: Geometry) -> dict[str, int]:
    """Polygons that have no area, and boxes (the first four numbers of other shapes) with less than that, and the
    first shape of each kind.
    """
    if geometry is _POLYGON:
        has_area_N = doubled_areas(bins_NK).astype(bool)
        return {} if has_area_N.all() else {"zero_area": int(has_area_N.argmin())}
    x0, y0, x1, y1, *_ = bins_NK.T.tolist()  # as lists: most answers have few boxes
    if not (any(map(ge, x0, x1)) or any(map(ge, y0, y1))):
        return {}
    found = {}
    for fault, is_so in (("swapped_corners", gt), ("zero_area", eq)):
        shapes = [*map(is_so, x0, x1)], [*map(is_so, y0, y1)]
        if first := [side.index(True) for side in shapes if True in side]:
            found[fault] = min(first)
    return found
