"""Groups of duplicates and the truths that predictions aim at, against slow references and by what must not matter."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from rewards import Predictions, RewardWeights, Truth, score_group
from rewards.duplicates import NOWHERE, group_roots, near_pairs, nearest_truths
from rewards.text import text_similarity
from rewards.values import Boxes, PredictedShapes, read_shapes
from tests.rewards.conftest import CATEGORIES, KINDS, WORDS, geometry_of, has_area, make_truth, new_shape, shift

SceneMaker = Callable[[np.random.Generator, str], tuple[Predictions, Truth]]

every_geometry = pytest.mark.parametrize("kind", ["box", "point", "polygon", "keypoints"])
every_kind = pytest.mark.parametrize("kind", KINDS)
NUM_CROWDS = 1000
BATCH = 50
"""Crowds measured in one call."""


def _components(near_NN: np.ndarray) -> list[int]:
    """First member of each shape's connected component, by depth-first search."""
    root_N = [-1] * len(near_NN)
    for start in range(len(near_NN)):
        stack = [start] if root_N[start] < 0 else []
        while stack:
            shape = stack.pop()
            if root_N[shape] < 0:
                root_N[shape] = start
                stack += np.flatnonzero(near_NN[shape]).tolist()
    return root_N


def answer_of(labels: Sequence[str], bins_NK: np.ndarray) -> Predictions:
    """An answer without faults."""
    return SimpleNamespace(labels=tuple(labels), bins_NK=bins_NK, faults=(), absent=())


def reorder(truth: Truth, order: Sequence[int]) -> Truth:
    """The same truth, its shapes in another order."""
    return replace(
        truth,
        labels=tuple(truth.labels[place] for place in order),
        bins_NK=truth.bins_NK[list(order)],
        boxes_N4=None if truth.boxes_N4 is None else truth.boxes_N4[list(order)],
        masks=tuple(truth.masks[place] for place in order) if truth.masks else (),
    )


def aims(predicted_P: Sequence[Predictions], truth_P: Sequence[Truth]) -> tuple[list[list[int]], int]:
    """([P] of [N] the truth each prediction aims at, how many others they have the value 1 for); an answer a prompt."""
    shapes, reads_text = read_shapes(predicted_P, truth_P), truth_P[0].reads_text
    labels_A = np.array([label for predicted in predicted_P for label in predicted.labels], dtype=object)
    labels_B = np.array([label for truth in truth_P for label in truth.labels], dtype=object)
    sizes_P, num_true_P = ([len(one.labels) for one in of] for of in (predicted_P, truth_P))
    prompt_A, prompt_B = (np.arange(len(truth_P)).repeat(sizes) for sizes in (sizes_P, num_true_P))
    may_AB = prompt_A[:, None] == prompt_B
    predicted_L, true_L = np.nonzero(may_AB if reads_text else may_AB & (labels_A[:, None] == labels_B))
    value_L = shapes.values(predicted_L, true_L)
    likeness_L = text_similarity(labels_A[predicted_L].tolist(), labels_B[true_L].tolist()) if reads_text else None
    nearest_A = nearest_truths(shapes, np.arange(len(labels_A)), predicted_L, true_L, value_L, likeness_L)
    first_P = np.cumsum(num_true_P) - num_true_P
    nearest_A = np.where(nearest_A == NOWHERE, NOWHERE, nearest_A - first_P[prompt_A])
    num_rivals = np.count_nonzero(value_L == 1.0) - np.count_nonzero(np.bincount(predicted_L[value_L == 1.0]))
    return [part.tolist() for part in np.split(nearest_A, np.cumsum(sizes_P)[:-1])], int(num_rivals)


