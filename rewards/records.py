"""What goes into a reward and what comes out.

Axes: G answers of one prompt, N predicted shapes, B true shapes, K numbers of a shape.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np
import shapely

from rewards.geometry.boxes import BOX, POINT, FloatArray, IntArray
from rewards.geometry.keypoints import split
from rewards.geometry.masks import Mask
from rewards.geometry.polygons import regions

GEOMETRIES = ("box", "point", "polygon", "keypoints")
"""What a shape can be."""

REWARDS: Mapping[str, str] = {
    "matched": "one-to-one F1 between near-duplicate groups and truths, less penalties: the default",
    "paper": "the formula of the paper (arXiv 2510.12798, section 4.2.3), alone",
    "official": "the formula of the released code (reward_func.py), alone; the paper's where it has none",
}
"""Every reward there is by the name a config gives it, with what it is."""

CREDITS: Mapping[str, str] = {
    "prefix": "reward of the first i shapes less that of the first i - 1, in the order written",
    "leave_one_out": "reward of all shapes less that of all but this one",
    "in_order": "the same once later duplicates of this one are gone: a duplicate is to blame, not its original",
    "none": "zeros",
}
"""Every form of per-shape credit by name, with what it is."""


class Predictions(Protocol):
    """What one answer predicts; `rex_rl.types.Shapes` is one."""

    @property
    def labels(self) -> tuple[str, ...]:
        """[N] label of each shape."""

    @property
    def bins_NK(self) -> np.ndarray:
        """[N, K] shapes on the grid, as written; see `Truth.bins_NK`. K of polygons is the answer's own."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Named faults of the answer; "truncated" when the token limit cut it."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Categories answered `None`."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The ground truth of one prompt, on the grid.

    Raises ValueError when the parts do not fit together or a shape has no area: then no answer could be perfect.
    """

    labels: tuple[str, ...]
    """[B] label of each true shape."""
    bins_NK: np.ndarray
    """[B, K]: boxes [B, 4] with x0 < x1 and y0 < y1; points [B, 2]; polygons [B, 2 V], x and y of at least three
    vertices, the last one repeated in the shorter ones; key points [B, 4 + 2 J], a box and J points, both numbers -1
    for one that is not visible. (0, K) for none."""
    categories: tuple[str, ...]
    """What was asked for."""
    geometry: str = ""
    """One of GEOMETRIES; left empty, K decides between box and point."""
    boxes_N4: np.ndarray | None = None
    """[B, 4], only with geometry "point": where set, a predicted point is right inside the box."""
    masks: tuple[Mask, ...] = ()
    """[B], only with geometry "point": where set, a predicted point is right inside the mask, not the box."""
    reads_text: bool = False
    """Labels are recognised text, not the asked categories: a pair's value is multiplied by the texts' similarity."""
    sigmas_J: np.ndarray | None = None
    """[J] OKS fall-off of each key point; None where COCO's constants are not known: 0.05 for all."""

    def __post_init__(self) -> None:
        """Set the geometry and check the shapes once, so that no reward has to."""
        num, shape = len(self.labels), np.shape(self.bins_NK)
        if len(shape) != 2 or shape[0] != num:
            raise ValueError(f"truth: {num} labels and bins of shape {shape}; expected [{num}, K]")
        geometry = self.geometry or {BOX: "box", POINT: "point"}.get(shape[1], "")
        object.__setattr__(self, "geometry", geometry)
        if geometry not in GEOMETRIES:
            raise ValueError(
                f"truth: bins of shape {shape} and geometry {geometry!r}; known are {', '.join(GEOMETRIES)}"
            )
        if not _has_size(geometry, shape[1]):
            raise ValueError(f"truth: bins of shape {shape} are not of geometry {geometry!r}")
        if not _areas(geometry, self.bins_NK).all():
            raise ValueError(f"truth: a {geometry} has no area (x0 < x1 and y0 < y1 are expected)")
        self._check_targets(num)
        self._check_key_points()

    def _check_targets(self, num: int) -> None:
        """Check the boxes and masks that points must hit."""
        if (self.masks or self.boxes_N4 is not None) and self.geometry != "point":
            raise ValueError(f"truth: boxes or masks to hit go with points, not with geometry {self.geometry!r}")
        if self.masks and len(self.masks) != num:
            raise ValueError(f"truth: {num} points and {len(self.masks)} masks")
        if self.boxes_N4 is not None and np.shape(self.boxes_N4) != (num, BOX):
            raise ValueError(f"truth: {num} points and boxes of shape {np.shape(self.boxes_N4)}")

    def _check_key_points(self) -> None:
        """Check fall-offs and half-visible points."""
        if self.geometry != "keypoints":
            return
        _, points_BJ2, visible_BJ = split(self.bins_NK)
        if ((points_BJ2 < 0).any(axis=-1) & (points_BJ2 != -1).any(axis=-1)).any():
            raise ValueError("truth: a key point has one number below 0; both are -1 where it is not visible")
        sigmas_J = self.sigmas_J
        if sigmas_J is not None and (np.shape(sigmas_J) != visible_BJ.shape[1:] or not (sigmas_J > 0).all()):
            raise ValueError(
                f"truth: sigmas of shape {np.shape(sigmas_J)} for {visible_BJ.shape[1]} key points, or not > 0"
            )

    @property
    def empty_categories(self) -> tuple[str, ...]:
        """Asked categories without a true shape: the right answer to each is `None`.

        Where labels are recognised text, a text's category is not known: then all categories where there is no text,
        else none.
        """
        if self.reads_text:
            return () if self.labels else self.categories
        given = set(self.labels)
        return tuple(name for name in self.categories if name not in given)


