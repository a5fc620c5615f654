"""What goes into a reward beside the truth (truth.py), and what comes out.

Axes: G answers of one prompt, N predicted shapes, B true shapes, K numbers of a shape, P = N + 1 prefixes of an answer.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from rewards.geometry.boxes import BoolArray, FloatArray, IntArray

REWARDS: Mapping[str, str] = {
    "matched": "one-to-one F1 between groups of duplicates and truths, less penalties: the default",
    "paper": "the formula of the paper (arXiv 2510.12798, section 4.2.3), alone",
    "official": "the formula of the released code (reward_func.py), alone; the paper's where it has none",
}
"""Every reward there is by the name a config gives it, with what it is."""


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
class Prefixes:
    """One answer shape by shape: after none of them, after the first, and so on to all (prefixes.py)."""

    earned_P: FloatArray
    """[P] the part of the reward that shapes decide."""
    total_P: FloatArray
    """[P] sum of the matched values."""
    is_matched_PB: BoolArray
    """[P, B] which truths are matched."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupScores:
    """Rewards of the G answers to one prompt."""

    total_G: FloatArray
    """[G] the reward: `RewardWeights.bounds` for `matched`, [0, 2) for `paper`, [0, 1] for `official`."""
    terms_G: Mapping[str, FloatArray]
    """Name -> [G]: f1 and the penalties before weighting; under `paper` and `official` the formula of that name; and
    what is only logged: count_error and, where labels are recognised text, text_similarity and exact_text."""
    prefixes_G: tuple[Prefixes, ...]
    """[G] what each answer had earned after each of its shapes; empty where that was not asked for."""
    num_duplicates_G: IntArray
    """[G] shapes beyond the first of their group of duplicates."""
    num_predicted_G: IntArray
    """[G] decoded shapes whatever their label."""
    num_true: int
    """True shapes."""