@every_geometry
def test_near_pairs_are_all_pairs_of_one_family_that_are_near(random_scene: SceneMaker, kind: str) -> None:
    """The window along the x axis loses no pair: same pairs as every pair measured, odd shapes included."""
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        scenes = [random_scene(rng, kind) for _ in range(4)]
        shapes = read_shapes([predicted for predicted, _ in scenes], [scenes[0][1]])
        num = sum(len(predicted.labels) for predicted, _ in scenes)
        family_N = rng.integers(0, 3, num)
        first_L, second_L = np.nonzero(np.triu(family_N[:, None] == family_N, 1))
        near_L = shapes.near(first_L, second_L)
        expected = set(zip(first_L[near_L].tolist(), second_L[near_L].tolist(), strict=True))
        pairs = [tuple(sorted(pair)) for pair in near_pairs(shapes, family_N).tolist()]
        assert len(pairs) == len(set(pairs))
        assert set(pairs) == expected
        found += len(pairs)
    assert found > 120


@every_geometry
def test_being_near_is_mutual(random_scene: SceneMaker, kind: str) -> None:
    """So the order in which a pair is written makes no difference."""
    rng = np.random.default_rng(2)
    for _ in range(50):
        answer, truth = random_scene(rng, kind)
        shapes = read_shapes([answer], [truth])
        first_L, second_L = (pairs.ravel() for pairs in np.indices([len(answer.labels)] * 2))
        np.testing.assert_array_equal(shapes.near(first_L, second_L), shapes.near(second_L, first_L))


def test_groups_are_the_connected_components() -> None:
    """Cliques, chains and long random graphs, each named by its first member."""
    rng = np.random.default_rng(1)
    chain_NN = np.eye(60, k=1, dtype=np.bool_)
    shuffled = rng.permutation(60)
    graphs = [chain_NN, chain_NN[np.ix_(shuffled, shuffled)]]
    graphs += [rng.random((num, num)) < density for num in (1, 5, 30) for density in (0.0, 0.02, 0.1, 1.0)]
    graphs += [rng.random((40, 40)) < 0.03 for _ in range(200)]
    for graph in graphs:
        near_NN = graph | graph.T
        np.fill_diagonal(near_NN, False)
        root_N = group_roots(np.argwhere(np.triu(near_NN)), len(near_NN))
        assert root_N.tolist() == _components(near_NN)


def test_no_shapes_have_no_groups() -> None:
    """The empty answer needs no case of its own."""
    nothing, no_pair = read_shapes([], [Truth((), np.zeros((0, 4)), ())]), np.zeros(0, dtype=np.int64)
    assert near_pairs(nothing, no_pair).shape == (0, 2)
    assert group_roots(np.zeros((0, 2), dtype=np.int64), 0).shape == (0,)
    assert nearest_truths(nothing, no_pair, no_pair, no_pair, np.zeros(0)).shape == (0,)


def nearest(
    shapes: PredictedShapes,
    value_AB: Sequence[Sequence[float]],
    likeness_AB: Sequence[Sequence[float]] | None = None,
    wanted_N: Sequence[int] | None = None,
) -> list[int]:
    """The truths of all predictions by given values; the same with truths and pairs counted from the other end."""
    value = np.array(value_AB, dtype=np.float64)
    predicted_L, true_L = (places.ravel() for places in np.indices(value.shape))
    wanted = np.arange(len(value)) if wanted_N is None else np.array(wanted_N)
    value_L = value.ravel()
    likeness_L = None if likeness_AB is None else np.array(likeness_AB, dtype=np.float64).ravel()
    found_A = nearest_truths(shapes, wanted, predicted_L, true_L, value_L, likeness_L)
    turned = replace(shapes, truth_BK=shapes.truth_BK[::-1])
    back_L = None if likeness_L is None else likeness_L[::-1]
    turned_L = value.shape[1] - 1 - true_L[::-1]
    turned_A = nearest_truths(turned, wanted, predicted_L[::-1], turned_L, value_L[::-1], back_L)
    assert np.where(turned_A == NOWHERE, NOWHERE, value.shape[1] - 1 - turned_A).tolist() == found_A.tolist()
    return found_A.tolist()


SHAPE_14 = np.array([[10.0, 10, 50, 50]])
FAR_AND_NEAR_24 = np.array([[10.0, 10, 90, 90], [11, 10, 50, 50]])


