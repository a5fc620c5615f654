"""How a model's answers compare with the untouched truth: the figures of `summary.json`, defined once.

Definitions, for good:

- A box is [x0, y0, x1, y1] in pixels of the original image. A predicted box with swapped corners has IoU 0 with all.
- Pointing tasks predict points. Where this file says IoU, a point has 1 with a true box it lies in and 0 with others;
  where not all things of an image have boxes, it has its closeness to each true point on the answer grid
  (`rewards.geometry.boxes.pairwise_closeness`). A point on the true point of a box has 1 with it, and is never large.
  Masks are not looked at: a thing with a mask alone is judged by its true point.
- Of polygons it is the IoU of the areas they enclose; of key points OKS (rewards/geometry/keypoints.py), in pixels.
  `box_iou`: over the true instances, the mean IoU of their boxes with those of the instances matched at OKS 0.5; 0
  without one. An instance with key points is as large as its box.
- True shapes of one label that coincide on the answer grid are one, as in reward and training (rewards/truth.py).
- Tasks that read text have the text as label, and all texts are one category. So a box counts where its text is right
  to the letter, and a duplicate is one whatever its text. `text_similarity`: over the true boxes, the mean similarity
  (1 - edit distance / longer length) to the text of the predicted box matched at IoU 0.5 by place alone; 0 without one.
- Over several tasks each figure stands once a task as `<task>/<figure>`, and as the mean over tasks under its own name
  (`num_images`: their sum; `text_similarity` and `box_iou`: once a task only).
- Matching is one-to-one, inside one image and one label, at each IoU threshold by itself, in the order written: each
  predicted box takes the free true box with the highest IoU, if that IoU is at least the threshold (on a tie the one
  whose own numbers are nearest, then the earlier). Points in boxes all have the value 1, so none is best: as many of
  them as possible are matched.
- Precision of a category = matched / predicted, over all images together, so a box also counts as false in an image
  without that category; 0 without predictions. Recall = matched / true. Both are averaged over the categories that
  have truth in any image; boxes of a category without any truth enter neither average. F1 = 2PR / (P + R) of the two
  averages, 0 where both are 0. `f1_miou` is the mean of the F1 at 0.50, 0.55 .. 0.95.
- A predicted box repeats an earlier one of its label in the same answer where they are near each other: IoU > 0.7,
  points at most 5 bins apart, key points with a mutual OKS > 0.7. Boxes that are near and have the same nearest true
  box, or none, are duplicates (rewards/duplicates.py): in a crowd, right boxes may be near each other.
  As all figures, this is found in pixels; on the answer grid two true boxes less than a bin apart may look alike.
  `duplicate_rate` = predictions beyond the first of their group of duplicates / predicted boxes over all images,
  whatever the label (0 without predictions); `repeat_rate` the same of those that repeat an earlier one.
- `large_box_rate` = share of images with a predicted box over 95 % of the image's area.
- `parse_failure_rate` = share of answers with any fault. `mean_predictions` = predicted boxes per image.

A figure that is not defined (no true box anywhere) is NaN.

Axes: I images, E pairs (image, category), C categories, T IoU thresholds, A predicted and B true shapes of one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from rewards.geometry.boxes import BOX, paired_iou
from rewards.text import text_similarity
from rex_rl.errors import DataError
from rex_rl.evaluation.image_result import (
    ImageResult,
    areas,
    categories_of,
    distances,
    find_repeats,
    pairwise_values,
)
from rex_rl.language.tasks import TASKS, Geometry

THRESHOLDS_T = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5, 0.55 .. 0.95, rounded because 0.5 + 0.05 * 7 is 0.85 plus one bit."""
LARGE_AREA_SHARE = 0.95
_NO_IMAGES = "nothing to evaluate: 0 images, at least 1 is needed"
METRICS = (
    "f1_50",
    "f1_95",
    "f1_miou",
    "precision_50",
    "recall_50",
    "duplicate_rate",
    "repeat_rate",
    "large_box_rate",
    "parse_failure_rate",
    "mean_predictions",
    "num_images",
)
"""Keys of `evaluate` for one task, in the order of the tables."""
TEXT_SIMILARITY, BOX_IOU = "text_similarity", "box_iou"
"""One key more in tasks that read text, and in those of key points."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedImage:
    """The outcome of `match_image` at one threshold."""

    truth_of_predicted_A: np.ndarray
    """int64 [A] index of the true box each predicted box took, -1 for none."""
    is_duplicate_A: np.ndarray
    """bool [A] beyond the first of its group of duplicates; such a box may still be matched."""
    is_found_B: np.ndarray
    """bool [B] some predicted box took this true box."""


def match_image(result: ImageResult, threshold: float = 0.5) -> MatchedImage:
    """Match the predicted boxes of one image with its true boxes at one IoU threshold in (0, 1].

    >>> box = np.array([[0.0, 0.0, 10.0, 10.0]])
    >>> image = ImageResult(image_id="1", width=20, height=20, truth_labels=("cat",), truth_NK=box,
    ...                     predicted_labels=("dog", "cat", "cat"), predicted_NK=np.repeat(box, 3, axis=0), faults=())
    >>> match_image(image).truth_of_predicted_A.tolist(), match_image(image).is_duplicate_A.tolist()
    ([-1, 0, -1], [False, False, True])
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is not in (0, 1]")
    truth_of_predicted_A = _match(result, _label_iou(result), threshold)
    is_found_B = np.zeros(len(result.truth_labels), dtype=bool)
    is_found_B[truth_of_predicted_A[truth_of_predicted_A >= 0]] = True
    return MatchedImage(
        truth_of_predicted_A=truth_of_predicted_A, is_duplicate_A=find_repeats(result)[0], is_found_B=is_found_B
    )


