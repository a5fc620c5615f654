"""From rewards to the advantage of every token.

Axes: G answers of a group, N shapes of one answer, T its tokens.
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


def box_credit(gains_N: np.ndarray, shapes: Shapes, num_tokens: int) -> np.ndarray:
    """[T] each shape's gain on its own tokens, centred so that their mean over the answer is zero.

    >>> spans_N2 = np.array([[0, 2], [2, 4]])
    >>> shapes = Shapes(labels=("a", "a"), bins_NK=np.zeros((2, 4), int), spans_N2=spans_N2, faults=())
    >>> box_credit(np.array([0.5, -0.1]), shapes, 5)
    array([ 0.34,  0.34, -0.26, -0.26, -0.16])
    """
    credit_T = np.zeros(num_tokens)
    for gain, (start, end) in zip(gains_N, shapes.spans_N2, strict=True):
        credit_T[start:end] = gain
    return credit_T - credit_T.mean()


def gains_to_go(gains_GN: Sequence[np.ndarray], *, discount: float) -> list[np.ndarray]:
    """[G] of [N + 1]: what the rest of an answer still adds after i shapes, compared with the group at the same i.

    Entry i is sum over j >= i of discount^(j - i) * gain_j, less the group's mean of that at i, in which answers that
    had stopped by then count as having added nothing. So stopping where the others still gain is blamed, and so is
    going on where they lose. With discount 1, entry 0 is the reward compared with the group.

    >>> [row.tolist() for row in gains_to_go([np.array([0.5, 0.25]), np.array([0.5])], discount=1.0)]
    [[0.125, 0.125, 0.0], [-0.125, -0.125]]
    """
    sizes = [gains_N.size for gains_N in gains_GN]
    to_go_GM = np.zeros((len(sizes), max(sizes) + 1))
    for row, gains_N in zip(to_go_GM, gains_GN, strict=True):
        row[: gains_N.size] = gains_N
    for i in range(to_go_GM.shape[1] - 2, -1, -1):
        to_go_GM[:, i] += discount * to_go_GM[:, i + 1]
    centred_GM = to_go_GM - to_go_GM.mean(axis=0)
    return [row[: size + 1] for row, size in zip(centred_GM, sizes, strict=True)]


def shapes_before(shapes: Shapes, num_tokens: int) -> np.ndarray:
    """[T] how many shapes were complete before each token: the token's place in the list of shapes.

    >>> shapes = Shapes(labels=("a",), bins_NK=np.zeros((1, 4), int), spans_N2=np.array([[1, 3]]), faults=())
    >>> shapes_before(shapes, 5)
    array([0, 0, 0, 1, 1])
    """
    return np.searchsorted(shapes.spans_N2[:, 1], np.arange(num_tokens), side="right")


def token_advantages(scores: Scores, lengths_G: Sequence[int], config: AdvantageConfig) -> list[np.ndarray]:
    """[G] of [T]: the advantage of every token under the configured credit.

    `none`: the group-relative reward on all tokens. `prefix`, `leave_one_out`: plus each shape's gain on its own
    tokens, centred in the answer. `to_go`: a token gets what its answer still added from its place on, compared with
    the group at that place, plus the group-relative rest of the reward that no shape accounts for (format).
    """
    if config.credit == "to_go":
        rest_G = scores.total_G - np.array([gains_N.sum() for gains_N in scores.gains_GN])
        std = float(scores.total_G.std())
        scale = std if config.normalise_std and std >= STD_FLOOR else 1.0  # equal rewards may come in another order
        to_go = gains_to_go(scores.gains_GN, discount=config.discount)
        return [
            (rest - rest_G.mean() + entries[shapes_before(shapes, length)]) / scale
            for rest, entries, shapes, length in zip(rest_G, to_go, scores.shapes_G, lengths_G, strict=True)
        ]
    advantages_G = group_advantages(scores.total_G, normalise_std=config.normalise_std)
    if config.credit == "none":
        return [np.full(length, advantage) for advantage, length in zip(advantages_G, lengths_G, strict=True)]
    return [
        advantage + config.credit_weight * box_credit(gains_N, shapes, length)
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
    return not all(np.abs(advantages_T).max() < STD_FLOOR for advantages_T in _advantages(scores, lengths_G, config))


def train_groups(groups: Sequence[Group], scores: Sequence[Scores], config: GrpoConfig) -> list[TrainGroup]:
    """A step's groups ready to learn from. Token weights are shared out over the whole step."""
    lengths_PG = [[answer.tokens_T.size for answer in group.answers] for group in groups]
    weights_B = token_weights(
        np.array([length for lengths_G in lengths_PG for length in lengths_G]),
        config.token_weighting,
        max_answer_tokens=config.max_answer_tokens,
    )
    weights = iter(weights_B.tolist())
    return [
        TrainGroup(
            prompt=group.prompt,
            answers=tuple(
                ScoredAnswer(answer=answer, advantages_T=advantages_T.astype(np.float32), token_weight=next(weights))
                for answer, advantages_T in zip(group.answers, _advantages(one, lengths_G, config), strict=True)
            ),
        )
        for group, one, lengths_G in zip(groups, scores, lengths_PG, strict=True)
    ]


def _advantages(scores: Scores, lengths_G: Sequence[int], config: GrpoConfig) -> list[np.ndarray]:
    """Of one group, after what its answers' lengths cost them."""
    if config.overlong_buffer:
        cost_G = overlong_penalty(lengths_G, max_answer_tokens=config.max_answer_tokens, buffer=config.overlong_buffer)
        scores = replace(scores, total_G=scores.total_G + cost_G)
    return token_advantages(scores, lengths_G, config.advantage)
