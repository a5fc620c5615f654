"""What a said shape is worth as an answer to a true one, and who says the same thing twice: geometry by geometry.

Axes: G answers of one prompt, A said shapes of all of them, one answer after the other, B true shapes, L pairs of said
shapes, K numbers a shape has.

| geometry | value of a pair, in [0, 1] | near-copies |
|---|---|---|
| box | IoU | IoU > 0.7 |
| point | 1 inside the true mask or box or on the true point, else 0; without either closeness | <= 5 bins apart |
| polygon | IoU of the areas | IoU > 0.7 |
| key points | OKS | mutual OKS > 0.7 |

A shape that is worth anything to anyone is a near-copy of its exact copy, which the laws rest on (matching.py). A true
point counts as hit by itself, as rounding to the grid may move it out of a thin mask: so every record has a perfect
answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import shapely

from rewards.geometry import (
    BOX,
    BoolArray,
    FloatArray,
    IntArray,
    paired_iou,
    pairwise_closeness,
    pairwise_iou,
    pairwise_nearness,
    points_in_boxes,
)
from rewards.keypoints import DEFAULT_SIGMA, mutual_oks, pairwise_oks
from rewards.masks import points_in_masks
from rewards.polygons import RegionArray, alike, pairwise_polygon_iou, regions
from rewards.records import RewardWeights, Said, Truth

NEAR_OVERLAP = 0.7
"""Two boxes or polygons of one label with a larger IoU, or key points with a larger mutual OKS, are near-copies."""
NEAR_BINS = 5.0
"""Two points of one label at most this far apart are near-copies: 0.5 % of the image's side."""
_SLACK_BINS = 1.0
"""Added to the reach of near-copies, so that rounding loses none; the exact test follows."""


