"""Loss and KL as logged are what is minimised, however a step is cut into micro-batches and over ranks."""

from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from actors.learner.metrics import token_metrics
from actors.learner.rank import LearnerRank
from rex_rl.config.actors import LearnerConfig
from rex_rl.config.schema import GrpoConfig
from rex_rl.learning.advantage import token_weights
from rex_rl.learning.batch import MicroBatch, Row, plan_micro_batches
from rex_rl.policy.model import TokenStats
from rex_rl.types import Mean, ScoredAnswer, TrainGroup
from tests.support import fakes

LENGTHS = (2, 40, 5)
LIMIT = 64
BETA = 0.25


def groups(weighting: str) -> list[TrainGroup]:
    """Groups of one answer each, of very different lengths; an answer's advantage is its number, from 1."""
    weights_B = token_weights(np.array(LENGTHS), weighting, max_answer_tokens=LIMIT)
    return [
        TrainGroup(
            prompt=fakes.prompt(f"{i}"),
            answers=(ScoredAnswer(answer=fakes.answer(n), advantages_T=np.full(n, i), token_weight=float(weight)),),
        )
        for i, (n, weight) in enumerate(zip(LENGTHS, weights_B, strict=True), start=1)
    ]


def lone_rank(num_ranks: int, losses: list[float]) -> LearnerRank:
    """A rank without an engine, whose backward passes end in `losses`.

    The policy's log-probabilities are the engine's, the reference's are lower by half the answer's number.
    """
    rank = LearnerRank(LearnerConfig(), bfloat16=False)
    rank._seat = SimpleNamespace(num_ranks=num_ranks)
    rank._device = torch.device("cpu")
    rank._grpo = GrpoConfig(kl_beta=BETA, kl_estimator="k1", max_answer_tokens=LIMIT)

    def stats(rows: Sequence[Row], *, gap: float) -> TokenStats:
        advantages_N = np.concatenate([one.advantages_T for row in rows for group in row for one in group.answers])
        logprobs_N = torch.full([advantages_N.size], -0.5) - gap * torch.from_numpy(advantages_N).float()
        return TokenStats(logprobs_N=logprobs_N, entropy_N=torch.from_numpy(advantages_N).float())

    rank._inputs = lambda rows: rows
    rank._forward = lambda rows: stats(rows, gap=0.0)
    rank._reference = lambda rows: stats(rows, gap=0.5)
    rank._engine = SimpleNamespace(
        begin_backward=lambda is_last: None,
        engine=SimpleNamespace(backward=lambda loss: losses.append(float(loss))),
        reduces_late=False,
    )
    return rank


def metrics_of(plan: Sequence[Sequence[MicroBatch]]) -> tuple[dict[str, float], float]:
    """(what is logged, the loss whose gradient is taken: DeepSpeed's mean over the ranks) of [rank][micro-batch]."""
    joined: dict[str, Mean] = {}
    losses: list[float] = []
    for part in plan:
        passed = lone_rank(len(plan), losses)._pass_through(part)
        assert passed is not None
        for name, mean in passed[0].items():
            joined[name] = joined[name] + mean if name in joined else mean
    return {name: mean.value for name, mean in joined.items()}, sum(losses) / len(plan)


@pytest.mark.parametrize(
    ("weighting", "weight_of"),
    [
        ("sequence_mean", [1 / 3, 1 / 3, 1 / 3]),
        ("token_mean", [2 / 47, 40 / 47, 5 / 47]),
        ("constant", [2 / 192, 40 / 192, 5 / 192]),
    ],
)
@pytest.mark.parametrize(("num_ranks", "num_at_least", "budget"), [(1, 1, 10**6), (1, 3, 1), (2, 1, 10**6), (3, 1, 1)])
def test_the_logged_loss_is_the_minimised_one(
    weighting: str, weight_of: list[float], num_ranks: int, num_at_least: int, budget: int
) -> None:
    """By hand: an answer's tokens lose -i + beta i / 2. Neither micro-batches nor ranks change the numbers."""
    plan = plan_micro_batches(groups(weighting), num_ranks=num_ranks, token_budget=budget, num_at_least=num_at_least)
    logged, minimised = metrics_of(plan)
    numbers = np.arange(1, 4)
    assert logged["kl"] == pytest.approx(np.dot(weight_of, numbers / 2))
    assert logged["loss"] == pytest.approx(np.dot(weight_of, BETA * numbers / 2 - numbers))
    assert logged["loss"] == pytest.approx(minimised)


def test_other_metrics_stay_means_over_tokens() -> None:
    """Also with a micro-batch that a rank repeats with weight 0 to join the others."""
    logged, _ = metrics_of(plan_micro_batches(groups("sequence_mean"), num_ranks=2, token_budget=1))
    assert logged["entropy"] == pytest.approx(np.dot(LENGTHS, [1, 2, 3]) / sum(LENGTHS))
    assert logged["importance/weight"] == 1


def test_a_weighted_sum_has_no_count_before_the_rank_is_known() -> None:
    values = {"loss": torch.tensor([1.0, 3.0, 9.0]), "entropy": torch.tensor([1.0, 3.0, 9.0])}
    found = token_metrics(values, torch.tensor([0.5, 0.25, 0.0]))
    assert found == {"loss": Mean(total=1.25, count=0.0), "entropy": Mean(total=4.0, count=2.0)}
