"""The laws of the default total, searched for counter-examples in crowded scenes (hypothesis and seeded search).

Crowds are where plain one-to-one F1 fails: a copy of one box can serve a second, overlapping truth.
"""

from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewards import RewardWeights, Said, Truth, score_group
from rewards.geometry import near_copies, pairwise_value
from rewards.matching import UNMATCHED, match
from rewards.overlaps import measure

SceneMaker = Callable[[np.random.Generator, int], tuple[Said, Truth]]

WEIGHTS = RewardWeights()
ROUNDING = 1e-12
NUM_SCENES = 800


def said(labels: Iterable[str], bins_NK: np.ndarray, like: Said) -> Said:
    """An answer of these shapes with another's faults and absent categories."""
    return SimpleNamespace(labels=tuple(labels), bins_NK=bins_NK, faults=like.faults, absent=like.absent)


def keep(answer: Said, indices: Iterable[int]) -> Said:
    """The answer's shapes at these indices, in that order."""
    order = list(indices)
    return said((answer.labels[index] for index in order), answer.bins_NK[order], answer)


def insert(answer: Said, place: int, label: str, shape_K: np.ndarray) -> Said:
    """The answer with one more shape at a place."""
    labels = (*answer.labels[:place], label, *answer.labels[place:])
    return said(labels, np.insert(answer.bins_NK, place, shape_K, axis=0), answer)


def unmatched(answers: list[Said], truth: Truth) -> list[list[int]]:
    """The shapes of each answer that the matching leaves without a truth."""
    truth_GN = [match(overlaps.value_NB, overlaps.root_N).truth_N for overlaps in measure(answers, truth)]
    return [[int(shape) for shape in np.flatnonzero(truth_N == UNMATCHED)] for truth_N in truth_GN]


def totals(answers: list[Said], truth: Truth, weights: RewardWeights = WEIGHTS) -> np.ndarray:
    """Default totals of these answers."""
    return score_group(answers, truth, weights=weights, credit="none").total_G


def check_laws(answer: Said, truth: Truth, rng: np.random.Generator, weights: RewardWeights = WEIGHTS) -> int:
    """Order, copies, unmatched shapes added and removed, range. Returns how many unmatched shapes were tried."""
    num = len(answer.labels)
    permuted = keep(answer, rng.permutation(num))
    places = rng.integers(0, num + 1, num).tolist()
    copies = [
        insert(answer, place, label, shape_K)
        for place, label, shape_K in zip(places, answer.labels, answer.bins_NK, strict=True)
    ]
    added = [(int(rng.integers(0, num + 1)), *candidate) for candidate in _candidates(answer, truth, rng)]
    candidates = [insert(answer, *addition) for addition in added]
    unmatched_G = unmatched([answer, *candidates], truth)
    smaller = [keep(answer, [other for other in range(num) if other != shape]) for shape in unmatched_G[0]]
    larger = [
        candidate
        for candidate, (place, *_), free in zip(candidates, added, unmatched_G[1:], strict=True)
        if place in free
    ]
    base, of_permuted, *others = totals([answer, permuted, *copies, *smaller, *larger], truth, weights)
    assert of_permuted == pytest.approx(base, abs=ROUNDING), "order"
    of_copies, of_smaller = others[:num], others[num : num + len(smaller)]
    assert max(of_copies, default=-np.inf) <= base + ROUNDING, "copy added"
    assert min(of_smaller, default=np.inf) >= base - ROUNDING, "unmatched removed"
    assert max(others[num + len(smaller) :], default=-np.inf) <= base + ROUNDING, "unmatched added"
    low, high = weights.bounds
    assert all(low - ROUNDING <= total <= high + ROUNDING for total in (base, *others)), "range"
    return len(smaller) + len(larger)


