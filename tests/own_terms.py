"""Reward terms as a user would write them, good and bad."""

import os
import time

from rewards import Said, Truth

NOT_A_FUNCTION = 3


def share_known(said: Said, truth: Truth) -> float:
    """Share of the shapes whose label is among the true ones; 1 for no shape."""
    return sum(label in truth.labels for label in said.labels) / max(1, len(said.labels)) if said.labels else 1.0


def many_shapes(said: Said, truth: Truth) -> float:
    """A bad idea: the more the better."""
    return min(1.0, len(said.labels) / 20)


def not_a_number(said: Said, truth: Truth) -> float:
    """What a mean of nothing is."""
    return float("nan")


def too_much(said: Said, truth: Truth) -> float:
    """Beyond the range of 0 to 1."""
    return 1.5


def nothing(said: Said, truth: Truth) -> None:
    """A forgotten return."""


def waits(said: Said, truth: Truth) -> float:
    """A judge that does not answer."""
    time.sleep(600)
    return 0.0


def dies(said: Said, truth: Truth) -> float:
    """A library that ends its process."""
    os._exit(1)
