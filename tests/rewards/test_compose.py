"""The composition: terms by name, weights, refusals, and that a group is scored as its answers one by one."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import numpy as np
import pytest

from rewards import REWARDS, GroupScores, Predictions, RewardWeights, Truth, score_group, score_groups
from rewards.geometry.masks import Mask
from tests.rewards.conftest import KINDS

SceneMaker = Callable[[np.random.Generator, str], tuple[Predictions, Truth]]

WEIGHTS = RewardWeights()
BOX, OTHER, GIANT = [100, 100, 300, 300], [500, 500, 700, 700], [0, 0, 999, 999]
TRUTH = Truth(("a", "b"), np.array([BOX, OTHER]), ("a", "b", "c"))


def answer(
    *shapes: tuple[str, list[int]], faults: tuple[str, ...] = (), absent: tuple[str, ...] = ("c",)
) -> Predictions:
    """An answer of labelled boxes with `None` for c unless told otherwise."""
    bins_NK = np.array([shape for _, shape in shapes], dtype=np.int64).reshape(-1, 4)
    bins_NK.flags.writeable = False  # as Ray's object store hands them out
    return SimpleNamespace(labels=tuple(label for label, _ in shapes), bins_NK=bins_NK, faults=faults, absent=absent)


HAND_TABLE = {
    # name: (answer, {term: value} of the terms that are not 0)
    "perfect": (answer(("b", OTHER), ("a", BOX)), {"f1": 1.0}),
    "labels swapped": (answer(("a", OTHER), ("b", BOX)), {}),
    "empty, truncated": (answer(faults=("truncated",)), {"truncated": 1.0, "count_error": -1.0}),
    "None for c is missing": (answer(("b", OTHER), ("a", BOX), absent=()), {"f1": 1.0, "rejection": 1.0}),
    "a box instead of None": (
        answer(("b", OTHER), ("a", BOX), ("c", BOX), absent=()),
        {"f1": 4 / 5, "surplus": 0.5, "rejection": 1.0, "count_error": 0.5},
    ),
    "a duplicate": (answer(("a", BOX), ("a", BOX)), {"f1": 2 / 4, "duplicates": 0.5}),
    "the same box under two labels": (answer(("a", BOX), ("b", BOX)), {"f1": 2 / 4}),
    "an unknown label counts": (
        answer(("a", BOX), ("b", OTHER), ("unicorn", BOX)),
        {"f1": 4 / 5, "surplus": 0.5, "count_error": 0.5},
    ),
    "swapped corners count": (answer(("a", [300, 100, 100, 300]), faults=("swapped_corners",)),
                              {"format": 1.0, "count_error": -0.5}),
    "a giant over a small truth": (
        answer(("b", GIANT)),
        {"f1": 2 * (200 * 200 / 999**2) / 3, "large": 0.5, "count_error": -0.5},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HAND_TABLE)
def test_terms_by_hand(case: str) -> None:
    """Every term, and the total as their weighted sum."""
    predicted, expected = HAND_TABLE[case]
    scores = score_group([predicted], TRUTH, weights=WEIGHTS)
    names = ("f1", "duplicates", "surplus", "large", "rejection", "format", "truncated", "count_error")
    assert {name: float(scores.terms_G[name][0]) for name in names} == pytest.approx(
        {name: expected.get(name, 0.0) for name in names}
    )
    penalties = sum(getattr(WEIGHTS, name) * expected.get(name, 0.0) for name in names[1:-1])
    assert scores.total_G[0] == pytest.approx(expected.get("f1", 0.0) - penalties)


def test_a_giant_that_the_truth_explains_is_not_penalised() -> None:
    """A true box over half of the grid excuses it, one over less than half does not; the count is per label."""
    for top, explained in ((480, True), (520, False)):
        truth = Truth(("a",), np.array([[0, top, 999, 999]]), ("a", "b"))
        scores = score_group([answer(("a", GIANT)), answer(("b", GIANT))], truth, weights=WEIGHTS)
        assert scores.terms_G["large"].tolist() == [0.0 if explained else 1.0, 1.0]


def test_counts_are_reported() -> None:
    """What `rex-rl score` prints: predictions whatever their label, true shapes, duplicates."""
    predicted_G = [answer(), answer(*[("a", BOX)] * 5, ("unicorn", BOX))]
    scores = score_group(predicted_G, TRUTH, weights=WEIGHTS)
    assert scores.num_predicted_G.tolist() == [0, 6]
    assert scores.num_duplicates_G.tolist() == [0, 4]
    assert scores.num_true == 2


def of_answer(scores: GroupScores, index: int) -> Mapping[str, object]:
    """All that is said of one answer of a group, as plain numbers."""
    prefixes = scores.prefixes_G[index]
    return {
        "total": float(scores.total_G[index]),
        "terms": {name: float(values_G[index]) for name, values_G in scores.terms_G.items()},
        "counts": (int(scores.num_predicted_G[index]), int(scores.num_duplicates_G[index]), scores.num_true),
        "prefixes": [part.tolist() for part in (prefixes.earned_P, prefixes.total_P, prefixes.is_matched_PB)],
    }


@pytest.mark.parametrize("name", REWARDS)
def test_a_group_is_scored_as_its_answers_one_by_one(random_scene: SceneMaker, name: str) -> None:
    """Measuring all answers in one pass changes nothing: equal to the last bit, every geometry, any lengths."""
    rng = np.random.default_rng(40)
    for trial in range(8):
        scenes = [random_scene(rng, KINDS[trial % len(KINDS)]) for _ in range(8)]
        truth, predicted_G = scenes[0][1], [predicted for predicted, _ in scenes]
        together = score_group(predicted_G, truth, weights=WEIGHTS, name=name, prefixes=True)
        for index, predicted in enumerate(predicted_G):
            alone = score_group([predicted], truth, weights=WEIGHTS, name=name, prefixes=True)
            assert of_answer(together, index) == of_answer(alone, 0)


@pytest.mark.parametrize("kind", ["box", "point", "point_in_box", "polygon", "keypoints", "text_box"])
def test_the_prompts_of_a_task_do_not_touch_each_other(random_scene: SceneMaker, kind: str) -> None:
    """Scored in one call, each group gets what it gets alone; one group has no answer."""
    rng = np.random.default_rng(42)
    for name in REWARDS:
        scenes = [random_scene(rng, kind) for _ in range(7)]
        predicted_PG = [[scenes[i][0], scenes[i + 1][0]] for i in range(6)] + [[]]
        truth_P = [truth for _, truth in scenes]
        scores_P = score_groups(predicted_PG, truth_P, weights=WEIGHTS, name=name, prefixes=True)
        for scores, predicted_G, truth in zip(scores_P, predicted_PG, truth_P, strict=True):
            alone = score_group(predicted_G, truth, weights=WEIGHTS, name=name, prefixes=True)
            assert len(scores.prefixes_G) == len(scores.total_G) == len(predicted_G)
            for index in range(len(predicted_G)):
                assert of_answer(scores, index) == of_answer(alone, index)
    assert score_groups([], [], weights=WEIGHTS) == []


def test_large_groups_are_measured_in_parts() -> None:
    """Above 8,192 pairs that could meet, they are measured in several passes: same scores as alone."""
    rng = np.random.default_rng(41)
    corners = rng.integers(0, (90, 900), (100, 2))
    truth = Truth(("a",) * 100, np.concatenate([corners, corners + rng.integers(10, 99, (100, 2))], axis=1), ("a",))
    predicted_G = [answer(*(("a", box) for box in rng.permutation(truth.bins_NK)[:90].tolist())) for _ in range(5)]
    together = score_group(predicted_G, truth, weights=WEIGHTS)
    alone = [score_group([predicted], truth, weights=WEIGHTS).total_G[0] for predicted in predicted_G]
    assert together.total_G.tolist() == alone


def test_an_empty_group_has_empty_scores() -> None:
    """No answer, no score, no error."""
    scores = score_group([], TRUTH, weights=WEIGHTS, prefixes=True)
    assert scores.total_G.shape == (0,)
    assert scores.prefixes_G == ()


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_must_be_finite_and_not_negative(weight: float) -> None:
    """A negative penalty would pay for what it names."""
    with pytest.raises(ValueError, match="reward weight duplicates"):
        RewardWeights(duplicates=weight)


MASK = Mask((3, 2), b"132")
"""Its lower left pixel and its middle column."""


def test_recognised_text_shares_the_value_of_a_place() -> None:
    """A right box earns the similarity of its text; read twice, whatever the texts, it is a duplicate."""
    truth = Truth(("exit", "taxi"), np.array([BOX, OTHER]), ("word",), reads_text=True)
    answers = {
        "perfect": answer(("taxi", OTHER), ("exit", BOX), absent=()),
        "one wrong letter": answer(("exist", BOX), ("taxi", OTHER), absent=()),
        "texts exchanged": answer(("taxi", BOX), ("exit", OTHER), absent=()),
        "read twice": answer(("exit", BOX), ("taxi", OTHER), ("EXIT", BOX), absent=()),
        "nothing": answer(absent=("word",)),
    }
    scores = score_group(list(answers.values()), truth, weights=WEIGHTS)
    exchanged = 1 - 3 / 4  # t-a-x-i to e-x-i-t: three edits of four letters, see test_text.py
    assert scores.terms_G["f1"].tolist() == pytest.approx([1.0, (0.8 + 1) / 2, exchanged, 2 * 2 / 5, 0.0])
    assert scores.num_duplicates_G.tolist() == [0, 0, 0, 1, 0]
    assert scores.terms_G["exact_text"].tolist() == [1.0, 0.5, 0.0, 1.0, 0.0]
    assert scores.terms_G["text_similarity"].tolist() == pytest.approx([1.0, 0.9, exchanged, 1.0, 0.0])
    assert scores.terms_G["rejection"].tolist() == [0.0] * 5  # there is text: no None is expected
    assert truth.empty_categories == ()
    assert Truth((), np.zeros((0, 4)), ("word",), reads_text=True).empty_categories == ("word",)


def test_text_terms_are_there_only_where_labels_are_text() -> None:
    """A mean over other tasks would mean nothing."""
    assert "exact_text" not in score_group([answer()], TRUTH, weights=WEIGHTS).terms_G


def test_shaping_tells_apart_boxes_that_miss() -> None:
    """By default a miss is a miss; with a weight the nearer one earns more, the perfect one still the maximum."""
    truth = Truth(("a",), np.array([BOX]), ("a",))
    answers = [answer(("a", [left, 100, left + 200, 300])) for left in (100, 400, 700)]
    plain_G = score_group(answers, truth, weights=WEIGHTS).total_G
    assert plain_G.tolist() == [1.0, 0.0, 0.0]
    for weights in (RewardWeights(giou=0.3), RewardWeights(centre=0.3)):
        right, near, far = score_group(answers, truth, weights=weights).total_G
        assert right == pytest.approx(1.0)
        assert 1.0 > near > far > 0.0


def test_a_point_is_right_inside_its_mask_or_box_and_on_itself() -> None:
    """The mask wins over the box; without either closeness counts. A true point off its mask is still right."""
    middle, lower_left, upper_left = [500, 0], [0, 999], [0, 0]
    predicted_G = [
        SimpleNamespace(labels=("a",), bins_NK=np.array([point]), faults=(), absent=())
        for point in (middle, lower_left, upper_left)
    ]
    arguments = {"labels": ("a",), "bins_NK": np.array([upper_left]), "categories": ("a",)}
    everywhere = np.array([[0, 0, 999, 999]])
    by_mask = score_group(predicted_G, Truth(**arguments, masks=(MASK,), boxes_N4=everywhere), weights=WEIGHTS)
    by_small_box = score_group(predicted_G, Truth(**arguments, boxes_N4=np.array([[400, 0, 600, 9]])), weights=WEIGHTS)
    by_distance = score_group(predicted_G, Truth(**arguments), weights=WEIGHTS)
    assert by_mask.total_G.tolist() == [1.0, 1.0, 1.0]
    assert by_small_box.total_G.tolist() == [1.0, 0.0, 1.0]
    assert by_distance.total_G.tolist() == [0.0, 0.0, 1.0]
    lower_middle = SimpleNamespace(labels=("a",), bins_NK=np.array([[999, 999]]), faults=(), absent=())
    assert score_group([lower_middle], Truth(**arguments, masks=(MASK,)), weights=WEIGHTS).total_G[0] == 0.0


def test_two_points_in_one_mask_serve_one_truth() -> None:
    """One-to-one: the second, too far to be a near-duplicate, is surplus."""
    mask = Mask((1, 1), b"01")  # all of its one pixel
    truth = Truth(("a",), np.array([[500, 500]]), ("a",), masks=(mask,))
    predicted = SimpleNamespace(labels=("a", "a"), bins_NK=np.array([[100, 100], [900, 900]]), faults=(), absent=())
    scores = score_group([predicted], truth, weights=WEIGHTS)
    assert scores.terms_G["f1"][0] == pytest.approx(2 / 3)
    assert scores.terms_G["surplus"][0] == 1.0
    assert scores.num_duplicates_G[0] == 0


def test_unknown_names_and_other_geometries_are_refused_by_name() -> None:
    """An error is never turned into a reward."""
    with pytest.raises(ValueError, match="reward 'best' is unknown; known are matched, paper, official"):
        score_group([], TRUTH, weights=WEIGHTS, name="best")
    point = SimpleNamespace(labels=("a",), bins_NK=np.array([[1, 2]]), faults=(), absent=())
    with pytest.raises(ValueError, match="answer 1"):
        score_group([answer(), point], TRUTH, weights=WEIGHTS)
