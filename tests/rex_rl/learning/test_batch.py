"""From groups to micro-batches: nothing is lost or counted twice, ranks keep step, the token budget holds."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.learning.batch import (
    MicroBatch,
    Row,
    alone,
    estimated_prompt_tokens,
    halves,
    pack_micro_batches,
    packed_tokens,
    plan_micro_batches,
    share_among_ranks,
    share_images,
    split_group,
)
from rex_rl.types import ScoredAnswer, TrainGroup
from tests.support import fakes

LENGTHS = st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=8), min_size=1, max_size=12)
BUDGETS = st.integers(50, 4000)


def step_of(lengths: list[list[int]]) -> list[TrainGroup]:
    """One step's groups; token weights are those of per-sequence means."""
    num_answers = sum(map(len, lengths))
    return [
        TrainGroup(
            prompt=fakes.prompt(f"{i}", size=(100 + 50 * i, 80)),
            answers=tuple(
                ScoredAnswer(
                    answer=fakes.answer(length),
                    advantages_T=fakes.frozen(fakes.np.ones(length, dtype="float32")),
                    token_weight=1 / (num_answers * length),
                )
                for length in group
            ),
        )
        for i, group in enumerate(lengths)
    ]


def rows_of(lengths: list[list[int]]) -> list[Row]:
    """The same, each group in a row of its own."""
    return [(group,) for group in step_of(lengths)]


def answers_of(batches: list[MicroBatch]) -> list[tuple[str, int]]:
    """(prompt, identity of its answer) of everything that counts."""
    return [
        (group.prompt.uid, id(scored.answer))
        for batch in batches
        for group in batch.groups
        for scored in group.answers
        if scored.token_weight > 0
    ]


@given(LENGTHS, st.integers(1, 4), BUDGETS, st.integers(1, 5))
def test_a_plan_forwards_every_answer_once_and_keeps_ranks_in_step(
    lengths: list[list[int]], num_ranks: int, token_budget: int, num_at_least: int
) -> None:
    """Each answer with its own prompt; the same number of collectives on each rank; weights of the step sum to 1."""
    groups = step_of(lengths)
    plan = plan_micro_batches(groups, num_ranks=num_ranks, token_budget=token_budget, num_at_least=num_at_least)
    assert len(plan) == num_ranks
    assert len({len(batches) for batches in plan}) == 1
    planned = answers_of([batch for batches in plan for batch in batches])
    assert sorted(planned) == sorted((group.prompt.uid, id(one.answer)) for group in groups for one in group.answers)
    weights = [
        one.token_weight * one.answer.tokens_T.size
        for batches in plan
        for batch in batches
        for group in batch.groups
        for one in group.answers
    ]
    assert sum(weights) == pytest.approx(1)


@given(LENGTHS, BUDGETS, st.integers(1, 5))
def test_rows_times_the_longest_row_stay_in_the_budget(
    lengths: list[list[int]], token_budget: int, num_at_least: int
) -> None:
    """Unless a single answer with its prompt exceeds it: that one then stands alone."""
    for batch in pack_micro_batches(rows_of(lengths), token_budget=token_budget, num_at_least=num_at_least):
        tokens = len(batch.groups) * max(map(packed_tokens, batch.groups))
        single = len(batch.groups) == len(batch.groups[0].answers) == 1
        assert tokens <= token_budget or single


@given(st.lists(st.integers(1, 400), min_size=1, max_size=8), BUDGETS)
def test_a_cut_group_keeps_the_order_of_its_answers(lengths: list[int], token_budget: int) -> None:
    (group,) = step_of([lengths])
    parts = split_group(group, token_budget)
    assert [one for part in parts for one in part.answers] == list(group.answers)
    assert all(part.answers and part.prompt is group.prompt for part in parts)
    if packed_tokens(group) <= token_budget:
        assert len(parts) == 1


@given(LENGTHS, st.integers(1, 5))
def test_gradient_accumulation_cuts_into_as_many_pieces(lengths: list[list[int]], num_at_least: int) -> None:
    batches = pack_micro_batches(rows_of(lengths), token_budget=10**6, num_at_least=num_at_least)
    assert len(batches) >= min(num_at_least, len(lengths))


def test_without_accumulation_everything_fits_one_batch() -> None:
    assert len(pack_micro_batches(rows_of([[10], [20, 5], [30]]), token_budget=10**6)) == 1


def test_a_rank_without_work_joins_in_with_no_weight() -> None:
    """ZeRO-3's forward is a collective: one group on two ranks must not leave the other hanging."""
    busy, idle = plan_micro_batches(step_of([[5, 7]]), num_ranks=2, token_budget=1000)
    assert len(answers_of(busy)) == 2
    assert len(idle) == 1
    assert answers_of(idle) == []
    assert [one.token_weight for batch in idle for group in batch.groups for one in group.answers] == [0.0]


