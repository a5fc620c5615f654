"""What goes into a reward and what comes out. Axes: G answers of one prompt, N said shapes, K numbers a shape has."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Protocol

import numpy as np

from rewards.geometry import BOX, POINT, FloatArray, IntArray

REWARDS: Mapping[str, str] = {
    "matched": "one-to-one F1 between near-copy groups and truths, less penalties: the default",
    "paper": "the formula of the paper (arXiv 2510.12798, section 4.2.3), alone",
    "official": "the formula of the released code (reward_func.py, box_iou), alone; points: the paper's",
}
"""Every reward there is by the name a config gives it, with what it is."""

CREDITS: Mapping[str, str] = {
    "prefix": "reward of the first i shapes less that of the first i - 1, in the order written",
    "leave_one_out": "reward of all shapes less that of all but this one",
    "none": "zeros",
}
"""Every form of per-shape credit by name, with what it is."""


class Said(Protocol):
    """What one answer says; `rex_rl.types.Shapes` is one."""

    @property
    def labels(self) -> tuple[str, ...]:
        """[N] label of each shape."""

    @property
    def bins_NK(self) -> np.ndarray:
        """[N, K] boxes or points on the grid, as written."""

    @property
    def faults(self) -> tuple[str, ...]:
        """Named faults of the answer; "truncated" when the token limit cut it."""

    @property
    def absent(self) -> tuple[str, ...]:
        """Categories answered `None`."""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The true answer, on the grid.

    Raises ValueError when the parts do not fit together or a box has no area: then no answer could be perfect.
    """

    labels: tuple[str, ...]
    """[B] label of each true shape."""
    bins_NK: np.ndarray
    """[B, 4] boxes with x0 < x1 and y0 < y1, or [B, 2] points; (0, 4) or (0, 2) for none."""
    categories: tuple[str, ...]
    """What was asked for."""

    def __post_init__(self) -> None:
        """Check shapes once, so that no reward has to."""
        shape = np.shape(self.bins_NK)
        if len(shape) != 2 or shape[1] not in (POINT, BOX) or shape[0] != len(self.labels):
            raise ValueError(f"truth: {len(self.labels)} labels and bins of shape {shape}; expected [N, 4] or [N, 2]")
        if shape[1] == BOX and not (self.bins_NK[:, :2] < self.bins_NK[:, 2:]).all():
            raise ValueError("truth: a box has no area (x0 < x1 and y0 < y1 are expected)")

    @property
    def empty_categories(self) -> tuple[str, ...]:
        """Asked categories without a true shape: the right answer to each is `None`."""
        given = set(self.labels)
        return tuple(name for name in self.categories if name not in given)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardWeights:
    """Weight of each term in the total; penalties are subtracted. Raises ValueError unless finite and >= 0."""

    f1: float = 1.0
    duplicates: float = 0.5
    surplus: float = 0.25
    large: float = 0.25
    format: float = 0.25
    truncated: float = 0.25

    def __post_init__(self) -> None:
        """Check every weight."""
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ValueError(f"reward weight {field.name}: {value} is not a finite number >= 0")

    @property
    def bounds(self) -> tuple[float, float]:
        """Range of the total: (minus all penalties, f1).

        >>> RewardWeights().bounds
        (-1.5, 1.0)
        """
        penalties = self.duplicates + self.surplus + self.large + self.format + self.truncated
        return -penalties, self.f1


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupScores:
    """Rewards of the G answers to one prompt."""

    total_G: FloatArray
    """[G] the reward: `RewardWeights.bounds` for `matched`, [0, 2) for `paper`, [0, 1] for `official`."""
    terms_G: Mapping[str, FloatArray]
    """Name -> [G]: f1 and the penalties before weighting, count_error, and the formula a name stands for."""
    gains_GN: tuple[FloatArray, ...]
    """[G] of [N]: what each shape added to the reward (credit.py)."""
    num_duplicates_G: IntArray
    """[G] shapes beyond the first of their near-copy group."""
    num_said_G: IntArray
    """[G] decoded shapes whatever their label."""
    num_true: int
    """True shapes."""
