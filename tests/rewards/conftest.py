"""Crowded random scenes of every kind of task: what the searches for counter-examples draw from."""

from collections.abc import Callable
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from shapely import area

from rewards import Predictions, Truth
from rewards.geometry.masks import Mask
from rewards.geometry.polygons import regions

Scene = tuple[Predictions, Truth]
SceneMaker = Callable[[np.random.Generator, str], Scene]

KINDS = ("box", "point", "point_in_box", "point_in_mask", "polygon", "keypoints", "text_box", "text_polygon")
"""Every geometry and what points must hit; `text_`: labels are recognised text."""
CATEGORIES = ("cat", "dog", "owl")
UNKNOWN = "unicorn"
WORDS = ("exit", "exist", "taxi", "EXIT", "a")
MASK_SIZE = (200, 150)
SIGMAS_J = np.array([0.025, 0.05, 0.1])
NUM_NUMBERS = {"box": 4, "point": 2, "keypoints": 4 + 2 * len(SIGMAS_J)}


def geometry_of(kind: str) -> str:
    """The truth's geometry."""
    return "point" if kind.startswith("point") else kind.removeprefix("text_")


@pytest.fixture(scope="session")
def random_scene() -> SceneMaker:
    """`random_scene(rng, kind)` draws one answer and its truth."""
    return make_scene


@pytest.fixture(scope="session")
def build_truth() -> Callable[..., Truth]:
    """`build_truth(kind, labels, bins_NK, categories)` adds to shapes what the kind needs."""
    return make_truth


def make_scene(rng: np.random.Generator, kind: str) -> Scene:
    """Up to 6 truths and 10 predictions of 1 to 3 labels in a crowd, with duplicates, chains, giants and odd shapes."""
    num_labels = int(rng.integers(1, 4))
    truth = _random_truth(rng, kind, num_labels)
    num_predicted = int(rng.integers(0, 11))
    shapes: list[np.ndarray] = []
    labels: list[str] = []
    for _ in range(num_predicted):
        shape, label = _predicted_shape(rng, kind, truth, shapes, labels, num_labels)
        shapes.append(shape)
        labels.append(label)
    absent = tuple(name for name in CATEGORIES if rng.random() < 0.5)
    faults = tuple(name for name in ("truncated", "bad_count") if rng.random() < 0.2)
    bins_NK = stack(geometry_of(kind), shapes)
    return SimpleNamespace(labels=tuple(labels), bins_NK=bins_NK, faults=faults, absent=absent), truth