@given(LENGTHS, st.integers(1, 4))
def test_ranks_share_tokens_evenly(lengths: list[list[int]], num_ranks: int) -> None:
    """No rank has more than another by a whole group: the longest are dealt first, each to the emptiest."""
    shares = share_among_ranks(rows_of(lengths), num_ranks)
    filled = [sum(packed_tokens(*row) for row in share) for share in shares]
    longest = max(packed_tokens(*row) for share in shares for row in share)
    assert max(filled) - min(filled) <= longest
    assert sum(map(len, shares)) == len(lengths)


def test_a_prompt_is_about_as_long_as_its_image() -> None:
    """A scene of 196 px is 49 image tokens; the estimate adds question and chat frame."""
    scene = fakes.prompt(size=(196, 196))
    assert 49 < estimated_prompt_tokens(scene) < 100
    (group,) = step_of([[5, 7]])
    assert packed_tokens(replace(group, prompt=scene)) == estimated_prompt_tokens(scene) + 12


@given(LENGTHS)
def test_halving_ends_at_single_answers_and_loses_none(lengths: list[list[int]]) -> None:
    """By groups first, then by answers; order and weights stay, and what cannot be halved is given back as it is."""
    batches = [MicroBatch(rows=tuple(rows_of(lengths)))]
    while len(split := [half for batch in batches for half in halves(batch)]) > len(batches):
        assert all(len(half.groups) >= 1 for half in split)
        batches = split
    assert all(len(batch.groups) == len(batch.groups[0].answers) == 1 for batch in batches)
    there = [one for group in step_of(lengths) for one in group.answers]
    left = [batch.groups[0].answers[0] for batch in batches]
    assert [one.answer.tokens_T.size for one in left] == [one.answer.tokens_T.size for one in there]
    assert [one.token_weight for one in left] == [one.token_weight for one in there]


def test_without_sharing_every_answer_brings_its_own_prompt() -> None:
    """The plain path: as many groups as answers, in their order, nothing else changed."""
    groups = step_of([[3, 5], [4]])
    single = [group for (group,) in alone(groups)]
    assert [(group.prompt.uid, len(group.answers)) for group in single] == [
        (group.prompt.uid, 1) for group in groups for _ in group.answers
    ]
    assert [group.answers[0] for group in single] == [one for group in groups for one in group.answers]


def records_of(images: list[int], size: tuple[int, int] = (560, 560)) -> list[TrainGroup]:
    """SFT's groups of one answer, about images that may come again."""
    lengths = [[10 + i] for i in range(len(images))]
    prompts = [fakes.prompt(f"{image}", size=size) for image in images]
    return [
        replace(group, prompt=replace(prompt, uid=f"{i}"))
        for i, (group, prompt) in enumerate(zip(step_of(lengths), prompts, strict=True))
    ]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 3), BUDGETS)
def test_records_that_share_an_image_stand_in_a_row(
    images: list[int], num_ranks: int, num_at_least: int, token_budget: int
) -> None:
    """Nothing lost or counted twice, one image a row, the budget holds, and sharing leaves no rank without a row."""
    groups = records_of(images)
    plan = plan_micro_batches(groups, num_ranks=num_ranks, token_budget=token_budget, num_at_least=num_at_least)
    batches = [batch for batches in plan for batch in batches]
    planned = answers_of(batches)
    assert sorted(planned) == sorted((group.prompt.uid, id(group.answers[0].answer)) for group in groups)
    for batch in batches:
        assert all(len({group.prompt.record.image for group in row}) == 1 for row in batch.rows)
        longest = max(packed_tokens(*row) for row in batch.rows)
        assert len(batch.rows) * longest <= token_budget or len(batch.groups) == 1
    assert sum(bool(answers_of(of_rank)) for of_rank in plan) == min(num_ranks, len(groups))


def test_a_shared_image_is_counted_once() -> None:
    """Twenty by twenty image tokens: a second record about them adds its question and answer alone."""
    one, two, other = records_of([0, 0, 1])
    assert share_images([one, other, two], token_budget=10**6, most=3) == [(one, two), (other,)]
    assert packed_tokens(one, two) == packed_tokens(one) + 11 + len(two.prompt.question) // 3
    assert share_images([one, two], token_budget=packed_tokens(one, two) - 1, most=2) == [(one,), (two,)]
    plain = plan_micro_batches([one, two], num_ranks=1, token_budget=10**6, prefix_sharing=False)
    assert [len(row) for row in plain[0][0].rows] == [1, 1]


def test_groups_of_several_answers_keep_their_own_row() -> None:
    groups = [replace(group, prompt=fakes.prompt("same")) for group in step_of([[3, 4], [5, 6], [7]])]
    assert share_images(groups, token_budget=10**6, most=3) == [(group,) for group in groups]


def test_a_shared_row_is_halved_down_to_single_records() -> None:
    batches = [MicroBatch(rows=(tuple(records_of([0] * 5)),))]
    while len(split := [half for batch in batches for half in halves(batch)]) > len(batches):
        batches = split
    assert [group.prompt.uid for batch in batches for group in batch.groups] == list("01234")
