"""From rewards to the advantage of every token.

Axes: P groups of a step, G answers of a group, T tokens of one answer.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rex_rl.config.schema import AdvantageConfig, GrpoConfig
from rex_rl.learning.token_credit import decision_advantages, fit_values, on_tokens
from rex_rl.types import Group, ScoredAnswer, Scores, TrainGroup

STD_FLOOR = 1e-6
"""Answers whose rewards spread less than this earned the same; rewards are of the order of 1."""
CREDIT_STD_FLOOR = 0.05
"""Least number that the credit of a group's decisions is divided by: answers that earn nearly the same may differ in
what their decisions brought, and a smaller divisor would blow that up."""


def group_advantages(total_G: np.ndarray, *, normalise_std: bool) -> np.ndarray:
    """Rewards of a group compared with each other: (r - mean) / std (paper, section 4.2.4; DeepSeekMath, 4.1.2).

    A group whose answers all earn the same teaches nothing and gets zeros.

    >>> group_advantages(np.array([0.0, 0.0, 1.0, 1.0]), normalise_std=True)
    array([-1., -1.,  1.,  1.])
    >>> group_advantages(np.array([0.0, 0.0, 1.0, 1.0]), normalise_std=False)
    array([-0.5, -0.5,  0.5,  0.5])
    """
    centred_G = total_G - total_G.mean()
    std = float(total_G.std())
    if std < STD_FLOOR:
        return np.zeros_like(centred_G)
    return centred_G / std if normalise_std else centred_G


def task_spreads(total_PG: Sequence[np.ndarray], tasks_P: Sequence[str]) -> dict[str, float]:
    """How far a step's rewards lie from their groups' means, by task: sqrt(mean of (r - mean of its group)^2).

    The mean is over all answers to prompts of the task. A task in which no group's answers differ gets 1.

    >>> total_PG = [np.array([0.0, 4.0]), np.array([0.0, 0.2]), np.array([0.3, 0.7]), np.array([1.0, 1.0])]
    >>> {task: round(spread, 3) for task, spread in task_spreads(total_PG, ["a", "b", "b", "c"]).items()}
    {'a': 2.0, 'b': 0.158, 'c': 1.0}
    """
    centred_of: dict[str, list[np.ndarray]] = {}
    for total_G, task in zip(total_PG, tasks_P, strict=True):
        centred_of.setdefault(task, []).append(total_G - total_G.mean())
    spreads = {task: float(np.concatenate(rows).std()) for task, rows in centred_of.items()}
    return {task: spread if spread >= STD_FLOOR else 1.0 for task, spread in spreads.items()}


def in_task_units(scores: Sequence[Scores], tasks_P: Sequence[str]) -> list[Scores]:
    """A step's rewards divided by their task's spread, so that no task's scale drowns another's."""
    spreads = task_spreads([one.total_G for one in scores], tasks_P)
    return [
        replace(
            one,
            total_G=one.total_G / spreads[task],
            decisions_G=tuple(replace(of, earned_K=of.earned_K / spreads[task]) for of in one.decisions_G),
        )
        for one, task in zip(scores, tasks_P, strict=True)
    ]


def token_advantages(
    scores_P: Sequence[Scores], lengths_PG: Sequence[Sequence[int]], tasks_P: Sequence[str], config: AdvantageConfig
) -> list[list[np.ndarray]]:
    """[P] of [G] of [T]: the advantage of every token of a step under the configured credit.

    `none`: the group-relative reward on all tokens. `to_go`: what each decision brought (token_credit.py), V fitted on
    the groups of the same task; with `normalise_std` all of a group's are divided by one number.
    """
    if config.credit == "none":
        return [
            [
                np.full(length, advantage)
                for length, advantage in zip(
                    lengths_G, group_advantages(scores.total_G, normalise_std=config.normalise_std), strict=True
                )
            ]
            for scores, lengths_G in zip(scores_P, lengths_PG, strict=True)
        ]
    values_of: dict[int, list[np.ndarray]] = {}
    for task in dict.fromkeys(tasks_P):
        places = [place for place, name in enumerate(tasks_P) if name == task]
        values_of |= zip(places, fit_values([scores_P[place] for place in places]), strict=True)
    rows_PG = []
    for place, (scores, lengths_G) in enumerate(zip(scores_P, lengths_PG, strict=True)):
        if scores.total_G.std() < STD_FLOOR:  # no decision was better than another
            rows_PG.append([np.zeros(length) for length in lengths_G])
            continue
        advantages_GK = decision_advantages(scores, values_of[place], config.credit_lambda)
        unit = max(float(scores.total_G.std()), CREDIT_STD_FLOOR) if config.normalise_std else 1.0
        rows = zip(scores.decisions_G, advantages_GK, lengths_G, strict=True)
        rows_PG.append([on_tokens(of, advantage_K / unit, length) for of, advantage_K, length in rows])
    return rows_PG


def token_weights(lengths_B: np.ndarray, weighting: str, *, max_answer_tokens: int) -> np.ndarray:
    """[B] weight in the loss of each token of an answer, for all answers of a step.

    `sequence_mean`: 1 / (B length), every answer alike (paper, equation 2; GSPO, arXiv 2507.18071, equation 5).
    `token_mean`: 1 / sum of lengths, every token alike (DAPO, arXiv 2503.14476, section 3.3; CISPO, arXiv 2506.13585,
    equation 4), here over the step, there over a prompt's group. `constant`: 1 / (B max_answer_tokens), which
    favours no length and keeps a token's weight from step to step (Dr. GRPO, arXiv 2503.20783, section 3).

    >>> lengths_B = np.array([1, 4])
    >>> [token_weights(lengths_B, name, max_answer_tokens=10).tolist() for name in ("sequence_mean", "token_mean")]
    [[0.5, 0.125], [0.2, 0.2]]
    >>> token_weights(lengths_B, "constant", max_answer_tokens=10).tolist()
    [0.05, 0.05]
    """
    match weighting:
        case "sequence_mean":
            return 1 / (lengths_B.size * lengths_B)
        case "token_mean":
            return np.full(lengths_B.size, 1 / lengths_B.sum())
        case _:
            return np.full(lengths_B.size, 1 / (lengths_B.size * max_answer_tokens))


def overlong_penalty(lengths_G: Sequence[int], *, max_answer_tokens: int, buffer: int) -> np.ndarray:
    """[G] DAPO's soft punishment (arXiv 2503.14476, equation 13): 0 up to max - buffer, then linearly to -1 at max.

    >>> overlong_penalty([70, 90, 100], max_answer_tokens=100, buffer=20)
    array([ 0. , -0.5, -1. ])
    """
    return np.clip((max_answer_tokens - buffer - np.asarray(lengths_G)) / max(buffer, 1), -1, 0)


def teaches(group: Group, scores: Scores, config: GrpoConfig) -> bool:
    """Whether a group's answers earned different rewards. Where they did not, no decision was better than another.

    A reward that is not a number passes; the learner's guard deals with it.
    """
    lengths_G = [answer.tokens_T.size for answer in group.answers]
    return not _less_length_cost(scores, lengths_G, config).total_G.std() < STD_FLOOR


def train_groups(groups: Sequence[Group], scores: Sequence[Scores], config: GrpoConfig) -> list[TrainGroup]:
    """A step's groups ready to learn from. Token weights and spreads of tasks are of the whole step."""
    lengths_PG = [[answer.tokens_T.size for answer in group.answers] for group in groups]
    weights_B = token_weights(
        np.array([length for lengths_G in lengths_PG for length in lengths_G]),
        config.token_weighting,
        max_answer_tokens=config.max_answer_tokens,
    )
    weights = iter(weights_B.tolist())
    scores = [_less_length_cost(one, lengths_G, config) for one, lengths_G in zip(scores, lengths_PG, strict=True)]
    tasks_P = [group.prompt.record.task for group in groups]
    if config.advantage.normalise_by_task:
        scores = in_task_units(scores, tasks_P)
    rows_PG = token_advantages(scores, lengths_PG, tasks_P, config.advantage)
    return [
        TrainGroup(
            prompt=group.prompt,
            answers=tuple(
                ScoredAnswer(answer=answer, advantages_T=advantages_T.astype(np.float32), token_weight=next(weights))
                for answer, advantages_T in zip(group.answers, rows_G, strict=True)
            ),
        )
        for group, rows_G in zip(groups, rows_PG, strict=True)
    ]


def _less_length_cost(scores: Scores, lengths_G: Sequence[int], config: GrpoConfig) -> Scores:
    """Scores of one group, after the penalty for overlong answers."""
    if not config.overlong_buffer:
        return scores
    cost_G = overlong_penalty(lengths_G, max_answer_tokens=config.max_answer_tokens, buffer=config.overlong_buffer)
    return replace(scores, total_G=scores.total_G + cost_G)