def stack(geometry: str, shapes: list[np.ndarray]) -> np.ndarray:
    """[N, K] shapes of one geometry; polygons repeat their last vertex up to the longest."""
    longest = NUM_NUMBERS.get(geometry) or max((len(shape) for shape in shapes), default=6)
    rows = [
        shape if len(shape) == longest else np.concatenate([shape, np.tile(shape[-2:], (longest - len(shape)) // 2)])
        for shape in shapes
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, longest)


def make_truth(kind: str, labels: list[str], shapes: list[np.ndarray], categories: tuple[str, ...]) -> Truth:
    """The truth of these shapes; boxes and masks around points follow from the points."""
    geometry = geometry_of(kind)
    bins_NK = stack(geometry, shapes)
    boxes_N4 = None
    if kind == "point_in_box":
        reach_N2 = 3 + bins_NK % 40  # every point has its own box, and they overlap
        boxes_N4 = np.concatenate([bins_NK - reach_N2 // 3, bins_NK + reach_N2], axis=1)
    return Truth(
        tuple(labels),
        bins_NK,
        categories,
        geometry=geometry,
        boxes_N4=boxes_N4,
        masks=tuple(_mask(point_2) for point_2 in bins_NK) if kind == "point_in_mask" else (),
        reads_text=kind.startswith("text_"),
        sigmas_J=SIGMAS_J if kind == "keypoints" else None,
    )


def _mask(point_2: np.ndarray) -> Mask:
    """A ring of its own around a point, which lies in its hole when the ring is large."""
    x, y = (point_2 * MASK_SIZE // 999).tolist()
    return _ring(x, y, 2 + int(point_2.sum()) % 9)


@cache
def _ring(x: int, y: int, outer: int) -> Mask:
    """Pixels at most `outer` from a pixel, and at least `outer` less 6."""
    columns, rows = np.meshgrid(np.arange(MASK_SIZE[0]), np.arange(MASK_SIZE[1]))
    distance = np.hypot(columns - x, rows - y)
    encoded = coco_mask.encode(np.asfortranarray((distance <= outer) & (distance >= outer - 6), dtype=np.uint8))
    return Mask(MASK_SIZE, encoded["counts"])


def has_area(kind: str, shape_K: np.ndarray) -> bool:
    """Whether a shape can be a true one."""
    geometry = geometry_of(kind)
    if geometry == "polygon":
        return bool(area(regions(shape_K[None]))[0] > 0)
    return geometry == "point" or bool((shape_K[:2] < shape_K[2:4]).all())


def _random_truth(rng: np.random.Generator, kind: str, num_labels: int) -> Truth:
    """Truths that nearly all overlap. In half of the scenes most are moved copies of another: near it, or equal."""
    shapes: list[np.ndarray] = []
    labels: list[str] = []
    is_crowd, geometry = rng.random() < 0.5, geometry_of(kind)
    for _ in range(int(rng.integers(0, 7))):
        shape, label = new_shape(rng, geometry), _label(rng, kind, num_labels)
        if is_crowd and shapes and rng.random() < 0.8:
            source = int(rng.integers(len(shapes)))
            shape = shift(rng, geometry, shapes[source], int(rng.choice([0, 2, 5, 9])))
            label = labels[source] if rng.random() < 0.7 else label
        if has_area(kind, shape):
            shapes.append(shape)
            labels.append(label)
    return make_truth(kind, labels, shapes, CATEGORIES)


def _label(rng: np.random.Generator, kind: str, num_labels: int) -> str:
    """A category, or where labels are recognised text one of a few words that are alike."""
    return WORDS[rng.integers(len(WORDS))] if kind.startswith("text_") else CATEGORIES[rng.integers(num_labels)]


def new_shape(rng: np.random.Generator, geometry: str) -> np.ndarray:
    """A shape of 40 to 160 bins, or a point, within a crowd of about 200 bins; one box in 20 is the whole grid."""
    if geometry == "point":
        return 400 + rng.integers(0, 60, 2)
    corner_2 = 400 + rng.integers(0, 80, 2)
    side_2 = rng.integers(40, 160, 2)
    if geometry == "polygon":  # corners of a box moved about: convex or not, now and then crossing itself
        turns = rng.permutation([0, 1, 2, 3] if rng.random() < 0.2 else [0])
        box_42 = corner_2 + side_2 * np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
        corners_V2 = np.roll(box_42, int(turns[0]), axis=0) if len(turns) == 1 else box_42[turns]
        return (corners_V2 + rng.integers(-15, 16, (4, 2)))[: int(rng.integers(3, 5))].ravel()
    box = np.concatenate([corner_2, corner_2 + side_2])
    if rng.random() < 0.05:
        box = np.array([0, 0, 999, 999]) + rng.integers(0, 9, 4) * [1, 1, -1, -1]
    if geometry == "box":
        return box
    points_J2 = corner_2 + rng.integers(0, side_2, (len(SIGMAS_J), 2))
    points_J2[rng.random(len(SIGMAS_J)) < 0.3] = -1
    return np.concatenate([box, points_J2.ravel()])


def shift(rng: np.random.Generator, geometry: str, shape_K: np.ndarray, reach: int) -> np.ndarray:
    """The shape with every number moved by up to `reach` bins; what is not visible stays so."""
    moved_K = np.clip(shape_K + rng.integers(-reach, reach + 1, len(shape_K)), 0, 999)
    return np.where(shape_K < 0, -1, moved_K) if geometry == "keypoints" else moved_K


def _predicted_shape(
    rng: np.random.Generator, kind: str, truth: Truth, shapes: list[np.ndarray], labels: list[str], num_labels: int
) -> tuple[np.ndarray, str]:
    """A duplicate or neighbour of an earlier prediction, a shifted truth, or something new; now and then odd."""
    geometry = geometry_of(kind)
    draw = rng.random()
    if draw < 0.45 and shapes:  # every third an exact duplicate, the others links of a chain
        source = int(rng.integers(len(shapes)))
        shape, label = shapes[source], labels[source]
        reach = 0 if draw < 0.15 else 4 if geometry == "point" else 12
    elif draw < 0.85 and truth.labels:
        source = int(rng.integers(len(truth.labels)))
        shape, label, reach = truth.bins_NK[source], truth.labels[source], 15
    else:
        shape, label, reach = new_shape(rng, geometry), _label(rng, kind, num_labels), 0
    shape = shift(rng, geometry, shape, reach)
    return _make_odd(rng, geometry, shape), UNKNOWN if rng.random() < 0.03 else label


def _make_odd(rng: np.random.Generator, geometry: str, shape: np.ndarray) -> np.ndarray:
    """One in 12: corners swapped or no area, a crossing or flat polygon, another set of visible points."""
    odd = rng.random()
    if odd > 0.08 or geometry == "point":
        return shape
    if geometry == "polygon":
        return rng.permutation(shape.reshape(-1, 2)).ravel() if odd < 0.04 else np.tile(shape[:2], len(shape) // 2)
    corners = [2, 1, 0, 3] if odd < 0.04 else [0, 1, 0, 3]
    shape = np.concatenate([shape[corners], shape[4:]])
    if geometry == "keypoints" and odd < 0.06:
        shape[4:6] = -1
    return shape
