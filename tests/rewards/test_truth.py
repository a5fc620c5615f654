"""The ground truth: what is refused, and that shapes which no answer could tell apart are one.

Axes: B true shapes as given, K numbers of a shape.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rewards import Predictions, RewardWeights, Truth, score_group
from rewards.geometry.masks import Mask
from tests.rewards.conftest import CATEGORIES, KINDS, WORDS, geometry_of, has_area, make_truth, new_shape

SceneMaker = Callable[[np.random.Generator, str], tuple[Predictions, Truth]]

every_kind = pytest.mark.parametrize("kind", KINDS)
SQUARE = [0, 0, 9, 0, 9, 9, 0, 9]
MASK = Mask((3, 2), b"132")
"""Three of its six pixels."""
REFUSED = {
    # name: (arguments of a truth, what the message says)
    "counts differ": ({"labels": ("a",), "bins_NK": np.zeros((0, 4))}, "1 labels and bins of shape"),
    "which geometry": ({"labels": ("a",), "bins_NK": np.array([SQUARE])}, "known are box, point, polygon, keypoints"),
    "unknown geometry": ({"labels": ("a",), "bins_NK": np.array([SQUARE]), "geometry": "quad"}, "geometry 'quad'"),
    "other geometry": ({"labels": ("a",), "bins_NK": np.array([[1, 2]]), "geometry": "box"}, "not of geometry 'box'"),
    "half a vertex": ({"labels": (), "bins_NK": np.zeros((0, 7)), "geometry": "polygon"}, "not of geometry 'polygon'"),
    "no key point": ({"labels": (), "bins_NK": np.zeros((0, 4)), "geometry": "keypoints"}, "not of geometry"),
    "one axis": ({"labels": (), "bins_NK": np.zeros(0)}, "bins of shape"),
    "no area": ({"labels": ("a",), "bins_NK": np.array([[9, 0, 9, 5]])}, "no area"),
    "swapped corners": ({"labels": ("a",), "bins_NK": np.array([[9, 0, 0, 5]])}, "no area"),
    "flat polygon": (
        {"labels": ("a",), "bins_NK": np.array([[0, 0, 9, 9, 5, 5]]), "geometry": "polygon"},
        "a polygon has no area",
    ),
    "key points, no area": (
        {"labels": ("a",), "bins_NK": np.array([[9, 0, 0, 5, 3, 3]]), "geometry": "keypoints"},
        "a keypoints has no area",
    ),
    "half visible": (
        {"labels": ("a",), "bins_NK": np.array([[0, 0, 9, 5, 3, -1]]), "geometry": "keypoints"},
        "one number below 0",
    ),
    "sigmas": (
        {"labels": (), "bins_NK": np.zeros((0, 8)), "geometry": "keypoints", "sigmas_J": np.array([0.1])},
        "sigmas of shape",
    ),
    "masks for boxes": ({"labels": ("a",), "bins_NK": np.array([[0, 0, 9, 9]]), "masks": (MASK,)}, "go with points"),
    "a mask too many": (
        {"labels": ("a",), "bins_NK": np.array([[1, 2]]), "masks": (MASK, MASK)},
        "1 points and 2 masks",
    ),
    "a box too many": (
        {"labels": ("a",), "bins_NK": np.array([[1, 2]]), "boxes_N4": np.zeros((2, 4))},
        "1 points and boxes of shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_truth_that_no_answer_can_match_is_refused(case: str) -> None:
    """Such a record is an error before it is a reward."""
    arguments, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"truth: .*{message}"):
        Truth(**arguments, categories=("a",))


def shapes_of(kind: str, rng: np.random.Generator, num: int) -> list[np.ndarray]:
    """Different shapes that can be true ones."""
    shapes: list[np.ndarray] = []
    while len(shapes) < num:
        shape_K = new_shape(rng, geometry_of(kind))
        if has_area(kind, shape_K) and not any(np.array_equal(shape_K, other_K) for other_K in shapes):
            shapes.append(shape_K)
    return shapes


@every_kind
def test_equal_shapes_of_one_label_are_one(kind: str) -> None:
    """The first of each stays, in the order given; the same shape under another label, or text, is another."""
    rng = np.random.default_rng(50)
    one, other = WORDS[:2] if kind.startswith("text_") else CATEGORIES[:2]
    for _ in range(20):
        first, second = shapes_of(kind, rng, 2)
        shapes, labels = [second, first, first, first, second, first], [one, one, one, other, one, other]
        truth = make_truth(kind, labels, shapes, CATEGORIES)
        assert truth.places_B.tolist() == [0, 1, 3]
        assert truth.labels == (one, one, other)
        given = make_truth(kind, [one] * 2, [second, first], CATEGORIES)
        np.testing.assert_array_equal(truth.bins_NK[:2], given.bins_NK)
        np.testing.assert_array_equal(truth.bins_NK[1], truth.bins_NK[2])
        assert truth.masks[:2] == given.masks
        assert len(truth.masks) == (3 if kind == "point_in_mask" else 0)
        assert (truth.boxes_N4 is None) == (kind != "point_in_box")
        if truth.boxes_N4 is not None:
            assert truth.boxes_N4.tolist() == [*given.boxes_N4.tolist(), given.boxes_N4[1].tolist()]


@every_kind
def test_shapes_that_differ_in_one_number_stay_apart(kind: str) -> None:
    """A bin more in any number that counts."""
    rng = np.random.default_rng(51)
    label = WORDS[0] if kind.startswith("text_") else CATEGORIES[0]
    num_apart = 0
    for _ in range(20):
        (shape_K,) = shapes_of(kind, rng, 1)
        moved = [shape_K + step_K for step_K in np.eye(len(shape_K), dtype=np.int64)]
        seen = [moved_K for moved_K in moved if has_area(kind, moved_K) and not ((shape_K < 0) & (moved_K >= 0)).any()]
        truth = make_truth(kind, [label] * (len(seen) + 1), [shape_K, *seen], CATEGORIES)
        assert truth.places_B.tolist() == list(range(len(seen) + 1))
        num_apart += len(seen)
    assert num_apart >= 40


@every_kind
def test_said_again_a_truth_changes_no_reward(random_scene: SceneMaker, kind: str) -> None:
    """Every random answer earns what it earns beside the truth without copies, term by term."""
    rng = np.random.default_rng(52)
    num_copies = 0
    for _ in range(30):
        answer, truth = random_scene(rng, kind)
        num = len(truth.labels)
        copies = rng.integers(0, num, int(rng.integers(0, 4)) if num else 0).tolist()
        order = [*range(num), *copies]
        doubled = replace(
            truth,
            labels=tuple(truth.labels[place] for place in order),
            bins_NK=truth.bins_NK[order],
            boxes_N4=None if truth.boxes_N4 is None else truth.boxes_N4[order],
            masks=tuple(truth.masks[place] for place in order) if truth.masks else (),
        )
        assert doubled.places_B.tolist() == list(range(num))
        alone, beside = (score_group([answer], of, weights=RewardWeights(), prefixes=True) for of in (truth, doubled))
        assert {name: values_G.tolist() for name, values_G in beside.terms_G.items()} == {
            name: values_G.tolist() for name, values_G in alone.terms_G.items()
        }
        assert beside.prefixes_G[0].earned_P.tolist() == alone.prefixes_G[0].earned_P.tolist()
        num_copies += len(copies)
    assert num_copies > 20


SAME_SQUARE = {
    "other starting vertex": [9, 9, 0, 9, 0, 0, 9, 0],
    "reversed": [0, 9, 9, 9, 9, 0, 0, 0],
    "an extra vertex on a side": [0, 0, 4, 0, 9, 0, 9, 9, 0, 9],
    "the last vertex repeated": [0, 0, 9, 0, 9, 9, 0, 9, 0, 9],
    "the first vertex repeated": [0, 0, 9, 0, 9, 9, 0, 9, 0, 0],
    "out along a line and back": [0, 0, 9, 0, 20, 0, 9, 0, 9, 9, 0, 9],
}
OTHER_SQUARE = {
    "a bin wider": [0, 0, 10, 0, 10, 9, 0, 9],
    "a corner cut": [0, 0, 8, 0, 9, 1, 9, 9, 0, 9],
    "half of it, within the same bounds": [0, 0, 9, 0, 9, 9],
    "beside it": [9, 0, 18, 0, 18, 9, 9, 9],
}


def polygons(*shapes: Sequence[int], labels: Sequence[str] = ()) -> Truth:
    """The truth of these polygons, labelled "a" unless told."""
    return make_truth("polygon", list(labels) or ["a"] * len(shapes), [np.array(shape) for shape in shapes], ("a",))


@pytest.mark.parametrize("case", SAME_SQUARE)
def test_polygons_of_equal_area_are_one_however_they_are_written(case: str) -> None:
    """The first stays as it is written, between others; under another label it is another."""
    truth = polygons([50, 0, 59, 0, 59, 9], SAME_SQUARE[case], SQUARE, SAME_SQUARE[case])
    assert truth.places_B.tolist() == [0, 1]
    written_K = SAME_SQUARE[case]
    assert truth.bins_NK[1, : len(written_K)].tolist() == written_K
    assert polygons(SQUARE, SAME_SQUARE[case], labels=("a", "b")).places_B.tolist() == [0, 1]


@pytest.mark.parametrize("case", OTHER_SQUARE)
def test_polygons_of_other_areas_stay_apart(case: str) -> None:
    """However small the difference that the grid can have."""
    assert polygons(SQUARE, OTHER_SQUARE[case]).places_B.tolist() == [0, 1]


def test_polygons_that_cross_themselves_are_one_by_what_they_enclose() -> None:
    """A bow is its two triangles, wherever its ring begins, and with its crossing written as a vertex."""
    bow = [0, 0, 8, 8, 8, 0, 0, 8]
    same = ([8, 0, 0, 8, 0, 0, 8, 8], [0, 8, 8, 0, 8, 8, 0, 0], [0, 0, 4, 4, 8, 8, 8, 0, 4, 4, 0, 8])
    assert polygons(bow, *same, [0, 0, 8, 8, 0, 8]).places_B.tolist() == [0, 4]


def test_of_coincident_points_the_one_with_the_smallest_box_stays() -> None:
    """Whoever hits it hits the larger ones too. Its place, label and box are kept together."""
    boxes_N4 = np.array([[0, 0, 90, 90], [40, 40, 60, 60], [45, 45, 55, 56], [0, 0, 9, 9], [45, 45, 57, 55]])
    points_NK = np.array([[50, 50]] * 3 + [[5, 5]] + [[50, 50]])
    truth = Truth(("a", "a", "a", "a", "b"), points_NK, ("a", "b"), boxes_N4=boxes_N4)
    assert truth.places_B.tolist() == [2, 3, 4]
    assert truth.labels == ("a", "a", "b")
    assert truth.bins_NK.tolist() == [[50, 50], [5, 5], [50, 50]]
    assert truth.boxes_N4 is not None
    assert truth.boxes_N4.tolist() == boxes_N4[2:].tolist()


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1]])
def test_of_coincident_points_the_one_with_the_smallest_mask_stays(order: list[int]) -> None:
    """By its share of the image, as images of several sizes lie on one grid. A box beside the mask does not count: here
    it is largest where the mask is smallest.
    """
    quarter = np.zeros((20, 20), dtype=np.uint8, order="F")
    quarter[:10, :10] = 1
    quarter_of_400 = Mask((20, 20), coco_mask.encode(quarter)["counts"])
    masks = [Mask((1, 1), b"01"), Mask((3, 2), b"15"), MASK, quarter_of_400]
    boxes_N4 = np.array([[0, 0, side, side] for side in (1, 2, 3, 4)])
    elsewhere_12, of_order = np.array([[9, 9]]), [masks[place] for place in order]
    truth = Truth(
        ("a",) * 5,
        np.concatenate([[[0, 999]] * 4, elsewhere_12]),
        ("a",),
        masks=(*of_order, MASK),
        boxes_N4=boxes_N4[[*order, 0]],
    )
    assert truth.places_B.tolist() == [order.index(3), 4]
    assert truth.masks == (quarter_of_400, MASK)
    assert truth.boxes_N4 is not None
    assert truth.boxes_N4.tolist() == boxes_N4[[3, 0]].tolist()


def test_key_points_are_one_only_with_their_box_and_all_they_see() -> None:
    """Another box, or a key point less, is another instance."""
    seen, hidden = [0, 0, 9, 9, 1, 1, 5, 5], [0, 0, 9, 9, 1, 1, -1, -1]
    other_box = [0, 0, 9, 8, 1, 1, 5, 5]
    truth = Truth(("a",) * 5, np.array([seen, hidden, seen, other_box, hidden]), ("a",), geometry="keypoints")
    assert truth.places_B.tolist() == [0, 1, 3]


def test_empty_categories_are_those_that_no_shape_has() -> None:
    """Joined or not; where labels are recognised text it is all or none."""
    same_N4 = np.array([SQUARE[:2] + SQUARE[4:6]] * 2)
    assert Truth(("a", "a"), same_N4, ("c", "a", "b")).empty_categories == ("c", "b")
    assert Truth((), same_N4[:0], ("word",), reads_text=True).empty_categories == ("word",)
    assert Truth(("a", "a"), same_N4, ("word",), reads_text=True).empty_categories == ()
