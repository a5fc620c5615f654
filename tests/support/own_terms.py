"""Reward terms as a user would write them, good and bad."""

import os
import time

from rewards import Predictions, Truth

NOT_A_FUNCTION = 3


def share_known(predicted: Predictions, truth: Truth) -> float:
    """Share of the shapes whose label is among the true ones; 1 for no shape."""
    return (
        sum(label in truth.labels for label in predicted.labels) / max(1, len(predicted.labels))
        if predicted.labels
        else 1.0
    )


def many_shapes(predicted: Predictions, truth: Truth) -> float:
    """A bad idea: the more shapes, the better."""
    return min(1.0, len(predicted.labels) / 20)


def not_a_number(predicted: Predictions, truth: Truth) -> float:
    """NaN, as the mean of nothing is."""
    return float("nan")


def too_much(predicted: Predictions, truth: Truth) -> float:
    """Beyond the range of 0 to 1."""
    return 1.5


def nothing(predicted: Predictions, truth: Truth) -> None:
    """A forgotten return."""


def waits(predicted: Predictions, truth: Truth) -> float:
    """A judge that does not answer."""
    time.sleep(600)
    return 0.0


def dies(predicted: Predictions, truth: Truth) -> float:
    """A library that ends its process."""
    os._exit(1)
