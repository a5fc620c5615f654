"""The laws of the default total, searched for counter-examples in crowded scenes (hypothesis and seeded search).

Crowds are where plain one-to-one F1 fails: a duplicate of one shape can serve a second, overlapping truth. Every law is
tried for every geometry, for points with and without boxes and masks to hit, and for labels that are recognised text.
"""

from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards import Predictions, RewardWeights, Truth, score_group
from rewards.duplicates import near_pairs
from rewards.matching import UNMATCHED, match
from rewards.overlaps import measure
from rewards.values import read_shapes
from tests.rewards.conftest import KINDS, has_area
from tests.support.examples import examples

SceneMaker = Callable[[np.random.Generator, str], tuple[Predictions, Truth]]

WEIGHTS = RewardWeights()
ROUNDING = 1e-12
PENALTIES = ("duplicates", "surplus", "large", "rejection", "format", "truncated")
every_kind = pytest.mark.parametrize("kind", KINDS)


def predicted(labels: Iterable[str], bins_NK: np.ndarray, like: Predictions) -> Predictions:
    """An answer of these shapes with another's faults and absent categories."""
    return SimpleNamespace(labels=tuple(labels), bins_NK=bins_NK, faults=like.faults, absent=like.absent)


def keep(answer: Predictions, indices: Iterable[int]) -> Predictions:
    """The answer's shapes at these indices, in that order."""
    order = list(indices)
    return predicted((answer.labels[index] for index in order), answer.bins_NK[order], answer)


def insert(answer: Predictions, place: int, label: str, shape_K: np.ndarray) -> Predictions:
    """The answer with one more shape at a place; a shorter polygon repeats its last vertex."""
    labels = (*answer.labels[:place], label, *answer.labels[place:])
    longest = max(answer.bins_NK.shape[1], len(shape_K))
    old_NK, new_1K = longer(answer.bins_NK, longest), longer(np.asarray(shape_K)[None], longest)
    return predicted(labels, np.concatenate([old_NK[:place], new_1K, old_NK[place:]]), answer)


