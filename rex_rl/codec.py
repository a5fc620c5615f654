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

UNKNOWN_TOKEN = -1
"""Where a fault stands that is not known to stand anywhere."""
_BOX, _POLYGON, _KEYPOINTS = Geometry.BOX, Geometry.POLYGON, Geometry.KEYPOINTS
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

    def decode(self, tokens: Sequence[int] | np.ndarray, *, categories: Sequence[str], task: Task) -> Shapes:
        """What an answer says. Never raises; see :data:`FAULTS` for what can be wrong with it."""
        return self.decode_group([tokens], categories=categories, task=task)[0]

    def decode_group(
        self, tokens_G: Sequence[Sequence[int] | np.ndarray], *, categories: Sequence[str], task: Task
    ) -> list[Shapes]:
        """What each of the answers to one question says."""
        return self.decode_groups([tokens_G], [categories], task=task)[0]

    def decode_groups(
        self,
        tokens_PG: Sequence[Sequence[Sequence[int] | np.ndarray]],
        categories_P: Sequence[Sequence[str]],
        *,
        task: Task,
    ) -> list[list[Shapes]]:
        """What each of the answers to some questions of one task says: as one by one, but faster."""
        names_P: list[Mapping[str, str]] = [
            self._names_of(task.phrases(categories), tuple(categories)) for categories in categories_P
        ]
        names_G = [names for names, tokens_G in zip(names_P, tokens_PG, strict=True) for _ in tokens_G]
        parts_G = [np.asarray(tokens, dtype=np.int64) for tokens_G in tokens_PG for tokens in tokens_G]
        tokens_T = np.concatenate([_NO_TOKENS, *parts_G])
        tokens_at_G = [0, *accumulate(map(len, parts_G))]
        kinds = self._table.kinds(tokens_T)
        read = self._read_keypoints if task.geometry is _KEYPOINTS else self._read
        shapes_G = read(tokens_T, kinds, tokens_at_G, names_G, task)
        ends_P = accumulate(map(len, tokens_PG), initial=0)
        return [shapes_G[start:end] for start, end in pairwise(ends_P)]

    def _read(
        self, tokens_T: np.ndarray, kinds: bytes, tokens_at_G: list[int], names_G: list[Mapping[str, str]], task: Task
    ) -> list[Shapes]:
        reader = AnswerReader(task.geometry, tokens_T, kinds, phrase_of=self._phrase_of)
        said_G, shapes_at_G = [], [0]
        for (at, end), names in zip(pairwise(tokens_at_G), names_G, strict=True):
            said_G.append(reader.read(at, end, _NO_NAMES if task.reads_text else names))
            shapes_at_G.append(len(reader.labels))
        bins = tokens_T[np.frombuffer(reader.is_said_T, dtype=np.bool_)] - self._table.first_coordinate_id
        spans_A2 = np.array([reader.starts, reader.ends], dtype=np.int64).T
        spans_A2 -= np.array(tokens_at_G[:-1], dtype=np.int64).repeat(np.diff(shapes_at_G))[:, None]
        if task.geometry is _POLYGON:
            numbers_at_A = [0, *accumulate(reader.counts)]
            bins_GNK = [
                _polygons(bins[numbers_at_A[at] : numbers_at_A[end]], reader.counts[at:end])
                for at, end in pairwise(shapes_at_G)
            ]
            is_odd_G = [True] * len(said_G)
        else:
            bins_AK = bins.reshape(-1, task.geometry.size or 1)
            bins_GNK = [bins_AK[at:end] for at, end in pairwise(shapes_at_G)]
            is_odd_A = (bins_AK[:, :2] >= bins_AK[:, -2:]).any(axis=1) & (task.geometry is _BOX)
            num_odd_A = np.append(0, is_odd_A.cumsum())
            is_odd_G = (np.diff(num_odd_A[shapes_at_G]) > 0).tolist()
        return [
            _shapes(tuple(reader.labels[at:end]), bins_NK, spans_A2[at:end], said, names, task, is_odd=is_odd)
            for (at, end), bins_NK, said, names, is_odd in zip(
                pairwise(shapes_at_G), bins_GNK, said_G, names_G, is_odd_G, strict=True
            )
        ]

    def _read_keypoints(
        self, tokens_T: np.ndarray, kinds: bytes, tokens_at_G: list[int], names_G: list[Mapping[str, str]], task: Task
    ) -> list[Shapes]:
        return [
            self._keypoints(tokens_T[at:end], kinds[at:end], task, names)
            for (at, end), names in zip(pairwise(tokens_at_G), names_G, strict=True)
        ]

    def _keypoints(self, tokens_T: np.ndarray, kinds: bytes, task: Task, names: Mapping[str, str]) -> Shapes:
        """What an answer of a key point task says."""
        reader = KeypointReader(task.keypoints, self._table, names)
        reader.read(tokens_T.tolist(), kinds)
        bins_NK = np.array(reader.bins, dtype=np.int64).reshape(-1, 4 + 2 * len(task.keypoints))
        phrases = [*dict.fromkeys(reader.labels), *reader.absent]
        nowhere = dict.fromkeys(reader.faults, UNKNOWN_TOKEN)
        said = Remarks(phrases, reader.absent, nowhere, [UNKNOWN_TOKEN] * len(phrases))
        labels = tuple(names.get(label, label) for label in reader.labels)
        spans_N2 = np.array([reader.starts, reader.ends], dtype=np.int64).T
        return _shapes(labels, bins_NK, spans_N2, said, names, task, is_odd=True)

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
    *,
    is_odd: bool,
) -> Shapes:
    """One answer; what its phrases and its areas should not be is named here. `is_odd`: an area may be so."""
    phrases, faults = said.phrases, said.faults
    if task.reads_text:  # any text can be right, and only `None` belongs to what was asked: then it stands alone
        phrases = said.absent
        is_repeated = len(phrases) + bool(labels) > 1
        if "" in labels:
            said.fault("broken_segment", int(spans_N2[labels.index(""), 0]))
        if "broken_segment" in faults and "" in phrases and "" not in names:  # `None` in front of every phrase
            said.fault("unknown_label", faults["broken_segment"])
    else:
        is_repeated = len(set(phrases)) < len(phrases)
        if "broken_segment" in faults and "" in labels and "" not in names:  # shapes in front of every phrase
            said.fault("unknown_label", int(spans_N2[labels.index(""), 0]))
    if is_repeated:
        said.fault("repeated_label", _second_token(said))
    for phrase, token in zip(said.phrases, said.phrase_tokens, strict=True):
        if phrase in phrases and phrase not in names:
            said.fault("unknown_label", token)
    if labels and is_odd:
        for fault, shape in _area_faults(bins_NK, task.geometry).items():
            said.fault(fault, int(spans_N2[shape, 0]))
    return Shapes(
        labels=labels,
        bins_NK=bins_NK,
        spans_N2=spans_N2,
        faults=tuple(sorted(faults)) if faults else (),
        absent=tuple([names.get(phrase, phrase) for phrase in said.absent]) if said.absent else (),
        fault_token=min((at for fault, at in faults.items() if fault != TRUNCATED), default=UNKNOWN_TOKEN)
        if faults
        else UNKNOWN_TOKEN,
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
    found = {}
    for fault, is_so in (("swapped_corners", np.greater), ("zero_area", np.equal)):
        shapes = np.flatnonzero(is_so(bins_NK[:, :2], bins_NK[:, 2:4]).any(axis=1))
        if len(shapes):
            found[fault] = int(shapes[0])
    return found