class SaidShapes(Protocol):
    """All said shapes of the answers to one prompt, beside its truth."""

    def values(self, rows: slice) -> FloatArray:
        """[rows, B] value of some said shapes for every true one, whatever the labels."""

    def areas(self) -> FloatArray:
        """[A] area in bins squared, 0 for points and shapes without any."""

    def reach(self) -> tuple[FloatArray, FloatArray]:
        """[A] where each shape starts on the x axis, and how much further right its near-copies start at most."""

    def near(self, first_L: IntArray, second_L: IntArray) -> BoolArray:
        """[L] which pairs of said shapes are near-copies."""


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """Boxes [A, 4] as written."""

    shapes_AK: FloatArray
    truth: Truth

    def values(self, rows: slice) -> FloatArray:
        """IoU."""
        return pairwise_iou(self.shapes_AK[rows], self.truth.bins_NK)

    def areas(self) -> FloatArray:
        """Width x height, 0 for swapped corners."""
        return _box_areas(self.shapes_AK)

    def reach(self) -> tuple[FloatArray, FloatArray]:
        """A near-copy starts within 0.3 of the width: beyond, even the intervals overlap by less than 0.7."""
        x0_A = self.shapes_AK[:, 0]
        return x0_A, (1.0 - NEAR_OVERLAP) * np.maximum(self.shapes_AK[:, 2] - x0_A, 0.0) + _SLACK_BINS

    def near(self, first_L: IntArray, second_L: IntArray) -> BoolArray:
        """IoU > 0.7."""
        return paired_iou(self.shapes_AK[first_L], self.shapes_AK[second_L]) > NEAR_OVERLAP


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Points [A, 2], and which of them hit what (None: closeness counts)."""

    shapes_AK: FloatArray
    truth: Truth
    hit_AB: BoolArray | None

    @classmethod
    def beside(cls, shapes_AK: FloatArray, truth: Truth) -> "Points":
        """Look all points up in the true masks or boxes, once."""
        if truth.masks:
            hit_AB = points_in_masks(shapes_AK, truth.masks)
        elif truth.boxes_N4 is not None:
            hit_AB = points_in_boxes(shapes_AK, truth.boxes_N4)
        else:
            return cls(shapes_AK, truth, None)
        return cls(shapes_AK, truth, hit_AB | (shapes_AK[:, None] == truth.bins_NK).all(axis=-1))

    def values(self, rows: slice) -> FloatArray:
        """1 or 0 for a hit; else closeness to the true point."""
        if self.hit_AB is not None:
            return self.hit_AB[rows].astype(np.float64)
        return pairwise_closeness(self.shapes_AK[rows], self.truth.bins_NK)

    def areas(self) -> FloatArray:
        """None has any."""
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

    @classmethod
    def beside(cls, shapes_AK: FloatArray, truth: Truth) -> "Polygons":
        """Read the rings, once."""
        return cls(regions(shapes_AK), regions(truth.bins_NK))

    def values(self, rows: slice) -> FloatArray:
        """IoU of areas."""
        return pairwise_polygon_iou(self.regions_A[rows], self.truth_B)

    def areas(self) -> FloatArray:
        """What the rings enclose."""
        return np.asarray(shapely.area(self.regions_A))

    def reach(self) -> tuple[FloatArray, FloatArray]:
        """The whole width: a thin tip moves the start and hardly the area."""
        x0_A, _, x1_A, _ = np.nan_to_num(shapely.bounds(self.regions_A)).T
        return x0_A, x1_A - x0_A

    def near(self, first_L: IntArray, second_L: IntArray) -> BoolArray:
        """IoU > 0.7."""
        return alike(self.regions_A, first_L, second_L, NEAR_OVERLAP)


@dataclass(frozen=True, slots=True, eq=False)
class KeyPoints:
    """Instances [A, 4 + 2 J] with key points."""

    shapes_AK: FloatArray
    truth: Truth
    sigmas_J: FloatArray

    @classmethod
    def beside(cls, shapes_AK: FloatArray, truth: Truth) -> "KeyPoints":
        """With the truth's fall-offs, or the same for all key points."""
        sigmas_J = np.full((shapes_AK.shape[1] - BOX) // 2, DEFAULT_SIGMA) if truth.sigmas_J is None else truth.sigmas_J
        return cls(shapes_AK, truth, sigmas_J)

    def values(self, rows: slice) -> FloatArray:
        """OKS."""
        return pairwise_oks(self.shapes_AK[rows], self.truth.bins_NK, self.sigmas_J)

    def areas(self) -> FloatArray:
        """Of the boxes."""
        return _box_areas(self.shapes_AK)

    def reach(self) -> tuple[FloatArray, FloatArray]:
        """Everywhere: the boxes of near-copies need not lie near."""
        return np.zeros(len(self.shapes_AK)), np.zeros(len(self.shapes_AK))

    def near(self, first_L: IntArray, second_L: IntArray) -> BoolArray:
        """Mutual OKS > 0.7."""
        return mutual_oks(self.shapes_AK[first_L], self.shapes_AK[second_L], self.sigmas_J) > NEAR_OVERLAP


def read_shapes(said_G: Sequence[Said], truth: Truth) -> SaidShapes:
    """The shapes of all answers, of the truth's geometry.

    Raises ValueError when an answer's shapes are of another geometry than the truth's.
    """
    shapes_AK = _join(said_G, truth)
    if truth.geometry == "box":
        return Boxes(shapes_AK, truth)
    if truth.geometry == "point":
        return Points.beside(shapes_AK, truth)
    if truth.geometry == "polygon":
        return Polygons.beside(shapes_AK, truth)
    return KeyPoints.beside(shapes_AK, truth)


def shape_values(iou_AB: FloatArray, boxes_A4: FloatArray, truth_B4: np.ndarray, weights: RewardWeights) -> FloatArray:
    """[A, B] IoU blended with measures that still tell boxes apart where it is 0; see `RewardWeights`.

    >>> box = np.array([[0.0, 0.0, 10.0, 10.0]])
    >>> shape_values(np.zeros((1, 1)), box, box + [10, 0, 10, 0], RewardWeights(giou=1.0)).tolist()
    [[0.25]]
    """
    giou_AB, centre_AB = pairwise_nearness(boxes_A4, truth_B4)
    total = 1.0 + weights.giou + weights.centre
    return np.asarray((iou_AB + weights.giou * giou_AB + weights.centre * centre_AB) / total)


def _join(said_G: Sequence[Said], truth: Truth) -> FloatArray:
    """[A, K] the shapes of all answers, one answer after the other; polygons brought to one length."""
    num_coordinates = truth.bins_NK.shape[1]
    parts = []
    for answer, said in enumerate(said_G):
        num, shape = len(said.labels), said.bins_NK.shape
        if not num:
            continue
        fits = shape[1] >= 6 and shape[1] % 2 == 0 if truth.geometry == "polygon" else shape[1] == num_coordinates
        if shape[0] != num or not fits:
            expected = f"({num}, {num_coordinates}) of geometry {truth.geometry}"
            raise ValueError(f"answer {answer}: {num} labels and shapes {shape}; expected {expected}")
        parts.append(said.bins_NK)
    if truth.geometry == "polygon":
        longest = max((part.shape[1] for part in parts), default=num_coordinates)
        parts = [_lengthen(part, longest) for part in parts]
        num_coordinates = longest
    return np.concatenate([np.zeros((0, num_coordinates)), *parts], dtype=np.float64)


def _lengthen(polygons_NK: np.ndarray, num_coordinates: int) -> np.ndarray:
    """Polygons with their last vertex repeated up to so many numbers."""
    missing = (num_coordinates - polygons_NK.shape[1]) // 2
    return np.concatenate([polygons_NK, np.tile(polygons_NK[:, -2:], missing)], axis=1)


def _box_areas(boxes_NK: FloatArray) -> FloatArray:
    """[N] width x height of the box each shape starts with."""
    sides_N2 = np.maximum(boxes_NK[:, 2:BOX] - boxes_NK[:, :2], 0.0)
    return sides_N2[:, 0] * sides_N2[:, 1]
