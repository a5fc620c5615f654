"""The prompt stream and the SFT targets: deterministic, and resumable by a single number, the position."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rex_rl.language.codec import Codec, question_of
from rex_rl.language.tasks import TASKS
from rex_rl.types import Answer, FinishReason, Prompt, Record, ScoredAnswer, TrainGroup


@dataclass(frozen=True, kw_only=True)
class PromptStream:
    """Endless prompts over some records: every epoch in an order of its own, categories shuffled in each prompt.

    `prompts(first, count)` is a pure function of seed and position, so resuming needs no state but the position.
    """

    records: Sequence[Record]
    seed: int
    paraphrase: bool = False
    """Ask in several wordings, else in the official one only."""

    def prompts(self, first: int, count: int) -> list[Prompt]:
        """Prompts at positions first .. first + count - 1."""
        return [self._prompt(position) for position in range(first, first + count)]

    def _prompt(self, position: int) -> Prompt:
        epoch, place = divmod(position, len(self.records))
        record = self.records[_epoch_order(self.seed, epoch, len(self.records))[place]]
        rng = np.random.default_rng([self.seed, position])
        categories = tuple(record.categories[i] for i in rng.permutation(len(record.categories)))
        wording = int(rng.integers(len(TASKS[record.task].wordings))) if self.paraphrase else None
        asked = replace(record, categories=categories)
        return Prompt(
            uid=f"{position:06d}:{record.id}",
            record=asked,
            question=question_of(asked, wording),
        )


@functools.lru_cache(maxsize=2)  # a step's prompts span two epochs at most; 22 million records take 0.5 s
def _epoch_order(seed: int, epoch: int, num_records: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, epoch]).permutation(num_records)


def evaluation_prompts(records: Sequence[Record]) -> list[Prompt]:
    """One prompt a record: categories in the file's order, the official wording."""
    return [Prompt(uid=f"eval:{record.id}", record=record, question=question_of(record)) for record in records]


def split_records(
    records: Sequence[Record], *, heldout_fraction: float, seed: int
) -> tuple[list[Record], list[Record]]:
    """(training, held-out) records: a seeded share of the images is held back, at least one and never all.

    All records of an image go to one side, so that no held-out image was trained on.
    """
    images = list(dict.fromkeys(record.image for record in records))
    order = np.random.default_rng([seed, 1]).permutation(len(images))
    num_heldout = min(max(1, round(heldout_fraction * len(images))), len(images) - 1)
    held = {images[place] for place in order[:num_heldout]}
    return (
        [record for record in records if record.image not in held],
        [record for record in records if record.image in held],
    )


def sft_batch(prompts: Sequence[Prompt], codec: Codec) -> list[TrainGroup]:
    """Ground-truth answers as groups of one: every token weighs the same (a token mean over the step)."""
    answers = [_true_answer(codec.encode(prompt.record, prompt.record.categories)) for prompt in prompts]
    weight = 1.0 / sum(answer.tokens_T.size for answer in answers)
    return [
        TrainGroup(prompt=prompt, answers=(_as_learned(answer, weight),))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _true_answer(tokens_T: np.ndarray) -> Answer:
    return Answer(
        tokens_T=tokens_T,
        logprobs_T=np.zeros(tokens_T.size, dtype=np.float32),
        versions_T=np.zeros(tokens_T.size, dtype=np.int64),
        finish_reason=FinishReason.STOP,
    )


def _as_learned(answer: Answer, weight: float) -> ScoredAnswer:
    advantages_T = np.ones(answer.tokens_T.size, dtype=np.float32)
    return ScoredAnswer(answer=answer, advantages_T=advantages_T, token_weight=weight)
