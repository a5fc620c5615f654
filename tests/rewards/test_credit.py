"""Per-shape credit against its definition: the reward computed anew for every prefix and every answer less one."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest

from rewards import CREDITS, REWARDS, Predictions, RewardWeights, Truth, score_group
from rewards import credit as forms
from rewards.overlaps import measure

SceneMaker = Callable[[np.random.Generator, str], tuple[Predictions, Truth]]

KINDS = ("box", "point", "point_in_box", "point_in_mask", "polygon", "keypoints", "text_box", "text_polygon")


def of_one_answer(credits_of: Callable[..., tuple[np.ndarray, ...]]) -> Callable[..., np.ndarray]:
    """A form of credit as a function of one answer and its truth."""
    return lambda answer, truth, weights: credits_of(measure([[answer]], [truth], weights), weights)[0]


prefix_credits = of_one_answer(forms.prefix_credits)
leave_one_out_credits = of_one_answer(forms.leave_one_out_credits)
in_order_credits = of_one_answer(forms.in_order_credits)
CREDITS_N = {"prefix": prefix_credits, "leave_one_out": leave_one_out_credits, "in_order": in_order_credits}
WEIGHTS = RewardWeights()
SHAPES_ONLY = RewardWeights(format=0.0, truncated=0.0)
BOX = [100, 100, 300, 300]


def rewards_of_parts(answer: Predictions, truth: Truth, parts: list[list[int]], name: str = "matched") -> np.ndarray:
    """[P] the reward of some of the shapes, scored as an answer of its own, format and truncation left out."""
    answers = [
        SimpleNamespace(
            labels=tuple(answer.labels[i] for i in kept), bins_NK=answer.bins_NK[kept], faults=(), absent=()
        )
        for kept in parts
    ]
    return score_group(answers, truth, weights=SHAPES_ONLY, name=name, credit="none").total_G


def credits_by_definition(answer: Predictions, truth: Truth, name: str = "matched") -> dict[str, np.ndarray]:
    """[N] by credit: every prefix; every answer less one; the same without its later duplicates. All scored anew."""
    shapes = list(range(len(answer.labels)))
    rewards_P = rewards_of_parts(answer, truth, [shapes[:num] for num in range(len(shapes) + 1)], name)
    rest_N = rewards_of_parts(answer, truth, [shapes[:i] + shapes[i + 1 :] for i in shapes], name)
    near_NN = measure([[answer]], [truth], SHAPES_ONLY)[0].near_NN
    copied = [[j for j in shapes if near_NN is None or j <= i or not near_NN[i, j]] for i in shapes]
    with_N = rewards_of_parts(answer, truth, copied, name)
    without_N = rewards_of_parts(answer, truth, [[j for j in copied[i] if j != i] for i in shapes], name)
    return {
        "prefix": np.diff(rewards_P),
        "leave_one_out": rewards_P[-1] - rest_N,
        "in_order": with_N - without_N,
    }


def boxes(*shapes: list[int], labels: tuple[str, ...] | None = None) -> Predictions:
    """An answer of these boxes, labelled "a" unless told."""
    names = labels or ("a",) * len(shapes)
    return SimpleNamespace(labels=names, bins_NK=np.array(shapes).reshape(-1, 4), faults=(), absent=())


def test_credits_are_what_their_definitions_say(random_scene: SceneMaker) -> None:
    """The shortcuts (free truth, chains of moves, groups joined one by one) against scoring anew, 80 crowds."""
    rng = np.random.default_rng(30)
    for trial in range(80):
        answer, truth = random_scene(rng, KINDS[trial % len(KINDS)])
        expected = credits_by_definition(answer, truth)
        for credit, credits in CREDITS_N.items():
            np.testing.assert_allclose(credits(answer, truth, WEIGHTS), expected[credit], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", REWARDS)
def test_credits_of_a_group_are_those_of_its_answers_under_the_named_reward(
    random_scene: SceneMaker, name: str
) -> None:
    """One call for 4 answers of different lengths gives each answer's own credits, of the reward that is trained on."""
    rng = np.random.default_rng(31)
    for trial in range(8):
        scenes = [random_scene(rng, KINDS[trial % len(KINDS)]) for _ in range(4)]
        truth = scenes[0][1]
        answers = [answer for answer, _ in scenes]
        expected_G = [credits_by_definition(answer, truth, name) for answer in answers]
        for credit in CREDITS_N:
            credits_GN = score_group(answers, truth, weights=WEIGHTS, name=name, credit=credit).credits_GN
            for credits_N, expected in zip(credits_GN, expected_G, strict=True):
                np.testing.assert_allclose(credits_N, expected[credit], rtol=0, atol=1e-9)


