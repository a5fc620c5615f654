"""Crowded random scenes: what the searches for counter-examples draw from."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from rewards import Said, Truth
from rewards.geometry import near_copies, pairwise_value

Scene = tuple[Said, Truth]
SceneMaker = Callable[[np.random.Generator, int], Scene]

CATEGORIES = ("cat", "dog", "owl")
UNKNOWN = "unicorn"


@pytest.fixture
def random_scene() -> SceneMaker:
    """`random_scene(rng, num_coordinates)` draws one answer and its truth."""
    return make_scene


def make_scene(rng: np.random.Generator, num_coordinates: int) -> Scene:
    """Up to 6 truths and 10 said shapes of 1 to 3 labels in a crowd, with copies, chains, giants and odd boxes."""
    num_labels = int(rng.integers(1, 4))
    truth = _truth(rng, num_coordinates, num_labels)
    num_said = int(rng.integers(0, 11))
    shapes: list[np.ndarray] = []
    labels: list[str] = []
    for _ in range(num_said):
        shape, label = _said_shape(rng, truth, shapes, labels, num_labels)
        shapes.append(shape)
        labels.append(label)
    bins_NK = np.array(shapes, dtype=np.int64).reshape(-1, num_coordinates)
    absent = tuple(name for name in CATEGORIES if rng.random() < 0.5)
    faults = tuple(name for name in ("truncated", "bad_count") if rng.random() < 0.2)
    return SimpleNamespace(labels=tuple(labels), bins_NK=bins_NK, faults=faults, absent=absent), truth


def _truth(rng: np.random.Generator, num_coordinates: int, num_labels: int) -> Truth:
    """Truths of which no two of a label are near-copies, nearly all overlapping."""
    labels: list[str] = []
    bins_BK = np.zeros((0, num_coordinates), dtype=np.int64)
    for _ in range(int(rng.integers(0, 7))):
        shape_K, label = _shape(rng, num_coordinates), CATEGORIES[rng.integers(num_labels)]
        near_B = near_copies(pairwise_value([shape_K], bins_BK), num_coordinates)[0]
        if not any(near and label == other for near, other in zip(near_B, labels, strict=True)):
            bins_BK = np.concatenate([bins_BK, [shape_K]])
            labels.append(label)
    return Truth(tuple(labels), bins_BK, CATEGORIES)


def _shape(rng: np.random.Generator, num_coordinates: int) -> np.ndarray:
    """A box of 40 to 160 bins, or a point, within a crowd of about 200 bins; one box in 20 is the whole grid."""
    if num_coordinates == 2:
        return 400 + rng.integers(0, 60, 2)
    if rng.random() < 0.05:
        return np.array([0, 0, 999, 999]) + rng.integers(0, 9, 4) * [1, 1, -1, -1]
    corner_2 = 400 + rng.integers(0, 80, 2)
    return np.concatenate([corner_2, corner_2 + rng.integers(40, 160, 2)])


def _said_shape(
    rng: np.random.Generator, truth: Truth, shapes: list[np.ndarray], labels: list[str], num_labels: int
) -> tuple[np.ndarray, str]:
    """A copy or a neighbour of what was said, a shifted truth, or something new; now and then odd."""
    num_coordinates = truth.bins_NK.shape[1]
    draw = rng.random()
    if draw < 0.45 and shapes:  # every third an exact copy, the others links of a chain
        source = int(rng.integers(len(shapes)))
        shape, label = shapes[source], labels[source]
        reach = 0 if draw < 0.15 else 12 if num_coordinates == 4 else 4
    elif draw < 0.85 and truth.labels:
        source = int(rng.integers(len(truth.labels)))
        shape, label, reach = truth.bins_NK[source], truth.labels[source], 15
    else:
        shape, label, reach = _shape(rng, num_coordinates), CATEGORIES[rng.integers(num_labels)], 0
    shape = np.clip(shape + rng.integers(-reach, reach + 1, num_coordinates), 0, 999)
    odd = rng.random()
    if odd < 0.04 and num_coordinates == 4:
        shape = shape[[2, 1, 0, 3]]  # swapped corners
    elif odd < 0.08 and num_coordinates == 4:
        shape = shape[[0, 1, 0, 3]]  # no area
    return shape, UNKNOWN if rng.random() < 0.03 else label