def _label_iou(result: ImageResult) -> np.ndarray:
    """IoU [A, B] of predicted and true shapes; 0 between different labels."""
    labels_A, labels_B = (np.array(labels, dtype=object) for labels in (result.predicted_labels, result.truth_labels))
    return np.where(labels_A[:, None] == labels_B[None, :], pairwise_values(result), 0.0)


def _match(result: ImageResult, iou_AB: np.ndarray, threshold: float) -> np.ndarray:
    truth_of_predicted_A = np.full(len(iou_AB), -1, dtype=np.int64)
    free_AB = np.where(iou_AB >= threshold, iou_AB, 0.0)
    if not free_AB.size:
        return truth_of_predicted_A
    if result.geometry is Geometry.POINT and result.truth_geometry is Geometry.BOX:
        predicted_M, truth_M = linear_sum_assignment(free_AB, maximize=True)
        is_inside_M = free_AB[predicted_M, truth_M] > 0
        truth_of_predicted_A[predicted_M[is_inside_M]] = truth_M[is_inside_M]
        return truth_of_predicted_A
    for a, free_B in enumerate(free_AB):
        if free_B.max() > 0:
            tied = np.flatnonzero(free_B == free_B.max())
            b = tied[0] if len(tied) == 1 else tied[distances(result)[a, tied].argmin()]  # ties are rare
            truth_of_predicted_A[a] = b
            free_AB[:, b] = 0.0
    return truth_of_predicted_A


def _extra_figure(task: str) -> str | None:
    """The figure that only some tasks have."""
    if TASKS[task].reads_text:
        return TEXT_SIMILARITY
    return BOX_IOU if TASKS[task].geometry is Geometry.KEYPOINTS else None


