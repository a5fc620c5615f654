"""The reward terms as formulas of counts, element by element, so that one call serves a group or all prefixes.

Arguments are numbers or arrays of one shape: `total` sum of matched values, `num_predicted` decoded shapes whatever
their label, `num_true` true shapes. A penalty counts what exceeds the truth and is divided by the truth, never by the
number of predictions (junk would dilute it), and is at most 1. Missing shapes cost recall alone.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from rewards.geometry.boxes import GRID_SPAN_BINS, BoolArray, FloatArray
from rewards.records import RewardWeights

PENALTIES = ("duplicates", "surplus", "large", "rejection", "format", "truncated")
"""Terms that are subtracted; each has a weight of its name."""
TRUNCATED = "truncated"
"""The one fault that is no fault of format: the token limit cut the answer."""
GIANT_AREA = 0.95
"""A box over this share of the grid is giant (paper section 6.1, table 14)."""
HIT_IOU = 0.5
"""A giant box that a truth of its label overlaps by more than this is a right answer."""


def f1(total: ArrayLike, num_predicted: ArrayLike, num_true: ArrayLike) -> FloatArray:
    """F1 of continuous values: 2 * total / (num_predicted + num_true), in [0, 1].

    The harmonic mean of recall total / num_true and precision total / num_predicted (paper section 4.2.3, closed form),
    over a one-to-one matching. Without a true shape: 1 for no prediction, else 0.

    >>> f1([1.0, 1.0, 0.0], [1, 3, 0], 1).tolist(), f1([0.0, 0.0], [0, 2], 0).tolist()
    ([1.0, 0.5, 0.0], [1.0, 0.0])
    """
    shapes = np.asarray(num_predicted) + np.asarray(num_true)
    return np.where(shapes > 0, 2.0 * np.asarray(total) / np.maximum(shapes, 1), 1.0)


def excess(count: ArrayLike, num_true: ArrayLike) -> FloatArray:
    """A count of what should not be there as a penalty: min(1, count / max(1, num_true)), in [0, 1].

    >>> excess([0, 1, 9], 4).tolist(), excess(1, 0).tolist()
    ([0.0, 0.25, 1.0], 1.0)
    """
    return np.minimum(np.asarray(count) / np.maximum(num_true, 1), 1.0)


def surplus(num_predicted: ArrayLike, num_true: ArrayLike) -> FloatArray:
    """Penalty for shapes beyond the number of true ones, in [0, 1].

    >>> surplus([1, 2, 3], 2).tolist()
    [0.0, 0.0, 0.5]
    """
    return excess(np.maximum(np.asarray(num_predicted) - np.asarray(num_true), 0), num_true)


def count_error(num_predicted: ArrayLike, num_true: ArrayLike) -> FloatArray:
    """Signed relative count error (predicted - true) / max(1, true), in [-1, inf). Logged, never rewarded.

    >>> count_error([1, 2, 6], 2).tolist()
    [-0.5, 0.0, 2.0]
    """
    error: FloatArray = (np.asarray(num_predicted, dtype=np.float64) - np.asarray(num_true)) / np.maximum(num_true, 1)
    return error


def is_giant(area_N: ArrayLike) -> BoolArray:
    """Which shapes cover more than 95 % of the grid.

    Args:
        area_N: [N] areas in bins squared.

    >>> is_giant([999 * 999, 999 * 940, 0]).tolist()
    [True, False, False]
    """
    return np.asarray(np.asarray(area_N) > GIANT_AREA * GRID_SPAN_BINS**2)


def is_truncated(faults: Collection[str]) -> bool:
    """Whether the token limit cut the answer.

    >>> is_truncated(("truncated",)), is_truncated(())
    (True, False)
    """
    return TRUNCATED in faults


def is_malformed(faults: Iterable[str]) -> bool:
    """Whether the answer has a fault other than truncation.

    >>> is_malformed(("truncated",)), is_malformed(("truncated", "bad_count"))
    (False, True)
    """
    return any(fault != TRUNCATED for fault in faults)


def rejection(absent: Collection[str], empty_categories: Sequence[str]) -> float:
    """Penalty for categories without a true shape that were not answered `None`: their share, in [0, 1].

    Args:
        absent: categories answered `None`.
        empty_categories: asked categories without a true shape.

    A shape does not replace the missing `None`: if it did, predicting a wrong box would pay.

    >>> rejection(("cat",), ("cat", "dog")), rejection((), ())
    (0.5, 0.0)
    """
    return sum(name not in absent for name in empty_categories) / max(1, len(empty_categories))


def shape_terms(
    total: ArrayLike, num_predicted: ArrayLike, num_duplicates: ArrayLike, num_giants: ArrayLike, num_true: ArrayLike
) -> dict[str, FloatArray]:
    """The terms that follow from the shapes, by name, each in [0, 1]; all but `f1` are penalties.

    >>> {name: float(value) for name, value in shape_terms(2.0, 4, 1, 0, 2).items()}
    {'f1': 0.6666666666666666, 'duplicates': 0.5, 'surplus': 1.0, 'large': 0.0}
    """
    return {
        "f1": f1(total, num_predicted, num_true),
        "duplicates": excess(num_duplicates, num_true),
        "surplus": surplus(num_predicted, num_true),
        "large": excess(num_giants, num_true),
    }


def weighted_total(terms: Mapping[str, FloatArray], weights: RewardWeights) -> FloatArray:
    """f1 less the penalties, each by its weight; a name without a weight (count_error) is left out.

    >>> float(weighted_total({"f1": np.float64(0.5), "surplus": np.float64(1.0)}, RewardWeights()))
    0.25
    """
    total = weights.f1 * terms["f1"]
    for name in PENALTIES:
        if name in terms:
            total = total - getattr(weights, name) * terms[name]
    return np.asarray(total, dtype=np.float64)