def _has_size(geometry: str, num_coordinates: int) -> bool:
    """Whether a shape of this geometry can have this many numbers."""
    if geometry in ("box", "point"):
        return num_coordinates == {"box": BOX, "point": POINT}[geometry]
    return num_coordinates >= 6 and num_coordinates % 2 == 0


def _areas(geometry: str, bins_NK: np.ndarray) -> np.ndarray:
    """[B] whether each shape has the area it needs."""
    if geometry == "point":
        return np.ones(len(bins_NK), dtype=np.bool_)
    if geometry == "polygon":
        return np.asarray(shapely.area(regions(bins_NK)) > 0.0)
    return np.asarray((bins_NK[:, :2] < bins_NK[:, 2:BOX]).all(axis=1))


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardWeights:
    """Weight of each term in the total; penalties are subtracted. Raises ValueError unless finite and >= 0.

    `giou` and `centre` are not terms of their own. They shape the value of a pair of boxes that `f1` sums, to
    (IoU + giou * GIoU' + centre * centre closeness) / (1 + giou + centre), with the measures of
    `rewards.geometry.boxes.paired_nearness`. The range of the total, its maximum and its laws stay as they are.
    """

    f1: float = 1.0
    duplicates: float = 0.5
    surplus: float = 0.25
    large: float = 0.25
    rejection: float = 0.25
    format: float = 0.25
    truncated: float = 0.25
    giou: float = 0.0
    centre: float = 0.0

    def __post_init__(self) -> None:
        """Check every weight."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"reward weight {field.name}: {value} is not a finite number >= 0")

    @property
    def shapes_boxes(self) -> bool:
        """Whether the value of a pair of boxes is more than their IoU."""
        return self.giou > 0.0 or self.centre > 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """Range of the total: (minus all penalties, f1).

        >>> RewardWeights().bounds
        (-1.75, 1.0)
        """
        penalties = self.duplicates + self.surplus + self.large + self.rejection + self.format + self.truncated
        return -penalties, self.f1


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupScores:
    """Rewards of the G answers to one prompt."""

    total_G: FloatArray
    """[G] the reward: `RewardWeights.bounds` for `matched`, [0, 2) for `paper`, [0, 1] for `official`."""
    terms_G: Mapping[str, FloatArray]
    """Name -> [G]: f1 and the penalties before weighting; under `paper` and `official` the formula of that name; and
    what is only logged: count_error and, where labels are recognised text, text_similarity and exact_text."""
    credits_GN: tuple[FloatArray, ...]
    """[G] of [N]: what each shape added to the reward (credit.py)."""
    num_duplicates_G: IntArray
    """[G] shapes beyond the first of their near-duplicate group."""
    num_predicted_G: IntArray
    """[G] decoded shapes whatever their label."""
    num_true: int
    """True shapes."""