def test_the_largest_value_comes_first() -> None:
    """However unlike the text and however far the shape; value 0 and what is not asked for have no truth."""
    boxes = Boxes(SHAPE_14, FAR_AND_NEAR_24)
    assert nearest(boxes, [[0.6, 0.5]]) == [0]
    assert nearest(boxes, [[0.6, 0.5]], [[0.0, 1.0]]) == [0]
    assert nearest(boxes, [[0.0, 0.1]]) == [1]
    assert nearest(boxes, [[0.0, 0.0]]) == [NOWHERE]
    two = Boxes(SHAPE_14.repeat(2, axis=0), FAR_AND_NEAR_24)
    assert nearest(two, [[0.6, 0.5], [0.6, 0.5]], wanted_N=[1]) == [NOWHERE, 0]


def test_of_equal_values_the_likelier_text_comes_first_and_then_the_nearer_shape() -> None:
    """The text goes before the distance; without texts, or with equally like ones, the distance decides."""
    boxes = Boxes(SHAPE_14, FAR_AND_NEAR_24)
    assert nearest(boxes, [[0.5, 0.5]], [[0.9, 0.2]]) == [0]
    assert nearest(boxes, [[0.5, 0.5]], [[0.2, 0.9]]) == [1]
    assert nearest(boxes, [[0.5, 0.5]], [[0.9, 0.9]]) == [1]
    assert nearest(boxes, [[0.5, 0.5]]) == [1]


def test_a_point_in_two_boxes_aims_at_the_nearer_true_point() -> None:
    """Hits are worth 1 alike. What counts is the true point and not the box, whose corners here tell the opposite."""
    truth = Truth(
        ("a", "a"),
        np.array([[100, 100], [140, 100]]),
        ("a",),
        boxes_N4=np.array([[0, 0, 300, 300], [90, 90, 150, 110]]),
    )
    aims_N, rivals = aims([answer_of("aa", np.array([[119, 100], [121, 100]]))], [truth])
    assert (aims_N, rivals) == ([[0, 1]], 2)


def test_a_truth_that_sees_fewer_key_points_ties_and_the_distance_tells() -> None:
    """What the truth does not see does not count, so the whole instance has the value 1 for both."""
    whole, fewer = [100, 100, 200, 200, 120, 120, 180, 180, 150, 150], [100, 100, 200, 200, 120, 120, -1, -1, 150, 150]
    truth = Truth(("a", "a"), np.array([fewer, whole]), ("a",), geometry="keypoints")
    assert aims([answer_of("aa", np.array([whole, fewer]))], [truth]) == ([[1, 0]], 1)


def test_of_equal_distances_the_first_by_coordinates_comes_first() -> None:
    """Left before right, of equal x above before below, whatever the order in which the truths were given."""
    for first, second in (([96, 100], [104, 100]), ([97, 104], [104, 97]), ([104, 103], [104, 97])):
        truth = Truth(("a", "a"), np.array([first, second]), ("a",))
        points = read_shapes([answer_of("a", np.array([[100, 100]]))], [truth])
        assert nearest(points, [[0.5, 0.5]]) == [0 if first < second else 1]
    box, middle = [10, 10, 50, 50], 30
    truth = Truth(("a", "a"), np.array([[*box, 20, middle + 1], [*box, 20, middle - 1]]), ("a",), geometry="keypoints")
    instances = read_shapes([answer_of("a", np.array([[*box, 20, middle]]))], [truth])
    assert nearest(instances, [[0.9, 0.9]]) == [1]


@every_kind
def test_the_order_of_predictions_and_truths_changes_no_aim(random_scene: SceneMaker, kind: str) -> None:
    """200 crowds, each with all predictions and all truths in another order."""
    rng = np.random.default_rng(3)
    num_aimed = 0
    for _ in range(200):
        answer, truth = random_scene(rng, kind)
        ((aims_N,), _) = aims([answer], [truth])
        predictions, truths = rng.permutation(len(answer.labels)), rng.permutation(len(truth.labels)).tolist()
        shuffled = answer_of([answer.labels[place] for place in predictions], answer.bins_NK[predictions])
        ((of_shuffled_N,), _) = aims([shuffled], [truth])
        assert of_shuffled_N == [aims_N[place] for place in predictions]
        ((of_reordered_N,), _) = aims([answer], [reorder(truth, truths)])
        assert [NOWHERE if place == NOWHERE else truths[place] for place in of_reordered_N] == aims_N
        num_aimed += sum(place != NOWHERE for place in aims_N)
    assert num_aimed > 300


