"""The value of a predicted shape for a true one, and which predictions are near each other, geometry by geometry.

Axes: G answers to the P prompts of one task, A predicted shapes of all of them, one answer after the other, B true
shapes of all prompts, L pairs, K numbers a shape has.

| geometry | value of a pair, in [0, 1] | near |
|---|---|---|
| box | IoU | IoU > 0.7 |
| point | 1 inside the true mask or box or on the true point, else 0; closeness without either | <= 5 bins apart |
| polygon | IoU of the areas | IoU > 0.7 |
| key points | mean of OKS and IoU of the boxes | mutual OKS > 0.7 |

A shape that has a value above 0 for any truth is near its exact duplicate; the laws rest on this (matching.py). A true
point is a hit on itself, as rounding to the grid may move it out of a thin mask: so every record has a perfect answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import shapely

from rewards.geometry.boxes import (
    BOX,
    BoolArray,
    FloatArray,
    IntArray,
    paired_iou,
    paired_nearness,
    pairwise_closeness,
    points_in_boxes,
)
from rewards.geometry.keypoints import DEFAULT_SIGMA, mutual_oks, paired_oks
from rewards.geometry.masks import MaskRuns, read_masks
from rewards.geometry.pairs import Spans
from rewards.geometry.polygons import RegionArray, alike, region_iou, regions
from rewards.records import Predictions, RewardWeights
from rewards.truth import Truth

NEAR_OVERLAP = 0.7
"""Two boxes or polygons of one label with a larger IoU, or key points with a larger mutual OKS, are near."""
NEAR_BINS = 5.0
"""Two points of one label at most this far apart are near: 0.5 % of the image's side."""
NO_MASK = -1
"""Stands for the mask of a true point that has none."""
_SLACK_BINS = 1.0
"""Added to the reach of what is near, so that rounding loses none; the exact test follows."""


class PredictedShapes(Protocol):
    """All predicted shapes of many answers, beside the true ones."""

    def spans(self) -> tuple[Spans, Spans]:
        """([A], [B]) on the x axis: a pair whose spans do not meet has value 0."""

    def values(self, predicted_L: IntArray, true_L: IntArray) -> FloatArray:
        """[L] value of some predicted shapes for some true ones, whatever the labels."""

    def frames(self) -> tuple[FloatArray, FloatArray]:
        """([A, F], [B, F]) numbers that tell shapes apart where values tie; equal shapes have equal ones."""

    def areas(self) -> FloatArray:
        """[A] area in bins squared, 0 for points and shapes without any."""

    def reach(self) -> tuple[FloatArray, FloatArray]:
        """[A] where each shape starts on the x axis, and how far to its right near shapes start at most."""

    def near(self, first_L: IntArray, second_L: IntArray) -> BoolArray:
        """[L] which pairs of predicted shapes are near."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes [A, 4] as written, and true ones [B, 4]."""

    shapes_AK: FloatArray
    truth_BK: FloatArray

    def spans(self) -> tuple[Spans, Spans]:
        """Left to right side."""
        return (self.shapes_AK[:, 0], self.shapes_AK[:, 2]), (self.truth_BK[:, 0], self.truth_BK[:, 2])

    def values(self, predicted_L: IntArray, true_L: IntArray) -> FloatArray:
        """IoU."""
        return paired_iou(self.shapes_AK[predicted_L], self.truth_BK[true_L])

    def frames(self) -> tuple[FloatArray, FloatArray]:
        """The shapes themselves."""
        return self.shapes_AK, self.truth_BK

    def areas(self) -> FloatArray:
        """Width x height, 0 for swapped corners."""
        return _box_areas(self.shapes_AK)

    def reach(self) -> tuple[FloatArray, FloatArray]:
        """A near box starts within 0.3 of the width: further off, even the intervals overlap by less than 0.7."""
        x0_A = self.shapes_AK[:, 0]
        return x0_A, (1.0 - NEAR_OVERLAP) * np.maximum(self.shapes_AK[:, 2] - x0_A, 0.0) + _SLACK_BINS

    def near(self, first_L: IntArray, second_L: IntArray) -> BoolArray:
        """IoU > 0.7."""
        return paired_iou(self.shapes_AK[first_L], self.shapes_AK[second_L]) > NEAR_OVERLAP


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points [A, 2] and true ones [B, 2]. The truth's mask must be hit, else its box; without both closeness counts."""

    shapes_AK: FloatArray
    truth_BK: FloatArray
    runs: MaskRuns
    """Run lengths of the masks of all prompts."""
    mask_B: IntArray
    """[B] place of each true point's mask, NO_MASK where there is none."""
    boxes_B4: FloatArray
    """[B, 4] box of each true point, NaN where there is none."""

    @classmethod
    def beside(cls, shapes_AK: FloatArray, truth_BK: FloatArray, truth_P: Sequence[Truth]) -> "Points":
        """Gather the targets of all prompts."""
        runs = read_masks([mask for truth in truth_P for mask in truth.masks])
        has_mask_B = np.repeat([bool(truth.masks) for truth in truth_P], [len(truth.labels) for truth in truth_P])
        nowhere_P = [np.full((len(truth.labels), BOX), np.nan) for truth in truth_P]
        boxes_P = [
            no if truth.boxes_N4 is None else truth.boxes_N4 for no, truth in zip(nowhere_P, truth_P, strict=True)
        ]
        mask_B = np.where(has_mask_B, np.cumsum(has_mask_B) - 1, NO_MASK)
        return cls(shapes_AK, truth_BK, runs, mask_B, np.concatenate(boxes_P, dtype=np.float64))

    def spans(self) -> tuple[Spans, Spans]:
        """Everywhere: a mask may reach far."""
        return everywhere(self.shapes_AK), everywhere(self.truth_BK)

    def values(self, predicted_L: IntArray, true_L: IntArray) -> FloatArray:
        """1 or 0 for a hit; else closeness to the true point."""
        points_L12, truth_L12 = self.shapes_AK[predicted_L, None], self.truth_BK[true_L, None]
        hit_L = points_in_boxes(points_L12, self.boxes_B4[true_L, None])[:, 0, 0]
        mask_L = self.mask_B[true_L]
        in_mask_L = np.flatnonzero(mask_L != NO_MASK)
        hit_L[in_mask_L] = self.runs.contain(points_L12[in_mask_L, 0], mask_L[in_mask_L])
        hit_L |= (points_L12 == truth_L12).all(axis=(1, 2))
        is_aim_L = (mask_L != NO_MASK) | ~np.isnan(self.boxes_B4[true_L, 0])
        return np.where(is_aim_L, hit_L, pairwise_closeness(points_L12, truth_L12)[:, 0, 0])

    def frames(self) -> tuple[FloatArray, FloatArray]:
        """The shapes themselves."""
        return self.shapes_AK, self.truth_BK

    def areas(self) -> FloatArray:
        """0: points have no area."""
        return np.zeros(len(self.shapes_AK))

    def reach(self) -> tuple[FloatArray, FloatArray]:
        """5 bins."""
        return self.shapes_AK[:, 0], np.full(len(self.shapes_AK), NEAR_BINS + _SLACK_BINS)

    def near(self, first_L: IntArray, second_L: IntArray) -> BoolArray:
        """At most 5 bins apart."""
        apart_L2 = self.shapes_AK[first_L] - self.shapes_AK[second_L]
        return np.asarray((apart_L2 * apart_L2).sum(axis=1) <= NEAR_BINS**2)


