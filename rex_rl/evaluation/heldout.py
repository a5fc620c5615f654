"""Held-out evaluation: greedy answers of the rollout workers, compared with the untouched truth.

Every evaluation leaves its answers in `samples/STAGE_000010.jsonl`, which the report draws from.
"""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rex_rl.data.stream import evaluation_prompts
from rex_rl.errors import DataError
from rex_rl.evaluation.figures import evaluate
from rex_rl.evaluation.image_result import ImageResult
from rex_rl.interfaces import RolloutPool
from rex_rl.language.codec import Codec, truth_on_grid
from rex_rl.language.grid import MIN_POLYGON, dequantise, geometry_of
from rex_rl.language.tasks import TASKS, Geometry, Task
from rex_rl.run.folder import RunFolder, write_whole
from rex_rl.types import Answer, Record, Sampling

logger = logging.getLogger(__name__)


class HeldOut:
    """The held-out records of a run and the workers that answer them."""

    def __init__(
        self, pool: RolloutPool, records: Sequence[Record], codec: Codec, *, max_answer_tokens: int, run: RunFolder
    ) -> None:
        self._pool, self._records, self._codec, self._run = pool, records, codec, run
        self._max_answer_tokens = max_answer_tokens
        self.figures: dict[str, float] = {}
        """The newest evaluation's."""

    def evaluate(self, stage: str, step: int) -> dict[str, float]:
        """The figures (see figures.py) of the weights the workers serve now; the answers go to `samples/`."""
        with self._run.timed(f"{stage}_eval"):
            results = answer_greedily(self._pool, self._records, self._codec, max_answer_tokens=self._max_answer_tokens)
            file = self._run.folder / "samples" / f"{stage}_{step:06d}.jsonl"
            try:
                write_samples(file, self._records, results)
            except OSError as error:
                logger.warning("%s: cannot be written: %s; the run goes on", file, error.strerror)
            self.figures = evaluate(results)
        return self.figures


def answer_greedily(
    pool: RolloutPool, records: Sequence[Record], codec: Codec, *, max_answer_tokens: int
) -> list[ImageResult]:
    """One greedy answer to every record, in order."""
    sampling = Sampling(num_answers=1, temperature=0.0, max_tokens=max_answer_tokens, seed=0)
    tickets = [pool.submit(prompt, sampling) for prompt in evaluation_prompts(records)]
    groups = [pool.result(ticket) for ticket in tickets]
    return [result_of(record, group.answers[0], codec) for record, group in zip(records, groups, strict=True)]


def result_of(record: Record, answer: Answer, codec: Codec) -> ImageResult:
    """A record and the predictions of its answer, in pixels."""
    task = TASKS[record.task]
    shapes = codec.decode(answer.tokens_T, task=task, categories=record.categories)
    truth = truth_on_grid(record)
    objects = [record.objects[place] for place in truth.places_B]
    geometry = _judged_by(record)
    return ImageResult(
        image_id=record.id,
        width=record.width,
        height=record.height,
        truth_labels=truth.labels,
        truth_NK=geometry_of(objects, geometry, len(task.keypoints)),
        predicted_labels=shapes.labels,
        predicted_NK=dequantise(shapes.bins_NK, record.size),
        faults=shapes.faults,
        task=task.name,
        truth_points_N2=None if geometry is task.geometry else geometry_of(objects, task.geometry),
    )


def _judged_by(record: Record) -> Geometry:
    """The geometry of the task, but boxes where points are asked for and all things have one."""
    geometry = TASKS[record.task].geometry
    has_boxes = geometry is Geometry.POINT and all(thing.bbox is not None for thing in record.objects)
    return Geometry.BOX if has_boxes else geometry


def write_samples(file: Path, records: Sequence[Record], results: Sequence[ImageResult]) -> None:
    """One JSON line an image: its path, truth and predictions. Unrounded: a point at a box's edge could move out."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        {
            "id": result.image_id,
            "image": record.image,
            "width": result.width,
            "height": result.height,
            "task": result.task,
            "truth": _truth(result),
            "said": _shapes(result.predicted_labels, result.predicted_NK, result.geometry),
            "faults": list(result.faults),
        }
        for record, result in zip(records, results, strict=True)
    ]
    write_whole(file, "".join(json.dumps(line) + "\n" for line in lines))


def read_samples(file: Path) -> list[tuple[str, ImageResult]]:
    """(image path, result) of every line that :func:`write_samples` wrote; raises DataError for another."""
    try:
        return [(line["image"], _result(line)) for line in map(json.loads, file.read_text().splitlines())]
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
        raise DataError(f"{file}: is not what an evaluation left: {type(error).__name__}: {error}") from error


def last_samples(run: Path, stage: str) -> list[tuple[str, ImageResult]]:
    """What a stage's last evaluation left in a run's folder; nothing where there was none."""
    files = sorted((run / "samples").glob(f"{stage}_*.jsonl"))
    return read_samples(files[-1]) if files else []


_KEYS = {Geometry.BOX: "bbox", Geometry.POINT: "point", Geometry.POLYGON: "polygon", Geometry.KEYPOINTS: "instance"}
"""The key of a shape's numbers in a sample."""


def _shapes(labels: Sequence[str], shapes_NK: np.ndarray, geometry: Geometry) -> list[dict[str, object]]:
    return [
        {"label": label, _KEYS[geometry]: [None if math.isnan(value) else value for value in shape]}
        for label, shape in zip(labels, shapes_NK.tolist(), strict=True)
    ]


def _truth(result: ImageResult) -> list[dict[str, object]]:
    shapes = _shapes(result.truth_labels, result.truth_NK, result.truth_geometry)
    if result.truth_points_N2 is None:
        return shapes
    return [
        {**shape, _KEYS[Geometry.POINT]: point}
        for shape, point in zip(shapes, result.truth_points_N2.tolist(), strict=True)
    ]


def _result(line: dict[str, Any]) -> ImageResult:
    truth, predicted, task = line["truth"], line["said"], TASKS[line["task"]]
    return ImageResult(
        image_id=line["id"],
        width=line["width"],
        height=line["height"],
        truth_labels=tuple(shape["label"] for shape in truth),
        truth_NK=_pixels(truth, task),
        predicted_labels=tuple(shape["label"] for shape in predicted),
        predicted_NK=_pixels(predicted, task),
        faults=tuple(line["faults"]),
        task=task.name,
        truth_points_N2=_points(truth),
    )


def _points(shapes: Sequence[dict[str, Any]]) -> np.ndarray | None:
    """[N, 2] the points that stand beside boxes; None without."""
    keys = _KEYS[Geometry.BOX], _KEYS[Geometry.POINT]
    if not all(key in shape for shape in shapes for key in keys):
        return None
    return np.array([shape[keys[1]] for shape in shapes], dtype=np.float64).reshape(-1, 2)


def _pixels(shapes: Sequence[dict[str, Any]], task: Task) -> np.ndarray:
    """[N, K] as :func:`_shapes` wrote them."""
    rows = [next(shape[key] for key in _KEYS.values() if key in shape) for shape in shapes]
    return np.array(rows, dtype=np.float64) if rows else np.zeros((0, task.num_numbers or MIN_POLYGON))
