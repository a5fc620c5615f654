"""How a model's answers compare with the untouched truth: the figures of `summary.json`, defined once.

Definitions, for good:

- A box is [x0, y0, x1, y1] in pixels of the original image. A said box whose corners are swapped has IoU 0 with all.
- Matching is one-to-one, inside one image and one label, at each IoU threshold by itself, in the order written: each
  said box takes the free true box with which its IoU is highest, if that IoU is at least the threshold (the earlier
  true box on a tie).
- Precision of a category = matched / said, over all images together, so that a box also counts as false in an image
  without that category; 0 where nothing was said. Recall = matched / true. Both are averaged over the categories that
  have truth in any image; boxes of a category without any truth enter neither average. F1 = 2PR / (P + R) of the two
  averages, 0 where both are 0. `f1_miou` is the mean of the F1 at 0.50, 0.55 .. 0.95.
- A said box is a duplicate when an earlier one of its label in the same answer overlaps it with IoU > 0.7.
  `duplicate_rate` = duplicates / said boxes over all images, whatever the label (0 where nothing was said).
- `large_box_rate` = share of images with a said box over 95 % of the image's area.
- `parse_failure_rate` = share of answers with any fault. `mean_predictions` = said boxes per image.

A figure that is not defined (no true box anywhere) is NaN.

Axes: I images, E pairs (image, label), C categories, T IoU thresholds, A said boxes and B true boxes of one image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewards.geometry import pairwise_iou
from rex_rl.errors import DataError

THRESHOLDS_T = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""0.5, 0.55 .. 0.95, rounded because 0.5 + 0.05 * 7 is 0.85 plus one bit."""
DUPLICATE_IOU = 0.7
LARGE_AREA_SHARE = 0.95
METRICS = (
    "f1_50",
    "f1_95",
    "f1_miou",
    "precision_50",
    "recall_50",
    "duplicate_rate",
    "large_box_rate",
    "parse_failure_rate",
    "mean_predictions",
    "num_images",
)
"""Keys of `evaluate_detections`, in the order of the tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """One image: its true boxes and what one answer said, as written.

    `ImageResult(image_id="42", width=640, height=480, truth_labels=("cat",), truth_N4=np.array([[8., 8., 90., 70.]]),
    said_labels=("cat", "dog"), said_N4=np.array([[9., 8., 91., 70.], [0., 0., 5., 5.]]), faults=())`
    """

    image_id: str
    width: int
    """Pixels of the original image."""
    height: int
    truth_labels: tuple[str, ...]
    truth_N4: np.ndarray
    """float [N, 4] pixels, untouched by the codec."""
    said_labels: tuple[str, ...]
    said_N4: np.ndarray
    """float [N, 4] pixels in the order written; corners may be swapped."""
    faults: tuple[str, ...]
    """Named faults of the answer; empty when it is well formed."""

    def __post_init__(self) -> None:
        """Raise `ValueError` when boxes and labels do not belong together."""
        for name, labels, boxes_N4 in (
            ("truth", self.truth_labels, self.truth_N4),
            ("said", self.said_labels, self.said_N4),
        ):
            if boxes_N4.shape != (len(labels), 4):
                raise ValueError(
                    f"{name}_N4 of image {self.image_id} must be ({len(labels)}, 4) but is {boxes_N4.shape}"
                )


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchedImage:
    """The outcome of `match_image` at one threshold."""

    truth_of_said_A: np.ndarray
    """int64 [A] index of the true box each said box took, -1 for none."""
    is_duplicate_A: np.ndarray
    """bool [A] an earlier said box of the label overlaps it with IoU > 0.7; such a box may still be matched."""
    is_found_B: np.ndarray
    """bool [B] some said box took this true box."""


def match_image(result: ImageResult, threshold: float = 0.5) -> MatchedImage:
    """Match the said boxes of one image with its true boxes at one IoU threshold in (0, 1].

    >>> box = np.array([[0.0, 0.0, 10.0, 10.0]])
    >>> image = ImageResult(image_id="1", width=20, height=20, truth_labels=("cat",), truth_N4=box,
    ...                     said_labels=("dog", "cat", "cat"), said_N4=np.repeat(box, 3, axis=0), faults=())
    >>> match_image(image).truth_of_said_A.tolist(), match_image(image).is_duplicate_A.tolist()
    ([-1, 0, -1], [False, False, True])
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is not in (0, 1]")
    iou_AB = _label_iou(result.said_labels, result.said_N4, result.truth_labels, result.truth_N4)
    truth_of_said_A = _match(iou_AB, threshold)
    is_found_B = np.zeros(len(result.truth_labels), dtype=bool)
    is_found_B[truth_of_said_A[truth_of_said_A >= 0]] = True
    return MatchedImage(truth_of_said_A=truth_of_said_A, is_duplicate_A=_find_duplicates(result), is_found_B=is_found_B)