def longer(bins_NK: np.ndarray, num_coordinates: int) -> np.ndarray:
    """Polygons lengthened to `num_coordinates` numbers; other shapes have them already."""
    if bins_NK.shape[1] == num_coordinates:
        return bins_NK
    return np.concatenate([bins_NK, np.tile(bins_NK[:, -2:], (num_coordinates - bins_NK.shape[1]) // 2)], axis=1)


def unmatched(answers: list[Predictions], truth: Truth, weights: RewardWeights = WEIGHTS) -> list[list[int]]:
    """The shapes of each answer that the matching leaves without a truth."""
    truth_GN = [match(overlaps.value_NB, overlaps.root_N).truth_N for overlaps in measure([answers], [truth], weights)]
    return [[int(shape) for shape in np.flatnonzero(truth_N == UNMATCHED)] for truth_N in truth_GN]


def totals(answers: list[Predictions], truth: Truth, weights: RewardWeights = WEIGHTS) -> np.ndarray:
    """Default totals of these answers."""
    return score_group(answers, truth, weights=weights).total_G


def check_laws(answer: Predictions, truth: Truth, rng: np.random.Generator, weights: RewardWeights = WEIGHTS) -> int:
    """Order, duplicates, unmatched shapes added and removed, range. Returns how many unmatched shapes were tried."""
    num = len(answer.labels)
    permuted = keep(answer, rng.permutation(num))
    places = rng.integers(0, num + 1, num).tolist()
    duplicates = [
        insert(answer, place, label, shape_K)
        for place, label, shape_K in zip(places, answer.labels, answer.bins_NK, strict=True)
    ]
    added = [(int(rng.integers(0, num + 1)), *candidate) for candidate in _candidates(answer, truth, rng)]
    candidates = [insert(answer, *addition) for addition in added]
    unmatched_G = unmatched([answer, *candidates], truth, weights)
    smaller = [keep(answer, [other for other in range(num) if other != shape]) for shape in unmatched_G[0]]
    larger = [
        candidate
        for candidate, (place, *_), free in zip(candidates, added, unmatched_G[1:], strict=True)
        if place in free
    ]
    base, of_permuted, *others = totals([answer, permuted, *duplicates, *smaller, *larger], truth, weights)
    assert of_permuted == pytest.approx(base, abs=ROUNDING), "order"
    of_duplicates, of_smaller = others[:num], others[num : num + len(smaller)]
    assert max(of_duplicates, default=-np.inf) <= base + ROUNDING, "duplicate added"
    assert min(of_smaller, default=np.inf) >= base - ROUNDING, "unmatched removed"
    assert max(others[num + len(smaller) :], default=-np.inf) <= base + ROUNDING, "unmatched added"
    low, high = weights.bounds
    assert all(low - ROUNDING <= total <= high + ROUNDING for total in (base, *others)), "range"
    return len(smaller) + len(larger)


def _candidates(answer: Predictions, truth: Truth, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """Shapes to add: near predicted and true ones, halfway between two (which may join their groups), and anything."""
    num_coordinates = truth.bins_NK.shape[1]
    pool = [*zip(answer.labels, answer.bins_NK, strict=True), *zip(truth.labels, truth.bins_NK, strict=True)]
    longest = max((len(shape_K) for _, shape_K in pool), default=num_coordinates)
    pool = [(label, longer(shape_K[None], longest)[0]) for label, shape_K in pool]
    anything_K = np.asarray(rng.integers(0, 1000, num_coordinates))
    shapes = [("owl", anything_K)]
    for _ in range(4 if pool else 0):
        (label, first_K), (_, second_K) = pool[rng.integers(len(pool))], pool[rng.integers(len(pool))]
        hidden_K = first_K < 0  # a key point that is not visible
        moved_K = np.clip(first_K + rng.integers(-9, 10, longest), 0, 999)
        shapes.append((label, np.where(hidden_K, -1, moved_K)))
        shapes.append((label, np.where(hidden_K | (second_K < 0), -1, (first_K + second_K) // 2)))
    return shapes


@every_kind
def test_laws_hold_in_seeded_crowds(random_scene: SceneMaker, kind: str) -> None:
    """Scenes of every kind, each with every duplicate, every unmatched removal and nine additions."""
    rng = np.random.default_rng(20)
    num_scenes = 24 if "polygon" in kind else 64
    tried = sum(check_laws(*random_scene(rng, kind), rng) for _ in range(num_scenes))
    assert tried > 5 * num_scenes  # the search did meet unmatched shapes


@pytest.mark.soak
@every_kind
def test_laws_hold_in_many_crowds(random_scene: SceneMaker, kind: str) -> None:
    """The same search in 10,000 scenes of every kind, one to five minutes each on an idle core."""
    rng = np.random.default_rng(25)
    for _ in range(10_000):
        check_laws(*random_scene(rng, kind), rng)


def test_laws_hold_for_any_weights(random_scene: SceneMaker) -> None:
    """They come from the construction, not from a penalty large enough to hide a rise of F1; shaped boxes too."""
    rng = np.random.default_rng(21)
    for trial in range(64):
        scales = (rng.random(9) * (rng.random(9) < 0.5)).tolist()
        f1, duplicates, surplus, large, rejection, form, truncated, giou, centre = scales
        weights = RewardWeights(
            f1=f1,
            duplicates=duplicates,
            surplus=surplus,
            large=large,
            rejection=rejection,
            format=form,
            truncated=truncated,
            giou=giou,
            centre=centre,
        )
        check_laws(*random_scene(rng, KINDS[trial % len(KINDS)]), rng, weights)


def test_laws_hold_for_shaped_boxes(random_scene: SceneMaker) -> None:
    """GIoU and centres give a value to boxes that miss; a box without area must still have value 0."""
    rng = np.random.default_rng(26)
    for _ in range(60):
        check_laws(*random_scene(rng, "box"), rng, RewardWeights(giou=0.5, centre=0.5))


SIDE = 9
LENGTHS = {"box": 4, "point": 2, "keypoints": 10}
"""Numbers of a shape; 6 or 8 for a polygon."""


@st.composite
def _labelled_shapes(draw: st.DrawFn, kind: str, labels: str, most: int) -> list[tuple[str, np.ndarray]]:
    """Shapes of a few bins on a few lines: ties, shared sides and equal values everywhere."""
    geometry = "point" if kind.startswith("point") else kind.removeprefix("text_")
    shapes = []
    for _ in range(draw(st.integers(0, most))):
        length = LENGTHS.get(geometry) or 2 * draw(st.integers(3, 4))
        shape_K = np.array(draw(st.lists(st.integers(0, SIDE), min_size=length, max_size=length)))
        if geometry == "keypoints":
            visible_J = draw(st.lists(st.booleans(), min_size=3, max_size=3))
            shape_K[4:][~np.repeat(visible_J, 2)] = -1
        shapes.append((draw(st.sampled_from(labels)), shape_K))
    return shapes


@examples(2)
@given(data=st.data(), kind=st.sampled_from(KINDS), seed=st.integers(0, 9))
def test_laws_hold_where_hypothesis_looks(
    build_truth: Callable[..., Truth],
    data: st.DataObject,
    kind: str,
    seed: int,
) -> None:
    """Small numbers of any kind, corners in any order."""
    true = [pair for pair in data.draw(_labelled_shapes(kind, "ab", 4)) if has_area(kind, pair[1])]
    truth = build_truth(kind, [label for label, _ in true], [shape_K for _, shape_K in true], ("a", "b"))
    answer = SimpleNamespace(labels=(), bins_NK=truth.bins_NK[:0], faults=(), absent=())
    for label, shape_K in data.draw(_labelled_shapes(kind, "abz", 6)):
        answer = insert(answer, len(answer.labels), label, shape_K)
    check_laws(answer, truth, np.random.default_rng(seed))


@every_kind
def test_a_perfect_answer_scores_the_maximum_for_every_record(random_scene: SceneMaker, kind: str) -> None:
    """Exactly f1's weight, no duplicate and no penalty, in any order, however near the truths are to each other;
    nothing in the search scores above.
    """
    rng = np.random.default_rng(22)
    num_near = 0
    for _ in range(50):
        answer, truth = random_scene(rng, kind)
        num = len(truth.labels)
        ideal = SimpleNamespace(
            labels=truth.labels, bins_NK=truth.bins_NK, faults=(), absent=rng.permutation(truth.empty_categories)
        )
        perfect = [ideal, keep(ideal, range(num)[::-1]), *(keep(ideal, rng.permutation(num)) for _ in range(3))]
        for weights in (WEIGHTS, RewardWeights(f1=0.3), RewardWeights(giou=0.5, centre=0.25)):
            scores = score_group([*perfect, answer], truth, weights=weights)
            *of_perfect, of_answer = scores.total_G.tolist()
            assert of_perfect == [weights.f1] * len(perfect)
            assert not scores.num_duplicates_G[:-1].any()
            assert not any(scores.terms_G[name][:-1].any() for name in PENALTIES)
            assert of_answer <= weights.f1 + ROUNDING
        family_N = np.unique([""] * num if truth.reads_text else truth.labels, return_inverse=True)[1]
        num_near += bool(len(near_pairs(read_shapes([ideal], [truth]), family_N)))
    assert num_near >= 10  # scenes whose perfect answer repeats itself, were near enough


def _way_to_a_box(rng: np.random.Generator) -> tuple[Truth, np.ndarray]:
    """From anywhere, swapped corners too."""
    corner_2 = rng.integers(0, 900, 2)
    true_1K = np.concatenate([corner_2, corner_2 + rng.integers(1, 99, 2)])[None]
    return Truth(("a",), true_1K, ("a",)), rng.integers(0, 1000, (1, 4))


def _way_to_a_point(rng: np.random.Generator) -> tuple[Truth, np.ndarray]:
    """From anywhere."""
    return Truth(("a",), rng.integers(0, 1000, (1, 2)), ("a",)), rng.integers(0, 1000, (1, 2))


def _way_into_a_box(rng: np.random.Generator) -> tuple[Truth, np.ndarray]:
    """From anywhere to the point that the true box was drawn around: its sides are crossed once."""
    point_12, reach_12 = rng.integers(100, 900, (1, 2)), rng.integers(0, 99, (1, 2))
    boxes_14 = np.concatenate([point_12 - reach_12, point_12 + reach_12], axis=1)
    return Truth(("a",), point_12, ("a",), boxes_N4=boxes_14), rng.integers(0, 1000, (1, 2))


def _way_to_key_points(rng: np.random.Generator) -> tuple[Truth, np.ndarray]:
    """Visible ones from anywhere; where none is, the box moves."""
    truth, start_14 = _way_to_a_box(rng)
    true_16, start_16 = rng.integers(0, 1000, (2, 1, 6))
    hidden_16 = np.repeat(rng.random((1, 3)) < 0.5, 2, axis=1)
    bins_1K = np.concatenate([truth.bins_NK, np.where(hidden_16, -1, true_16)], axis=1)
    start_1K = np.concatenate([start_14, np.where(hidden_16, -1, start_16)], axis=1)
    return Truth(("a",), bins_1K, ("a",), geometry="keypoints"), start_1K


def _way_to_a_polygon(rng: np.random.Generator) -> tuple[Truth, np.ndarray]:
    """A convex polygon carried to its place: of convex areas the overlap only grows (Brunn and Minkowski)."""
    angles_V = np.sort(rng.random(int(rng.integers(3, 9)))) * 2 * np.pi
    circle_V2 = np.rint(np.stack([np.cos(angles_V), np.sin(angles_V)], axis=1) * rng.integers(20, 90, 2))
    spread_2 = np.ptp(circle_V2, axis=0)
    if min(spread_2) < 3:
        return _way_to_a_polygon(rng)
    true_1K = (circle_V2 + rng.integers(100, 900, 2)).reshape(1, -1)
    apart_2 = rng.integers(-150, 151, 2)
    return Truth(("a",), true_1K, ("a",), geometry="polygon"), true_1K + np.tile(apart_2, len(angles_V))


WAYS = {
    "box": _way_to_a_box,
    "point": _way_to_a_point,
    "point in box": _way_into_a_box,
    "key points": _way_to_key_points,
    "polygon": _way_to_a_polygon,
}


@pytest.mark.parametrize("way", WAYS)
def test_a_lone_shape_moved_straight_toward_its_truth_never_lowers_f1(way: str) -> None:
    """All sides by the same fraction, 41 steps. (A polygon of another form, or a point on its way into a mask with
    holes, may lose on the way: the law is of boxes, and here of what else is convex.)"""
    rng = np.random.default_rng(23)
    step_G11 = np.linspace(0.0, 1.0, 41)[:, None, None]
    for _ in range(20 if way == "polygon" else 100):
        truth, start_1K = WAYS[way](rng)
        ways_G1K = start_1K + step_G11 * (truth.bins_NK - start_1K)
        answers = [SimpleNamespace(labels=("a",), bins_NK=way_1K, faults=(), absent=()) for way_1K in ways_G1K]
        scores = score_group(answers, truth, weights=WEIGHTS)
        assert (np.diff(scores.terms_G["f1"]) >= (-1e-9 if way == "polygon" else -ROUNDING)).all()
        assert scores.terms_G["f1"][-1] == pytest.approx(1.0)


@every_kind
def test_for_an_empty_truth_none_for_every_category_is_the_only_maximum(
    random_scene: SceneMaker, build_truth: Callable[..., Truth], kind: str
) -> None:
    """Any shape, the empty answer, a half answer, a malformed or truncated one: all strictly below."""
    rng = np.random.default_rng(24)
    truth = build_truth(kind, [], [], ("cat", "dog"))
    nothing = {"labels": (), "bins_NK": truth.bins_NK}
    right = SimpleNamespace(**nothing, faults=(), absent=("dog", "cat"))
    wrong: list[Predictions] = [
        SimpleNamespace(**nothing, faults=(), absent=()),
        SimpleNamespace(**nothing, faults=(), absent=("cat",)),
        SimpleNamespace(**nothing, faults=("stray_tokens",), absent=("cat", "dog")),
        SimpleNamespace(**nothing, faults=("stray_tokens", "truncated"), absent=()),
        SimpleNamespace(**nothing, faults=("truncated",), absent=("cat", "dog")),
    ]
    for _ in range(40):
        answer, _ = random_scene(rng, kind)
        if answer.labels:
            wrong += [answer, predicted(answer.labels, answer.bins_NK, right)]
    of_right, *of_wrong = totals([right, *wrong], truth)
    assert of_right == WEIGHTS.f1
    assert max(of_wrong) < of_right


def chain(*starts: int) -> Predictions:
    """Boxes of 100 x 100 bins beside each other: 17 bins apart they are near (IoU 0.71), 18 apart not (0.69)."""
    bins_NK = np.array([[start, 100, start + 100, 200] for start in starts])
    return SimpleNamespace(labels=("a",) * len(starts), bins_NK=bins_NK, faults=(), absent=())


def test_a_shape_between_two_that_aim_at_different_truths_joins_only_its_own() -> None:
    """All three are near each other; the two right ones stay matched, the third repeats the one whose truth it
    shares."""
    right, between = chain(100, 110), chain(100, 110, 104)
    truth = Truth(("a", "a"), right.bins_NK, ("a",))
    scores = score_group([right, between, chain(100, 104), chain(110, 104)], truth, weights=WEIGHTS)
    assert scores.num_duplicates_G.tolist() == [0, 1, 1, 0]
    assert unmatched([right, between], truth) == [[], [2]]
    assert scores.terms_G["f1"].tolist() == pytest.approx([1.0, 4 / 5, 2 / 4, (1 + 96 / 104) / 2])
    check_laws(between, truth, np.random.default_rng(0))


def test_a_bridge_between_two_that_aim_at_one_truth_joins_them() -> None:
    """Left and right of one truth and not near each other, they are no duplicates; what is near to both makes all
    three a group, and its removal pays back.
    """
    truth = Truth(("a",), chain(110).bins_NK, ("a",))
    apart, joined = chain(100, 120), chain(100, 120, 109)
    scores = score_group([apart, joined], truth, weights=WEIGHTS)
    assert scores.num_duplicates_G.tolist() == [0, 2]
    assert unmatched([joined], truth) == [[0, 1]]
    assert scores.terms_G["f1"].tolist() == pytest.approx([2 * (90 / 110) / 3, 2 * (99 / 101) / 4])
    check_laws(joined, truth, np.random.default_rng(0))
