"""From scored groups to what each learner rank forwards: weights of tokens, micro-batches, balance over ranks.

A row of a micro-batch is a group, not an answer: a prompt and its image are forwarded once per group, or once per part
of a group where the token budget cuts it. SFT's records about one image share a row too. NumPy-free and torch-free.
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


Row = tuple[TrainGroup, ...]
"""Groups about one image, which stands once in their sequence."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """Rows that go through the network side by side."""

    rows: tuple[Row, ...]

    @property
    def groups(self) -> tuple[TrainGroup, ...]:
        """The groups of all rows."""
        return tuple(group for row in self.rows for group in row)


def estimated_prompt_tokens(prompt: Prompt) -> int:
    """About how many tokens a prompt and its image take; for balancing only, never for correctness.

    Images are resized by the model's own limits, which this ignores: a 4K photograph is estimated too long, which
    makes its micro-batch smaller than it could be.
    """
    rows, columns = (math.ceil(side / IMAGE_TOKEN_PX) for side in prompt.record.size)
    return rows * columns + _question_tokens(prompt) + CHAT_TOKENS


def _question_tokens(prompt: Prompt) -> int:
    return len(prompt.question) // CHARACTERS_PER_TOKEN


def packed_tokens(first: TrainGroup, *others: TrainGroup) -> int:
    """About how long the sequence of a row is: the first group's prompt, the others' questions, all answers."""
    questions = sum(_question_tokens(group.prompt) for group in others)
    return (
        estimated_prompt_tokens(first.prompt) + questions + sum(group.num_answer_tokens for group in (first, *others))
    )


def share_images(groups: Sequence[TrainGroup], *, token_budget: int, most: int) -> list[Row]:
    """Rows of at most `most` groups: those of one answer (SFT's records) share a row where they share an image.

    A group of several answers stays alone: its question would have to be repeated for each of them.
    """
    rows: list[list[TrainGroup]] = []
    open_rows: dict[str, list[TrainGroup]] = {}
    for group in groups:
        image = group.prompt.record.image
        single = len(group.answers) == 1
        row = open_rows.get(image) if single else None
        if row is not None and len(row) < most and packed_tokens(*row, group) <= token_budget:
            row.append(group)
            continue
        rows.append([group])
        if single:
            open_rows[image] = rows[-1]
    return [tuple(row) for row in rows]


def split_group(group: TrainGroup, token_budget: int) -> list[TrainGroup]:
    """Cut a group into parts of whole answers that fit the budget; a longer answer gets a part of its own."""
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


def pack_micro_batches(rows: Sequence[Row], *, token_budget: int, num_at_least: int = 1) -> list[MicroBatch]:
    """Put rows of similar length side by side; their number times the longest stays within the budget.

    At least `num_at_least` micro-batches come out where there are as many rows.
    """
    parts = [part for row in rows for part in _split(row, token_budget)]
    parts.sort(key=lambda row: packed_tokens(*row), reverse=True)
    most_rows = max(1, len(parts) // num_at_least)
    batches: list[list[Row]] = []
    for part in parts:
        fits = batches and (len(batches[-1]) + 1) * packed_tokens(*batches[-1][0]) <= token_budget
        if fits and len(batches[-1]) < most_rows:
            batches[-1].append(part)
        else:
            batches.append([part])
    return [MicroBatch(rows=tuple(rows)) for rows in batches]


def _split(row: Row, token_budget: int) -> list[Row]:
    return [row] if len(row) > 1 else [(part,) for part in split_group(row[0], token_budget)]


def halves(batch: MicroBatch) -> list[MicroBatch]:
    """A micro-batch in two: by rows where it has several, else by groups, else by answers; a single answer stays."""
    if (count := len(batch.rows)) > 1:
        return [MicroBatch(rows=batch.rows[: count // 2]), MicroBatch(rows=batch.rows[count // 2 :])]
    (row,) = batch.rows
    if (count := len(row)) > 1:
        return [MicroBatch(rows=(row[: count // 2],)), MicroBatch(rows=(row[count // 2 :],))]
    (group,) = row
    if (count := len(group.answers)) == 1:
        return [batch]
    parts = (group.answers[: count // 2], group.answers[count // 2 :])
    return [MicroBatch(rows=((replace(group, answers=part),),)) for part in parts]


def share_among_ranks(rows: Sequence[Row], num_ranks: int) -> list[list[Row]]:
    """Deal rows to ranks so that their token counts are about even: the longest first, to the emptiest rank."""
    shares: list[list[Row]] = [[] for _ in range(num_ranks)]
    filled = [0] * num_ranks
    for row in sorted(rows, key=lambda row: packed_tokens(*row), reverse=True):
        rank = filled.index(min(filled))
        shares[rank].append(row)
        filled[rank] += packed_tokens(*row)
    return shares


def alone(groups: Sequence[TrainGroup]) -> list[Row]:
    """Every answer in a row of its own, with its own copy of prompt and image: the plain path, without sharing."""
    return [(replace(group, answers=(scored,)),) for group in groups for scored in group.answers]


def plan_micro_batches(
    groups: Sequence[TrainGroup],
    *,
    num_ranks: int,
    token_budget: int,
    num_at_least: int = 1,
    prefix_sharing: bool = True,
) -> list[list[MicroBatch]]:
    """[rank][micro-batch]; every rank gets the same number, because ZeRO-3's forward is a collective.

    A rank that would have fewer repeats its last one with weight zero: it joins the collectives and adds nothing.
    """
    most = max(1, len(groups) // (num_ranks * num_at_least))  # so that sharing leaves no rank without a row
    rows = share_images(groups, token_budget=token_budget, most=most) if prefix_sharing else alone(groups)
    plan = [
        pack_micro_batches(share, token_budget=token_budget, num_at_least=num_at_least)
        for share in share_among_ranks(rows, num_ranks)
    ]
    longest = max(len(batches) for batches in plan)
    spare = next(batches[-1] for batches in plan if batches)
    return [
        [*batches, *[_weightless(batches[-1] if batches else spare)] * (longest - len(batches))] for batches in plan
    ]


def _weightless(batch: MicroBatch) -> MicroBatch:
    group = batch.groups[0]
    return MicroBatch(rows=((replace(group, answers=(replace(group.answers[0], token_weight=0.0),)),),))