def _extra_counts(result: ImageResult) -> tuple[float, int]:
    """(sum over the matched shapes, number of true shapes) of the task's own figure; both 0 where it has none."""
    figure = _extra_figure(result.task)
    if figure is None:
        return 0.0, 0
    values_AB = pairwise_values(result) if figure == TEXT_SIMILARITY else _label_iou(result)
    truth_of_predicted_A = _match(result, values_AB, THRESHOLDS_T[0])
    matched_M = np.flatnonzero(truth_of_predicted_A >= 0)
    truth_M = truth_of_predicted_A[matched_M]
    if figure == BOX_IOU:
        value_M = paired_iou(result.predicted_NK[matched_M, :BOX], result.truth_NK[truth_M, :BOX])
    else:
        texts = [result.predicted_labels[a] for a in matched_M]
        value_M = text_similarity(texts, [result.truth_labels[b] for b in truth_M])
    return sum(value_M.tolist()), len(result.truth_labels)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tally:
    """Counts that add up over images, so that a bootstrap sample is a weighting of images, not a new matching."""

    image_E: np.ndarray
    category_E: np.ndarray
    predicted_E: np.ndarray
    truth_E: np.ndarray
    matched_ET: np.ndarray
    per_image_I7: np.ndarray
    """Columns: predicted shapes, duplicates, repeats, has a large box (0 or 1), has a fault (0 or 1); then
    `_extra_counts`."""
    extra: str | None
    """The figure that only this task has."""


def _tally(results: Sequence[ImageResult]) -> _Tally:
    if not results:
        raise DataError(_NO_IMAGES)
    categories: dict[str, int] = {}
    pairs: list[tuple[int, ...]] = []
    for i, result in enumerate(results):
        iou_AB = _label_iou(result)
        is_matched_TA = np.array([_match(result, iou_AB, threshold) >= 0 for threshold in THRESHOLDS_T])
        true, predicted = (categories_of(result, of) for of in (result.truth_labels, result.predicted_labels))
        for label in dict.fromkeys(true + predicted):
            is_label_A = np.array(predicted, dtype=object) == label
            counts = (int(is_label_A.sum()), true.count(label))
            matched_T = is_matched_TA[:, is_label_A].sum(axis=1)
            pairs.append((i, categories.setdefault(label, len(categories)), *counts, *matched_T.tolist()))
    table = np.array(pairs, dtype=np.int64).reshape(-1, 4 + len(THRESHOLDS_T))
    return _Tally(
        image_E=table[:, 0],
        category_E=table[:, 1],
        predicted_E=table[:, 2],
        truth_E=table[:, 3],
        matched_ET=table[:, 4:],
        per_image_I7=np.array([_image_counts(result) for result in results], dtype=float),
        extra=_extra_figure(results[0].task),
    )


def _image_counts(result: ImageResult) -> tuple[float, ...]:
    is_large = bool((areas(result) > LARGE_AREA_SHARE * result.width * result.height).any())
    num_duplicates, num_repeats = (int(is_so_A.sum()) for is_so_A in find_repeats(result))
    num = len(result.predicted_labels)
    return num, num_duplicates, num_repeats, is_large, bool(result.faults), *_extra_counts(result)


def _figures(tally: _Tally, weight_I: np.ndarray) -> dict[str, float]:
    """The metrics with image i counted `weight_I[i]` times."""
    num_images = float(weight_I.sum())
    counts = (float(value) for value in weight_I @ tally.per_image_I7)
    predicted, duplicates, repeats, large, faulty, extra, num_true = counts
    precision_T, recall_T = _precision_recall(tally, weight_I)
    total_T = precision_T + recall_T
    f1_T = 2 * precision_T * recall_T / np.where(total_T == 0, 1.0, total_T)
    return {
        "f1_50": float(f1_T[0]),
        "f1_95": float(f1_T[-1]),
        "f1_miou": float(f1_T.mean()),
        "precision_50": float(precision_T[0]),
        "recall_50": float(recall_T[0]),
        "duplicate_rate": duplicates / predicted if predicted else 0.0,
        "repeat_rate": repeats / predicted if predicted else 0.0,
        "large_box_rate": large / num_images,
        "parse_failure_rate": faulty / num_images,
        "mean_predictions": predicted / num_images,
        "num_images": num_images,
        **({tally.extra: extra / num_true if num_true else float("nan")} if tally.extra else {}),
    }