def _crowd(rng: np.random.Generator, kind: str) -> Truth:
    """2 to 8 truths of few labels: nested in another, seeing less than it, a bin or two beside it, or new."""
    geometry, labels = geometry_of(kind), WORDS[:3] if kind.startswith("text_") else CATEGORIES[:2]
    shapes = [new_shape(rng, geometry)]
    for _ in range(int(rng.integers(1, 8))):
        shape_K, draw = shapes[rng.integers(len(shapes))].copy(), rng.random()
        if draw < 0.2:
            shape_K = new_shape(rng, geometry)
        elif draw < 0.6 and geometry == "box":
            shape_K += rng.integers(0, 4, 4) * [1, 1, -1, -1]
        elif draw < 0.6 and geometry == "keypoints":
            hidden = int(rng.integers(3))
            shape_K[4 + 2 * hidden : 6 + 2 * hidden] = -1
        elif draw < 0.9:
            shape_K = shift(rng, geometry, shape_K, 2)
        shapes.append(shape_K)
    shapes = [shape_K for shape_K in shapes if has_area(kind, shape_K)]
    return make_truth(kind, [labels[rng.integers(len(labels))] for _ in shapes], shapes, CATEGORIES)


@every_kind
def test_an_exact_copy_of_a_truth_aims_at_it(kind: str) -> None:
    """1,000 crowds, a copy of every truth of each. Where targets overlap, and where another truth sees only some of the
    key points, a copy has the value 1 for others too.
    """
    rng = np.random.default_rng(4)
    num_rivals = 0
    for _ in range(NUM_CROWDS // BATCH):
        truth_P = [_crowd(rng, kind) for _ in range(BATCH)]
        copies_P = [answer_of(truth.labels, truth.bins_NK) for truth in truth_P]
        aims_PN, rivals = aims(copies_P, truth_P)
        assert aims_PN == [list(range(len(truth.labels))) for truth in truth_P]
        num_rivals += rivals
    has_rivals = kind in ("point_in_box", "point_in_mask", "keypoints") or kind.startswith("text_")
    assert num_rivals > 300 if has_rivals else num_rivals == 0


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_order_of_the_truths_decides_nothing_where_all_else_ties(order: tuple[int, int]) -> None:
    """Two texts in one box that a prediction is equally like; two polygons of one frame; one point in two boxes."""
    box, whole = [0, 0, 9, 9], [0, 0, 40, 0, 40, 40, 0, 40, 0, 40]
    cut = np.array([[10, 0, 40, 0, 40, 40, 0, 40, 0, 10], [0, 0, 30, 0, 40, 10, 40, 40, 0, 40]])
    texts = ("ab", "cd")
    truths = [
        Truth(tuple(texts[i] for i in order), np.array([box] * 2), ("word",), reads_text=True),
        Truth(("a", "a"), cut[list(order)], ("a",), geometry="polygon"),
        Truth(
            ("a", "a"), np.array([[50, 50]] * 2), ("a",),
            boxes_N4=np.array([[40, 45, 60, 55], [45, 40, 55, 60]])[list(order)],
        ),
    ]  # fmt: skip
    answers = [(("ab", "ad"), [box] * 2), (("a", "a"), [cut[0].tolist(), whole]), (("a",), [[42, 50]])]
    totals = [
        score_group(
            [SimpleNamespace(labels=labels, bins_NK=np.array(shapes), faults=(), absent=())],
            truth,
            weights=RewardWeights(),
        ).total_G[0]
        for truth, (labels, shapes) in zip(truths, answers, strict=True)
    ]
    assert totals == pytest.approx([0.25, 0.9375, 1.0], abs=0.05)