def test_prefix_credits_add_up_to_the_reward(random_scene: SceneMaker) -> None:
    """They telescope to R(all) - R(none): credit neither makes nor loses reward."""
    rng = np.random.default_rng(32)
    for trial in range(80):
        answer, truth = random_scene(rng, KINDS[trial % len(KINDS)])
        nothing, everything = rewards_of_parts(answer, truth, [[], list(range(len(answer.labels)))])
        gained = prefix_credits(answer, truth, WEIGHTS).sum()
        assert gained == pytest.approx(everything - nothing, abs=1e-9)


def test_a_duplicate_carries_the_blame_and_not_its_original() -> None:
    """In writing order; leave-one-out blames both alike, as either could go."""
    truth = Truth(("a", "a"), np.array([BOX, [500, 500, 700, 700]]), ("a",))
    answer = boxes(BOX, BOX)
    original, copy = prefix_credits(answer, truth, WEIGHTS)
    assert original == pytest.approx(2 / 3)
    assert copy == pytest.approx(2 / 4 - 2 / 3 - 0.5 / 2)
    first, second = leave_one_out_credits(answer, truth, WEIGHTS)
    assert first == second < 0
    assert in_order_credits(answer, truth, WEIGHTS) == pytest.approx([original, copy])


def test_a_right_shape_earns_the_same_wherever_it_stands() -> None:
    """In order, as when left out, each of four earns 1 / 7; by prefixes the last earns 1 / 7, the first 2 / 5."""
    truth = Truth(("a",) * 4, np.array([[200 * i, 0, 200 * i + 99, 99] for i in range(4)]), ("a",))
    answer = boxes(*truth.bins_NK.tolist())
    assert in_order_credits(answer, truth, WEIGHTS) == pytest.approx([1 / 7] * 4)
    credits_N = prefix_credits(answer, truth, WEIGHTS)
    assert (credits_N[0], credits_N[-1]) == pytest.approx((2 / 5, 1 - 6 / 7))


def test_an_empty_truth_blames_the_first_shape_most() -> None:
    """The first shape costs the whole F1, its surplus too; the second only what is not at its limit yet."""
    truth = Truth((), np.zeros((0, 4)), ("a",))
    first, second = prefix_credits(boxes(BOX, [500, 500, 700, 700]), truth, WEIGHTS)
    assert first == -1.25
    assert second == 0.0


def test_a_lost_giant_carries_its_penalty() -> None:
    """On top of what it costs in F1: 0.25 of one truth."""
    truth = Truth(("a",), np.array([BOX]), ("a",))
    right, giant = prefix_credits(boxes(BOX, [0, 0, 999, 999], labels=("a", "b")), truth, WEIGHTS)
    assert right == 1.0
    assert giant == pytest.approx(2 / 3 - 1 - 0.25 - 0.25)


def test_no_shapes_have_no_credits_and_none_is_zeros() -> None:
    """Every form gives [N] for each answer, empty answers included."""
    truth = Truth(("a",), np.array([BOX]), ("a",))
    for name in REWARDS:
        for credit in CREDITS:
            scores = score_group([boxes(), boxes(BOX, BOX)], truth, weights=WEIGHTS, name=name, credit=credit)
            assert [len(credits_N) for credits_N in scores.credits_GN] == [0, 2]
            assert credit != "none" or not scores.credits_GN[1].any()
