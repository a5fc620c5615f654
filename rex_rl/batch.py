"""From scored groups to what each learner rank forwards: weights of tokens, micro-batches, balance over ranks.

A batch is made of groups, not of rows: a prompt and its image are forwarded once per group, or once per part of a
group where the token budget cuts it. NumPy-free and torch-free.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rex_rl.types import Prompt, ScoredAnswer, TrainGroup

IMAGE_TOKEN_PX = 28
"""Side of the square of pixels that becomes one image token (14 px patches, merged 2 x 2)."""
CHAT_TOKENS = 32
"""About what the chat frame around image and question takes."""
CHARACTERS_PER_TOKEN = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Groups that go through the network side by side."""

    groups: tuple[TrainGroup, ...]


def estimated_prompt_tokens(prompt: Prompt) -> int:
    """About how many tokens a prompt and its image take; for balancing only, never for correctness.

    Images are resized by the model's own limits, which this ignores: a 4K photograph is estimated too long, which
    makes its micro-batch smaller than it could be.
    """
    rows, columns = (math.ceil(side / IMAGE_TOKEN_PX) for side in prompt.record.size)
    return rows * columns + len(prompt.question) // CHARACTERS_PER_TOKEN + CHAT_TOKENS


def packed_tokens(group: TrainGroup) -> int:
    """About how long the group's packed sequence is."""
    return estimated_prompt_tokens(group.prompt) + group.num_answer_tokens


def split_group(group: TrainGroup, token_budget: int) -> list[TrainGroup]:
    """Cut a group into parts of whole answers that fit the budget; an answer longer than it gets a part of its own."""
    parts: list[TrainGroup] = []
    part: list[ScoredAnswer] = []
    room = 0
    for scored in group.answers:
        size = scored.answer.tokens_T.size
        if part and size > room:
            parts.append(replace(group, answers=tuple(part)))
            part = []
        if not part:
            room = token_budget - estimated_prompt_tokens(group.prompt)
        part.append(scored)
        room -= size
    return [*parts, replace(group, answers=tuple(part))]


def pack_micro_batches(groups: Sequence[TrainGroup], *, token_budget: int, num_at_least: int = 1) -> list[MicroBatch]:
    """Stand groups of similar length side by side; rows times the longest row stays within the budget.

    At least `num_at_least` micro-batches come out where there are as many groups.
    """
    parts = [part for group in groups for part in split_group(group, token_budget)]
    parts.sort(key=packed_tokens, reverse=True)
    most_rows = max(1, len(parts) // num_at_least)
    batches: list[list[TrainGroup]] = []
    for part in parts:
        fits = batches and (len(batches[-1]) + 1) * packed_tokens(batches[-1][0]) <= token_budget
        if fits and len(batches[-1]) < most_rows:
            batches[-1].append(part)
        else:
            batches.append([part])
    return [MicroBatch(groups=tuple(rows)) for rows in batches]


def halves(batch: MicroBatch) -> list[MicroBatch]:
    """A micro-batch in two, by groups where it has several, else by answers; one answer alone stays as it is."""
    if (count := len(batch.groups)) > 1:
        return [MicroBatch(groups=batch.groups[: count // 2]), MicroBatch(groups=batch.groups[count // 2 :])]
    (group,) = batch.groups
    if (count := len(group.answers)) == 1:
        return [batch]
    parts = (group.answers[: count // 2], group.answers[count // 2 :])
    return [MicroBatch(groups=(replace(group, answers=part),)) for part in parts]


def share_among_ranks(groups: Sequence[TrainGroup], num_ranks: int) -> list[list[TrainGroup]]:
    """Deal groups to ranks so that their token counts are about even: the longest first, to the emptiest rank."""
    shares: list[list[TrainGroup]] = [[] for _ in range(num_ranks)]
    filled = [0] * num_ranks
    for group in sorted(groups, key=packed_tokens, reverse=True):
        rank = filled.index(min(filled))
        shares[rank].append(group)
        filled[rank] += packed_tokens(group)
    return shares


def alone(groups: Sequence[TrainGroup]) -> list[TrainGroup]:
    """Every answer as a group of its own, with its own copy of prompt and image: the plain path, without sharing."""
    return [replace(group, answers=(scored,)) for group in groups for scored in group.answers]


def plan_micro_batches(
    groups: Sequence[TrainGroup], *, num_ranks: int, token_budget: int, num_at_least: int = 1
) -> list[list[MicroBatch]]:
    """[rank][micro-batch]; every rank gets the same number, because ZeRO-3's forward is a collective.

    A rank that would have fewer repeats its last one with weight zero: it joins the collectives and adds nothing.
    """
    plan = [
        pack_micro_batches(share, token_budget=token_budget, num_at_least=num_at_least)
        for share in share_among_ranks(groups, num_ranks)
    ]
    most = max(len(batches) for batches in plan)
    spare = next(batches[-1] for batches in plan if batches)
    return [[*batches, *[_weightless(batches[-1] if batches else spare)] * (most - len(batches))] for batches in plan]


def _weightless(batch: MicroBatch) -> MicroBatch:
    group = batch.groups[0]
    return MicroBatch(groups=(replace(group, answers=(replace(group.answers[0], token_weight=0.0),)),))