@dataclass(frozen=True, slots=True, eq=False)
class Polygons:
    """The areas that polygons enclose."""

    regions_A: RegionArray
    truth_B: RegionArray

    def spans(self) -> tuple[Spans, Spans]:
        """Left to right side of the bounding rectangles."""
        return _region_spans(self.regions_A), _region_spans(self.truth_B)

    def values(self, predicted_L: IntArray, true_L: IntArray) -> FloatArray:
        """IoU of areas."""
        return region_iou(self.regions_A[predicted_L], self.truth_B[true_L])

    def frames(self) -> tuple[FloatArray, FloatArray]:
        """Bounding rectangles and middles; where even these tie, either of two truths may be meant."""
        return _region_frames(self.regions_A), _region_frames(self.truth_B)

    def areas(self) -> FloatArray:
        """Areas that the rings enclose."""
        return np.asarray(shapely.area(self.regions_A))

    def reach(self) -> tuple[FloatArray, FloatArray]:
        """The whole width: a thin tip moves the start and hardly the area."""
        x0_A, x1_A = _region_spans(self.regions_A)
        return x0_A, x1_A - x0_A

    def near(self, first_L: IntArray, second_L: IntArray) -> BoolArray:
        """IoU > 0.7."""
        return alike(self.regions_A, first_L, second_L, NEAR_OVERLAP)


@dataclass(frozen=True, slots=True, eq=False)
class KeyPoints:
    """Instances [A, 4 + 2 J] with key points, and true ones."""

    shapes_AK: FloatArray
    truth_BK: FloatArray
    sigmas_J: FloatArray

    def spans(self) -> tuple[Spans, Spans]:
        """Everywhere: closeness has no end."""
        return everywhere(self.shapes_AK), everywhere(self.truth_BK)

    def values(self, predicted_L: IntArray, true_L: IntArray) -> FloatArray:
        """Half the key points, half the box."""
        predicted_LK, truth_LK = self.shapes_AK[predicted_L], self.truth_BK[true_L]
        iou_L = paired_iou(predicted_LK[:, :BOX], truth_LK[:, :BOX])
        return np.asarray((paired_oks(predicted_LK, truth_LK, self.sigmas_J) + iou_L) / 2.0)

    def frames(self) -> tuple[FloatArray, FloatArray]:
        """The shapes themselves."""
        return self.shapes_AK, self.truth_BK

    def areas(self) -> FloatArray:
        """Areas of the boxes."""
        return _box_areas(self.shapes_AK)

    def reach(self) -> tuple[FloatArray, FloatArray]:
        """Everywhere: the boxes of near instances need not lie near."""
        return everywhere(self.shapes_AK)

    def near(self, first_L: IntArray, second_L: IntArray) -> BoolArray:
        """Mutual OKS > 0.7."""
        return mutual_oks(self.shapes_AK[first_L], self.shapes_AK[second_L], self.sigmas_J) > NEAR_OVERLAP