def _label_iou(
    labels_A: Sequence[str], boxes_A4: np.ndarray, labels_B: Sequence[str], boxes_B4: np.ndarray
) -> np.ndarray:
    """IoU [A, B] in [0, 1]; 0 between boxes of different labels."""
    is_same_AB = np.array(labels_A, dtype=object)[:, None] == np.array(labels_B, dtype=object)[None, :]
    return np.where(is_same_AB, pairwise_iou(boxes_A4, boxes_B4), 0.0)


def _match(iou_AB: np.ndarray, threshold: float) -> np.ndarray:
    truth_of_said_A = np.full(len(iou_AB), -1, dtype=np.int64)
    free_AB = np.where(iou_AB >= threshold, iou_AB, 0.0)
    if not free_AB.size:
        return truth_of_said_A
    for a, free_B in enumerate(free_AB):
        b = int(free_B.argmax())
        if free_B[b] > 0:
            truth_of_said_A[a] = b
            free_AB[:, b] = 0.0
    return truth_of_said_A


def _find_duplicates(result: ImageResult) -> np.ndarray:
    iou_AA = _label_iou(result.said_labels, result.said_N4, result.said_labels, result.said_N4)
    return np.asarray((np.tril(iou_AA, k=-1) > DUPLICATE_IOU).any(axis=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tally:
    """Counts that add up over images, so that a bootstrap sample is a weighting of images, not a new matching."""

    image_E: np.ndarray
    category_E: np.ndarray
    said_E: np.ndarray
    truth_E: np.ndarray
    matched_ET: np.ndarray
    per_image_I4: np.ndarray
    """Columns: said boxes, duplicates, has a large box (0 or 1), has a fault (0 or 1)."""


def _tally(results: Sequence[ImageResult]) -> _Tally:
    if not results:
        raise DataError("nothing to evaluate: 0 images, at least 1 is needed")
    categories: dict[str, int] = {}
    pairs: list[tuple[int, ...]] = []
    for i, result in enumerate(results):
        iou_AB = _label_iou(result.said_labels, result.said_N4, result.truth_labels, result.truth_N4)
        is_matched_TA = np.array([_match(iou_AB, threshold) >= 0 for threshold in THRESHOLDS_T])
        said_labels_A = np.array(result.said_labels, dtype=object)
        for label in dict.fromkeys(result.truth_labels + result.said_labels):
            is_label_A = said_labels_A == label
            counts = (int(is_label_A.sum()), result.truth_labels.count(label))
            matched_T = is_matched_TA[:, is_label_A].sum(axis=1)
            pairs.append((i, categories.setdefault(label, len(categories)), *counts, *matched_T.tolist()))
    table = np.array(pairs, dtype=np.int64).reshape(-1, 4 + len(THRESHOLDS_T))
    return _Tally(
        image_E=table[:, 0],
        category_E=table[:, 1],
        said_E=table[:, 2],
        truth_E=table[:, 3],
        matched_ET=table[:, 4:],
        per_image_I4=np.array([_image_counts(result) for result in results], dtype=float),
    )


def _image_counts(result: ImageResult) -> tuple[int, int, bool, bool]:
    sides_A2 = np.clip(result.said_N4[:, 2:] - result.said_N4[:, :2], 0, None)
    is_large_A = sides_A2.prod(axis=1) > LARGE_AREA_SHARE * result.width * result.height
    return (
        len(result.said_labels),
        int(_find_duplicates(result).sum()),
        bool(is_large_A.any()),
        bool(result.faults),
    )


def _figures(tally: _Tally, weight_I: np.ndarray) -> dict[str, float]:
    """The metrics with image i counted `weight_I[i]` times."""
    num_images = float(weight_I.sum())
    said, duplicates, large, faulty = (float(value) for value in weight_I @ tally.per_image_I4)
    precision_T, recall_T = _precision_recall(tally, weight_I)
    total_T = precision_T + recall_T
    f1_T = 2 * precision_T * recall_T / np.where(total_T == 0, 1.0, total_T)
    return {
        "f1_50": float(f1_T[0]),
        "f1_95": float(f1_T[-1]),
        "f1_miou": float(f1_T.mean()),
        "precision_50": float(precision_T[0]),
        "recall_50": float(recall_T[0]),
        "duplicate_rate": duplicates / said if said else 0.0,
        "large_box_rate": large / num_images,
        "parse_failure_rate": faulty / num_images,
        "mean_predictions": said / num_images,
        "num_images": num_images,
    }


def _precision_recall(tally: _Tally, weight_I: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages over categories with truth, each [T] in [0, 1]; NaN where no category has truth."""
    num_categories = int(tally.category_E.max(initial=-1)) + 1
    weight_E = weight_I[tally.image_E]

    def per_category(count_E: np.ndarray) -> np.ndarray:
        return np.bincount(tally.category_E, weights=weight_E * count_E, minlength=num_categories)

    said_C, truth_C = per_category(tally.said_E), per_category(tally.truth_E)
    has_truth_C = truth_C > 0
    if not has_truth_C.any():
        return np.full(len(THRESHOLDS_T), np.nan), np.full(len(THRESHOLDS_T), np.nan)
    matched_TC = np.stack([per_category(matched_E) for matched_E in tally.matched_ET.T])[:, has_truth_C]
    precision_TC = matched_TC / np.maximum(said_C[has_truth_C], 1)
    recall_TC = matched_TC / truth_C[has_truth_C]
    return precision_TC.mean(axis=1), recall_TC.mean(axis=1)


def evaluate_detections(results: Sequence[ImageResult]) -> dict[str, float]:
    """All figures of `METRICS` over the images (definitions at the top of this file).

    Shares and F1 lie in [0, 1]. Raises `DataError` when there is no image.

    >>> box = np.array([[0.0, 0.0, 10.0, 10.0]])
    >>> image = ImageResult(image_id="1", width=20, height=20, truth_labels=("cat",), truth_N4=box,
    ...                     said_labels=("cat", "cat"), said_N4=np.repeat(box, 2, axis=0), faults=())
    >>> figures = evaluate_detections([image])
    >>> figures["precision_50"], figures["recall_50"], figures["duplicate_rate"], round(figures["f1_miou"], 4)
    (0.5, 1.0, 0.5, 0.6667)
    """
    return _figures(_tally(results), np.ones(len(results)))


def bootstrap_interval(
    results: Sequence[ImageResult], metric_name: str, *, num_samples: int = 200, seed: int
) -> tuple[float, float]:
    """The 95 % interval (2.5th and 97.5th percentile) of one metric when the images are drawn anew with replacement.

    Samples in which the metric is not defined are left out. Raises `ValueError` for an unknown metric or no samples.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), the percentile interval of chapter 13.
    """
    if metric_name not in METRICS:
        raise ValueError(f"unknown metric {metric_name!r}, known: {', '.join(METRICS)}")
    if num_samples < 1:
        raise ValueError(f"num_samples {num_samples} is less than 1")
    tally, rng = _tally(results), np.random.default_rng(seed)
    values = []
    for _ in range(num_samples):
        drawn = rng.integers(len(results), size=len(results))
        weight_I = np.bincount(drawn, minlength=len(results)).astype(float)
        values.append(_figures(tally, weight_I)[metric_name])
    defined = [value for value in values if not np.isnan(value)]
    if not defined:
        return float("nan"), float("nan")
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)