def _precision_recall(tally: _Tally, weight_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages over categories with truth, each [T] in [0, 1]; NaN where no category has truth."""
    num_categories = int(tally.category_E.max(initial=-1)) + 1
    weight_E = weight_I[tally.image_E]

    def per_category(count_E: np.ndarray) -> np.ndarray:
        return np.bincount(tally.category_E, weights=weight_E * count_E, minlength=num_categories)

    predicted_C, truth_C = per_category(tally.predicted_E), per_category(tally.truth_E)
    has_truth_C = truth_C > 0
    if not has_truth_C.any():
        return np.full(len(THRESHOLDS_T), np.nan), np.full(len(THRESHOLDS_T), np.nan)
    matched_TC = np.stack([per_category(matched_E) for matched_E in tally.matched_ET.T])[:, has_truth_C]
    precision_TC = matched_TC / np.maximum(predicted_C[has_truth_C], 1)
    recall_TC = matched_TC / truth_C[has_truth_C]
    return precision_TC.mean(axis=1), recall_TC.mean(axis=1)


def evaluate(results: Sequence[ImageResult]) -> dict[str, float]:
    """All figures of the images, by task where there are several (definitions at the top of this file).

    Shares and F1 lie in [0, 1]. Raises `DataError` when there is no image.

    >>> box = np.array([[0.0, 0.0, 10.0, 10.0]])
    >>> image = ImageResult(image_id="1", width=20, height=20, truth_labels=("cat",), truth_NK=box,
    ...                     predicted_labels=("cat", "cat"), predicted_NK=np.repeat(box, 2, axis=0), faults=())
    >>> figures = evaluate([image])
    >>> figures["precision_50"], figures["recall_50"], figures["duplicate_rate"], round(figures["f1_miou"], 4)
    (0.5, 1.0, 0.5, 0.6667)
    """
    of_task = {task: _figures(_tally(own), np.ones(len(own))) for task, own in by_task(results).items()}
    if len(of_task) == 1:
        return next(iter(of_task.values()))
    means = {name: float(np.mean([figures[name] for figures in of_task.values()])) for name in METRICS}
    named = {f"{task}/{name}": value for task, figures in of_task.items() for name, value in figures.items()}
    return means | {"num_images": float(len(results))} | named


def by_task(results: Sequence[ImageResult]) -> dict[str, list[ImageResult]]:
    """The images of each task, in their order. Raises `DataError` when there is no image."""
    if not results:
        raise DataError(_NO_IMAGES)
    found: dict[str, list[ImageResult]] = {}
    for result in results:
        found.setdefault(result.task, []).append(result)
    return found


def bootstrap_interval(
    results: Sequence[ImageResult],
    metric_name: str,
    *,
    before: Sequence[ImageResult] | None = None,
    num_samples: int = 200,
    seed: int,
) -> tuple[float, float]:
    """The 95 % interval (2.5th and 97.5th percentile) of one metric when the images are drawn anew with replacement.

    With `before`, other answers to the same images in the same order, it is the interval of the metric's gain over
    them: each sample draws the images for both. All images are of one task. Samples in which the metric is not
    defined are left out. Raises `ValueError` for an unknown metric, no samples, other images or several tasks.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), the percentile interval of chapter 13.
    """
    known = (*METRICS, TEXT_SIMILARITY, BOX_IOU)
    if metric_name not in known:
        raise ValueError(f"unknown metric {metric_name!r}, known: {', '.join(known)}")
    if num_samples < 1:
        raise ValueError(f"num_samples {num_samples} is less than 1")
    asked = [(result.task, result.image_id) for result in results]
    if len({task for task, _ in asked}) > 1:
        raise ValueError(f"images of several tasks: {', '.join(sorted({task for task, _ in asked}))}")
    if before is not None and asked != [(result.task, result.image_id) for result in before]:
        raise ValueError("before and after are not of the same images")
    tallies, rng = (
        [_tally(answers) for answers in (results, before) if answers is not None],
        np.random.default_rng(seed),
    )
    values = []
    for _ in range(num_samples):
        drawn = rng.integers(len(results), size=len(results))
        weight_I = np.bincount(drawn, minlength=len(results)).astype(float)
        after, *start = (_figures(tally, weight_I)[metric_name] for tally in tallies)
        values.append(after - sum(start))
    defined = [value for value in values if not np.isnan(value)]
    if not defined:
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