def read_shapes(predicted_G: Sequence[Predictions], truth_P: Sequence[Truth]) -> PredictedShapes:
    """The shapes of all answers, in the truths' geometry.

    Raises ValueError when an answer's shapes are of another geometry than the truths, or the truths of several.
    """
    first = truth_P[0]
    if any((truth.geometry, truth.reads_text) != (first.geometry, first.reads_text) for truth in truth_P):
        raise ValueError("truths of several geometries cannot be scored together")
    shapes_AK, truth_BK = _join(predicted_G, first), _stack([truth.bins_NK for truth in truth_P])
    if first.geometry == "box":
        return Boxes(shapes_AK, truth_BK)
    if first.geometry == "point":
        return Points.beside(shapes_AK, truth_BK, truth_P)
    if first.geometry == "polygon":
        return Polygons(regions(shapes_AK), regions(truth_BK))
    sigmas_J = np.full((truth_BK.shape[1] - BOX) // 2, DEFAULT_SIGMA) if first.sigmas_J is None else first.sigmas_J
    return KeyPoints(shapes_AK, truth_BK, sigmas_J)


def shape_values(iou_L: FloatArray, boxes_L4: FloatArray, truth_L4: FloatArray, weights: RewardWeights) -> FloatArray:
    """[L] IoU blended with measures that still tell boxes apart where it is 0; see `RewardWeights`.

    >>> box = np.array([[0.0, 0.0, 10.0, 10.0]])
    >>> shape_values(np.zeros(1), box, box + [10, 0, 10, 0], RewardWeights(giou=1.0)).tolist()
    [0.25]
    """
    giou_L, centre_L = paired_nearness(boxes_L4, truth_L4)
    total = 1.0 + weights.giou + weights.centre
    return np.asarray((iou_L + weights.giou * giou_L + weights.centre * centre_L) / total)


def _join(predicted_G: Sequence[Predictions], truth: Truth) -> FloatArray:
    """[A, K] the shapes of all answers, one answer after the other."""
    num_coordinates, is_polygon = truth.bins_NK.shape[1], truth.geometry == "polygon"
    parts = []
    for answer, predicted in enumerate(predicted_G):
        num, (rows, width) = len(predicted.labels), predicted.bins_NK.shape
        if not num:
            continue
        if rows != num or not (width >= 6 and width % 2 == 0 if is_polygon else width == num_coordinates):
            expected = f"({num}, {num_coordinates}) of geometry {truth.geometry}"
            raise ValueError(f"answer {answer}: {num} labels and shapes {(rows, width)}; expected {expected}")
        parts.append(predicted.bins_NK)
    return _stack([np.zeros((0, num_coordinates)), *parts])


def _stack(parts: Sequence[np.ndarray]) -> FloatArray:
    """Shapes one part after the other; shorter ones, which only polygons can be, repeat their last vertex."""
    longest = max(part.shape[1] for part in parts)
    return np.concatenate(
        [part if part.shape[1] == longest else _lengthen(part, longest) for part in parts], dtype=np.float64
    )


def _lengthen(polygons_NK: np.ndarray, num_coordinates: int) -> np.ndarray:
    """Polygons with their last vertex repeated up to this many numbers."""
    missing = (num_coordinates - polygons_NK.shape[1]) // 2
    return np.concatenate([polygons_NK, np.tile(polygons_NK[:, -2:], missing)], axis=1)


def _box_areas(boxes_NK: FloatArray) -> FloatArray:
    """[N] width x height of the box each shape starts with."""
    sides_N2 = np.maximum(boxes_NK[:, 2:BOX] - boxes_NK[:, :2], 0.0)
    return sides_N2[:, 0] * sides_N2[:, 1]


def everywhere(shapes_NK: np.ndarray) -> Spans:
    """Spans that meet all others."""
    nowhere_N = np.zeros(len(shapes_NK))
    return nowhere_N, nowhere_N


def _region_spans(regions_N: RegionArray) -> Spans:
    """Left to right side of each area; 0 and 0 of an empty one."""
    x0_N, _, x1_N, _ = np.nan_to_num(shapely.bounds(regions_N)).T
    return x0_N, x1_N


def _region_frames(regions_N: RegionArray) -> FloatArray:
    """[N, 6] bounding rectangle and middle; 0 of an empty area."""
    bounds_N4, middles_N = shapely.bounds(regions_N), shapely.centroid(regions_N)
    is_empty_N = shapely.is_empty(regions_N)
    middles_N2 = np.zeros((len(regions_N), 2))
    middles_N2[~is_empty_N] = shapely.get_coordinates(middles_N[~is_empty_N])
    return np.column_stack([np.nan_to_num(bounds_N4), middles_N2])
