"""Figures of points, polygons and key points, and of several tasks together."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rex_rl.evaluation.figures import evaluate
from rex_rl.evaluation.image_result import ImageResult


def pointed(truth_NK: list[list[float]], predicted_N2: list[list[float]]) -> ImageResult:
    """Points of one label in an image of 999 x 1998 px: a bin is 1 px wide and 2 px high."""
    return ImageResult(
        image_id="1", width=999, height=1998, task="pointing", faults=(),
        truth_labels=("cat",) * len(truth_NK), truth_NK=np.array(truth_NK),
        predicted_labels=("cat",) * len(predicted_N2), predicted_NK=np.array(predicted_N2).reshape(-1, 2),
    )  # fmt: skip


def test_a_point_is_right_in_a_true_box_and_counts_once() -> None:
    """Three points: two in the one box, one outside both; f1 is the same at every threshold."""
    boxes = [[0.0, 0.0, 100.0, 100.0], [500.0, 0.0, 600.0, 100.0]]
    figures = evaluate([pointed(boxes, [[0.0, 100.0], [50.0, 50.0], [50.0, 500.0]])])
    assert (figures["precision_50"], figures["recall_50"]) == (pytest.approx(1 / 3), 0.5)
    assert figures["f1_miou"] == pytest.approx(figures["f1_95"]) == pytest.approx(0.4)
    assert figures["duplicate_rate"] == figures["large_box_rate"] == 0
    assert evaluate([pointed(boxes, [])])["f1_50"] == 0


def test_every_point_counts_that_has_a_box_of_its_own() -> None:
    """The first point lies in both boxes, the second in the first alone: in the order written it would be left over."""
    boxes = [[0.0, 0.0, 100.0, 100.0], [10.0, 40.0, 40.0, 60.0]]
    assert evaluate([pointed(boxes, [[25.0, 50.0], [50.0, 50.0]])])["f1_50"] == 1


def test_points_are_near_by_bins_and_closeness_counts_where_there_is_no_box() -> None:
    """8 px up are 4 bins: a duplicate, with the value 1 - 4 / 50 = 0.92, which is enough at 0.5 and not at 0.95."""
    figures = evaluate([pointed([[100.0, 100.0]], [[100.0, 108.0], [100.0, 100.0]])])
    assert figures["duplicate_rate"] == 0.5
    assert (figures["recall_50"], figures["precision_50"]) == (1, 0.5)
    assert evaluate([pointed([[100.0, 100.0]], [[100.0, 108.0]])])["f1_95"] == 0
    assert evaluate([pointed([[100.0, 100.0]], [[100.0, 112.0]])])["duplicate_rate"] == 0


def test_polygons_are_compared_by_the_areas_they_enclose() -> None:
    """A square and its lower half (IoU 1/2), which counts at 0.5 alone; a second square is a duplicate, whichever
    vertex comes first."""
    square, turned = [0.0, 0, 10, 0, 10, 10, 0, 10], [10.0, 10, 0, 10, 0, 0, 10, 0]
    half = [0.0, 0, 10, 0, 10, 5, 0, 5]

    def of(*predicted: list[float]) -> dict[str, float]:
        result = ImageResult(
            image_id="1", width=10, height=10, task="ocr_polygon", faults=(), truth_labels=("AB",),
            truth_NK=np.array([square]), predicted_labels=("AB",) * len(predicted),
            predicted_NK=np.array(predicted).reshape(-1, 8),
        )  # fmt: skip
        return evaluate([result])

    assert (of(turned)["f1_miou"], of(turned)["large_box_rate"]) == (1, 1)
    assert of(half)["f1_50"] == 1
    assert of(half)["f1_miou"] == pytest.approx(0.1)
    assert of(square, turned)["duplicate_rate"] == 0.5
    assert (of(square, half)["duplicate_rate"], of(half)["large_box_rate"]) == (0, 0)
    assert of()["f1_50"] == 0


def test_key_points_are_compared_by_oks() -> None:
    """Of three visible key points two are predicted exactly and one as unseen: OKS 2/3 counts up to 0.65. Predictions
    of key points that are unseen in the truth do not count. A second instance like it is a duplicate."""
    unseen = [math.nan] * 2
    truth = [0.0, 0, 100, 100, 20, 20, 50, 50, 80, 80, *unseen * 14]
    predicted = [0.0, 0, 50, 50, 20, 20, 50, 50, *unseen, 7, 7, *unseen * 13]

    def of(*instances: list[float]) -> dict[str, float]:
        result = ImageResult(
            image_id="1", width=100, height=100, task="keypoint_person", faults=(), truth_labels=("person",),
            truth_NK=np.array([truth]), predicted_labels=("person",) * len(instances),
            predicted_NK=np.array(instances).reshape(-1, 38),
        )  # fmt: skip
        return evaluate([result])

    assert (of(truth)["f1_miou"], of(truth)["large_box_rate"]) == (1, 1)
    assert of(predicted)["f1_miou"] == pytest.approx(0.4)
    assert of(predicted)["large_box_rate"] == 0
    assert of(truth, truth)["duplicate_rate"] == 0.5
    assert of()["recall_50"] == 0


def test_several_tasks_have_figures_each_and_their_mean() -> None:
    missed = replace(pointed([[0.0, 0.0, 9.0, 9.0]], []), task="detection", predicted_NK=np.zeros((0, 4)))
    found = replace(missed, predicted_labels=missed.truth_labels, predicted_NK=missed.truth_NK)
    results = [found, pointed([[0.0, 0.0, 9.0, 9.0]], []), missed]
    figures = evaluate(results)
    assert figures["detection/f1_50"] == evaluate([results[0], results[2]])["f1_50"] == pytest.approx(2 / 3)
    assert figures["pointing/f1_50"] == 0
    assert figures["f1_50"] == pytest.approx(1 / 3)
    assert [figures[name] for name in ("num_images", "detection/num_images", "pointing/num_images")] == [3, 2, 1]
