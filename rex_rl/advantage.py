"""From rewards to the advantage of every token.

Axes: P groups of a step, G answers of a group, N shapes of one answer, T its tokens.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rex_rl.config_schema import AdvantageConfig, GrpoConfig
from rex_rl.types import Group, ScoredAnswer, Scores, Shapes, TrainGroup

STD_FLOOR = 1e-6
"""Answers whose rewards, which are of the order of 1, spread less than this earned the same."""


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
    """A step's rewards and gains divided by their task's spread, so that no task's scale drowns another's."""
    spreads = task_spreads([one.total_G for one in scores], tasks_P)
    return [
        replace(
            one,
            total_G=one.total_G / spreads[task],
            gains_GN=tuple(gains_N / spreads[task] for gains_N in one.gains_GN),
        )
        for one, task in zip(scores, tasks_P, strict=True)
    ]


def box_credit(gains_N: np.ndarray, shapes: Shapes, num_tokens: int, *, centred: bool) -> np.ndarray:
    """[T] each shape's gain on its own tokens; 0 elsewhere.

    A shape's span holds the comma or mark before it (segment_shapes.py). Centred: less their mean, so that the answer's
    tokens sum to zero; what no span holds has no gain, and less the mean of right shapes would be blamed for nothing.
    Not centred: a gain is over not saying the shape, so what stands since the shape before, as the end of one list and
    the label of the next, shares the gain of the shape that it led to.

    >>> spans_N2 = np.array([[1, 3], [4, 6]])
    >>> shapes = Shapes(labels=("a", "a"), bins_NK=np.zeros((2, 4), int), spans_N2=spans_N2, faults=())
    >>> box_credit(np.array([0.5, -0.1]), shapes, 7, centred=True)
    array([ 0. ,  0.3,  0.3,  0. , -0.3, -0.3,  0. ])
    >>> box_credit(np.array([0.5, -0.1]), shapes, 7, centred=False)
    array([ 0.5,  0.5,  0.5, -0.1, -0.1, -0.1,  0. ])
    """
    starts_N, ends_N = shapes.spans_N2.T
    if not centred:
        starts_N = np.concatenate([[0], ends_N])[:-1]
    credit_T, is_credited_T = np.zeros(num_tokens), np.zeros(num_tokens, dtype=bool)
    for gain, start, end in zip(gains_N, starts_N, ends_N, strict=True):
        credit_T[start:end], is_credited_T[start:end] = gain, True
    if centred and is_credited_T.any():
        credit_T[is_credited_T] -= credit_T[is_credited_T].mean()
    return credit_T


def token_advantages(scores: Scores, lengths_G: Sequence[int], config: AdvantageConfig) -> list[np.ndarray]:
    """[G] of [T]: the advantage of every token under the configured credit.

    `none`: the group-relative reward on all tokens. The other forms: plus each shape's gain on its own tokens.
    """
    advantages_G = group_advantages(scores.total_G, normalise_std=config.normalise_std)
    if config.credit == "none":
        return [np.full(length, advantage) for advantage, length in zip(advantages_G, lengths_G, strict=True)]
    return [
        advantage + config.credit_weight * box_credit(gains_N, shapes, length, centred=config.centre_credit)
        for advantage, gains_N, shapes, length in zip(
            advantages_G, scores.gains_GN, scores.shapes_G, lengths_G, strict=True
        )
    ]


def token_weights(lengths_B: np.ndarray, weighting: str, *, max_answer_tokens: int) -> np.ndarray:
    """[B] what each token of each of a step's answers counts in its loss.

    `sequence_mean`: 1 / (B length), every answer alike (paper, equation 2; GSPO, arXiv 2507.18071, equation 5).
    `token_mean`: 1 / sum of lengths, every token alike (DAPO, arXiv 2503.14476, section 3.3; CISPO, arXiv 2506.13585,
    equation 4), over the step, where they sum over a prompt's group. `constant`: 1 / (B max_answer_tokens), which
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
    """Whether any token of a group has an advantage: none has where all answers earned the same and no credit is on.

    A reward that is no number passes, for the learner's guard to deal with.
    """
    lengths_G = [answer.tokens_T.size for answer in group.answers]
    rows = token_advantages(_less_length_cost(scores, lengths_G, config), lengths_G, config.advantage)
    return not all(np.abs(advantages_T).max() < STD_FLOOR for advantages_T in rows)


def train_groups(groups: Sequence[Group], scores: Sequence[Scores], config: GrpoConfig) -> list[TrainGroup]:
    """A step's groups ready to learn from. Token weights, and spreads of tasks, are of the whole step."""
    lengths_PG = [[answer.tokens_T.size for answer in group.answers] for group in groups]
    weights_B = token_weights(
        np.array([length for lengths_G in lengths_PG for length in lengths_G]),
        config.token_weighting,
        max_answer_tokens=config.max_answer_tokens,
    )
    weights = iter(weights_B.tolist())
    scores = [_less_length_cost(one, lengths_G, config) for one, lengths_G in zip(scores, lengths_PG, strict=True)]
    if config.advantage.normalise_by_task:
        scores = in_task_units(scores, [group.prompt.record.task for group in groups])
    return [
        TrainGroup(
            prompt=group.prompt,
            answers=tuple(
                ScoredAnswer(answer=answer, advantages_T=advantages_T.astype(np.float32), token_weight=next(weights))
                for answer, advantages_T in zip(
                    group.answers, token_advantages(one, lengths_G, config.advantage), strict=True
                )
            ),
        )
        for group, one, lengths_G in zip(groups, scores, lengths_PG, strict=True)
    ]


def _less_length_cost(scores: Scores, lengths_G: Sequence[int], config: GrpoConfig) -> Scores:
    """Of one group, after what its answers' lengths cost them."""
    if not config.overlong_buffer:
        return scores
    cost_G = overlong_penalty(lengths_G, max_answer_tokens=config.max_answer_tokens, buffer=config.overlong_buffer)
    return replace(scores, total_G=scores.total_G + cost_G)