def _candidates(answer: Said, truth: Truth, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    """Shapes to add: beside said and true ones, halfway between two (which may join their groups), and anything."""
    num_coordinates = truth.bins_NK.shape[1]
    pool = [*zip(answer.labels, answer.bins_NK, strict=True), *zip(truth.labels, truth.bins_NK, strict=True)]
    anything_K = np.asarray(rng.integers(0, 1000, num_coordinates))
    shapes = [("owl", anything_K)]
    for _ in range(4 if pool else 0):
        (label, first_K), (_, second_K) = pool[rng.integers(len(pool))], pool[rng.integers(len(pool))]
        shapes.append((label, np.clip(first_K + rng.integers(-9, 10, num_coordinates), 0, 999)))
        shapes.append((label, (first_K + second_K) // 2))
    return shapes


@pytest.mark.parametrize("num_coordinates", [4, 2], ids=["boxes", "points"])
def test_laws_hold_in_seeded_crowds(random_scene: SceneMaker, num_coordinates: int) -> None:
    """800 scenes a geometry, each with every copy, every unmatched removal and nine additions."""
    rng = np.random.default_rng(20)
    tried = sum(check_laws(*random_scene(rng, num_coordinates), rng) for _ in range(NUM_SCENES))
    assert tried > 5 * NUM_SCENES  # the search did meet unmatched shapes


@pytest.mark.soak
@pytest.mark.parametrize("num_coordinates", [4, 2], ids=["boxes", "points"])
def test_laws_hold_in_many_crowds(random_scene: SceneMaker, num_coordinates: int) -> None:
    """The same search in 10,000 scenes a geometry, about a minute each on an idle core."""
    rng = np.random.default_rng(25)
    for _ in range(10_000):
        check_laws(*random_scene(rng, num_coordinates), rng)


def test_laws_hold_for_any_weights(random_scene: SceneMaker) -> None:
    """They come from the construction, not from the size of a penalty that hides a gain in F1."""
    rng = np.random.default_rng(21)
    for trial in range(300):
        scale_6 = rng.random(6) * (rng.random(6) < 0.5)
        f1, duplicates, surplus, large, form, truncated = scale_6.tolist()
        weights = RewardWeights(
            f1=f1, duplicates=duplicates, surplus=surplus, large=large, format=form, truncated=truncated
        )
        check_laws(*random_scene(rng, (4, 2)[trial % 2]), rng, weights)


def _corners(side: int) -> st.SearchStrategy[list[int]]:
    return st.tuples(st.integers(0, side), st.integers(0, side), st.integers(1, side), st.integers(1, side)).map(
        lambda box: [box[0], box[1], box[0] + box[2], box[1] + box[3]]
    )


@settings(max_examples=200, deadline=None)
@given(
    truth_boxes=st.lists(st.tuples(st.sampled_from("ab"), _corners(8)), max_size=4),
    said_boxes=st.lists(st.tuples(st.sampled_from("abz"), _corners(8)), max_size=6),
    seed=st.integers(0, 9),
)
def test_laws_hold_where_hypothesis_looks(
    truth_boxes: list[tuple[str, list[int]]], said_boxes: list[tuple[str, list[int]]], seed: int
) -> None:
    """Boxes of a few bins on a few lines: ties, shared sides and equal IoU everywhere."""
    kept: list[tuple[str, list[int]]] = []
    for label, box in truth_boxes:
        others = np.array([other for name, other in kept if name == label]).reshape(-1, 4)
        if not near_copies(pairwise_value([box], others), 4).any():
            kept.append((label, box))
    truth = Truth(tuple(name for name, _ in kept), np.array([box for _, box in kept]).reshape(-1, 4), ("a", "b"))
    nothing = SimpleNamespace(labels=(), bins_NK=np.zeros((0, 4)), faults=(), absent=())
    boxes_N4 = np.array([box for _, box in said_boxes], dtype=np.int64).reshape(-1, 4)
    check_laws(said((name for name, _ in said_boxes), boxes_N4, nothing), truth, np.random.default_rng(seed))


@pytest.mark.parametrize("num_coordinates", [4, 2], ids=["boxes", "points"])
def test_a_perfect_answer_scores_the_maximum_for_every_record(random_scene: SceneMaker, num_coordinates: int) -> None:
    """Exactly f1's weight, in any order, whatever the number of truths; nothing in the search scores above."""
    rng = np.random.default_rng(22)
    for _ in range(300):
        answer, truth = random_scene(rng, num_coordinates)
        ideal = SimpleNamespace(labels=(), bins_NK=truth.bins_NK[:0], faults=(), absent=truth.empty_categories)
        order = rng.permutation(len(truth.labels)).tolist()
        perfect = said((truth.labels[index] for index in order), truth.bins_NK[order], ideal)
        of_perfect, of_answer = totals([perfect, answer], truth)
        assert of_perfect == WEIGHTS.f1
        assert of_answer <= of_perfect


@pytest.mark.parametrize("num_coordinates", [4, 2], ids=["boxes", "points"])
def test_a_lone_shape_moved_straight_toward_its_truth_never_lowers_f1(num_coordinates: int) -> None:
    """All sides by the same fraction, from anywhere (swapped corners too): 400 ways of 41 steps."""
    rng = np.random.default_rng(23)
    step_G11 = np.linspace(0.0, 1.0, 41)[:, None, None]
    for _ in range(400):
        corner_2 = rng.integers(0, 900, 2)
        true_1K = np.concatenate([corner_2, corner_2 + rng.integers(1, 99, 2)])[None, :num_coordinates]
        start_1K = rng.integers(0, 1000, (1, num_coordinates))
        ways_G1K = start_1K + step_G11 * (true_1K - start_1K)
        answers = [SimpleNamespace(labels=("a",), bins_NK=way_1K, faults=(), absent=()) for way_1K in ways_G1K]
        scores = score_group(answers, Truth(("a",), true_1K, ("a",)), weights=WEIGHTS)
        assert (np.diff(scores.terms_G["f1"]) >= -ROUNDING).all()
        assert scores.terms_G["f1"][-1] == pytest.approx(1.0)


@pytest.mark.parametrize("num_coordinates", [4, 2], ids=["boxes", "points"])
def test_for_an_empty_truth_none_for_every_category_is_the_only_maximum(
    random_scene: SceneMaker, num_coordinates: int
) -> None:
    """Any shape, the empty answer, a half answer, a malformed or truncated one: all strictly below."""
    rng = np.random.default_rng(24)
    truth = Truth((), np.zeros((0, num_coordinates), dtype=np.int64), ("cat", "dog"))
    nothing = {"labels": (), "bins_NK": np.zeros((0, num_coordinates), dtype=np.int64)}
    right = SimpleNamespace(**nothing, faults=(), absent=("dog", "cat"))
    wrong: list[Said] = [
        SimpleNamespace(**nothing, faults=(), absent=()),
        SimpleNamespace(**nothing, faults=(), absent=("cat",)),
        SimpleNamespace(**nothing, faults=("stray_tokens",), absent=("cat", "dog")),
        SimpleNamespace(**nothing, faults=("stray_tokens", "truncated"), absent=()),
        SimpleNamespace(**nothing, faults=("truncated",), absent=("cat", "dog")),
    ]
    for _ in range(200):
        answer, _ = random_scene(rng, num_coordinates)
        if answer.labels:
            wrong += [answer, said(answer.labels, answer.bins_NK, right)]
    of_right, *of_wrong = totals([right, *wrong], truth)
    assert of_right == WEIGHTS.f1
    assert max(of_wrong) < of_right


def test_a_bridge_between_two_matched_shapes_costs_and_pays_back_when_removed() -> None:
    """The chain case by hand: two boxes 20 of 100 bins apart (IoU 0.67) match two truths; one between joins them."""
    boxes_N4 = np.array([[100, 100, 200, 200], [120, 100, 220, 200], [110, 100, 210, 200]])
    truth = Truth(("a", "a"), boxes_N4[:2], ("a",))
    apart = SimpleNamespace(labels=("a",) * 2, bins_NK=boxes_N4[:2], faults=(), absent=())
    joined = SimpleNamespace(labels=("a",) * 3, bins_NK=boxes_N4, faults=(), absent=())
    scores = score_group([apart, joined], truth, weights=WEIGHTS)
    assert unmatched([joined], truth) == [[1, 2]]
    assert scores.num_duplicates_G.tolist() == [0, 2]
    assert scores.terms_G["f1"].tolist() == [1.0, 2 * 1.0 / 5]
    check_laws(joined, truth, np.random.default_rng(0))
