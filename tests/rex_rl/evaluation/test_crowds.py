"""Figures where true shapes are near each other, equal, or nested: an answer equal to the truth is perfect."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from rex_rl.evaluation.figures import evaluate
from rex_rl.evaluation.heldout import result_of
from rex_rl.evaluation.image_result import ImageResult
from rex_rl.language.codec import Codec
from rex_rl.language.tasks import TASKS
from rex_rl.types import Answer, FinishReason, Object, Point, Record

SIZE = (800, 600)
WORDS = ("exit", "exist", "taxi")
PERFECT = {"precision_50": 1, "recall_50": 1, "f1_50": 1, "f1_95": 1, "f1_miou": 1, "duplicate_rate": 0}


def crowd(rng: np.random.Generator, task: str) -> Record:
    """Up to eight things in a corner of the image, most of them a few pixels from another, some in the same place."""
    labels = WORDS if TASKS[task].reads_text else ("cat", "dog")
    objects: list[Object] = []
    corner = rng.integers(0, 200, 2)
    for _ in range(int(rng.integers(1, 9))):
        corner = corner + rng.integers(-4, 5, 2) * rng.choice([0, 1, 1, 6]) if objects else corner
        x, y = np.clip(corner, 0, 300).tolist()
        width, height = rng.integers(40, 60 if rng.random() < 0.2 else 44, 2).tolist()
        objects.append(
            Object(
                label=str(rng.choice(labels)),
                bbox=(x, y, x + width, y + height) if task != "spatial_pointing" else None,
                point=(x + 3 * rng.random(), y + 3 * rng.random()),
                polygon=((x, y), (x + width, y), (x + width, y + height)),
                keypoints=instance(rng, x, y, task),
            )
        )
    categories = ("word",) if TASKS[task].reads_text else labels
    return Record(
        id="1", image="/1.png", task=task, categories=categories, objects=tuple(objects), width=SIZE[0], height=SIZE[1],
        source="",
    )  # fmt: skip


def instance(rng: np.random.Generator, x: int, y: int, task: str) -> Mapping[str, Point | None]:
    """Key points at the same places of every instance in one corner, each time others of them seen."""
    return {
        name: (x + place, y + place) if rng.random() < 0.9 else None for place, name in enumerate(TASKS[task].keypoints)
    }


def answered_in_pixels(record: Record, codec: Codec, order: np.ndarray | None = None) -> ImageResult:
    """The record with an answer that equals its truth to the pixel."""
    tokens_T = codec.encode(record, record.categories)
    ids = {"logprobs_T": np.zeros(tokens_T.size, np.float32), "versions_T": np.zeros(tokens_T.size, np.int64)}
    result = result_of(record, Answer(tokens_T=tokens_T, finish_reason=FinishReason.STOP, **ids), codec)
    assert result.faults == ()
    shapes_NK = result.truth_NK if result.truth_points_N2 is None else result.truth_points_N2
    order = np.arange(len(shapes_NK)) if order is None else order
    labels = tuple(result.truth_labels[place] for place in order)
    return replace(result, predicted_labels=labels, predicted_NK=shapes_NK[order])


@pytest.mark.parametrize(
    "task", ["detection", "pointing", "spatial_pointing", "ocr_box", "ocr_polygon", "keypoint_person"]
)
def test_an_answer_equal_to_the_truth_is_perfect_in_any_scene(codec: Codec, task: str) -> None:
    """In any order; in crowds where nearly all of it is near something else."""
    rng, num_repeats = np.random.default_rng(0), 0.0
    for _ in range(60):
        record = crowd(rng, task)
        result = answered_in_pixels(record, codec)
        shuffled = answered_in_pixels(record, codec, rng.permutation(len(result.truth_labels)))
        for one in (result, shuffled):
            figures = evaluate([one])
            assert {name: pytest.approx(figures[name]) for name in PERFECT} == PERFECT
        num_repeats += figures["repeat_rate"] * figures["mean_predictions"]
    assert num_repeats > 10  # near each other they were


@pytest.mark.parametrize("task", ["detection", "pointing", "ocr_box", "ocr_polygon", "keypoint_person"])
def test_a_copy_in_a_crowd_is_one_duplicate(codec: Codec, task: str) -> None:
    """Whichever of the true shapes is written twice."""
    rng = np.random.default_rng(1)
    for _ in range(30):
        result = answered_in_pixels(crowd(rng, task), codec)
        num = len(result.truth_labels)
        figures = evaluate([answered_in_pixels_twice(result, int(rng.integers(num)))])
        assert figures["duplicate_rate"] == pytest.approx(1 / (num + 1))
        assert figures["repeat_rate"] >= figures["duplicate_rate"]
        assert figures["recall_50"] == 1
        assert figures["precision_50"] < 1


def answered_in_pixels_twice(result: ImageResult, place: int) -> ImageResult:
    """With one of the shapes again at the end."""
    order = [*range(len(result.predicted_labels)), place]
    labels = tuple(result.predicted_labels[i] for i in order)
    return replace(result, predicted_labels=labels, predicted_NK=result.predicted_NK[order])


def test_two_people_close_together_are_no_duplicates_but_repeat() -> None:
    """IoU 0.74. Where one of them is not there, the second box is a duplicate: nothing else tells them apart."""
    people = np.array([[0.0, 0, 100, 100], [15, 0, 115, 100]])
    both = ImageResult(
        image_id="1", width=200, height=200, truth_labels=("person",) * 2, truth_NK=people,
        predicted_labels=("person",) * 2, predicted_NK=people, faults=(),
    )  # fmt: skip
    figures = evaluate([both])
    assert (figures["duplicate_rate"], figures["repeat_rate"], figures["f1_miou"]) == (0, 0.5, pytest.approx(1))
    figures = evaluate([replace(both, truth_labels=("person",), truth_NK=people[:1])])
    assert (figures["duplicate_rate"], figures["repeat_rate"]) == (0.5, 0.5)


def test_the_box_of_key_points_is_a_figure_of_its_own(codec: Codec) -> None:
    """Right points with a box of 5 x 3 px elsewhere: found by OKS, box_iou 0; an instance not found counts 0."""
    rng = np.random.default_rng(2)
    record = replace(crowd(rng, "keypoint_person"), categories=("cat",))
    things = [
        replace(record.objects[0], label="cat", keypoints={name: (50.0, 60.0) for name in TASKS[record.task].keypoints})
    ]
    right = answered_in_pixels(replace(record, objects=tuple(things)), codec)
    assert evaluate([right])["box_iou"] == 1
    wrong_NK = right.predicted_NK.copy()
    wrong_NK[:, :4] = [700, 500, 705, 503]
    wrong = replace(right, predicted_NK=wrong_NK)
    assert (evaluate([wrong])["f1_50"], evaluate([wrong])["box_iou"]) == (1, 0)
    none = replace(right, predicted_labels=(), predicted_NK=wrong_NK[:0])
    assert evaluate([none])["box_iou"] == 0
    assert evaluate([right, none])["box_iou"] == 0.5
