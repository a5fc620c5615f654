"""From rewards to the advantage of every token.

Axes: G answers of a group, N shapes of one answer, T its tokens.
"""

from collections.abc import Sequence

import numpy as np

from rex_rl.config_schema import AdvantageConfig
from rex_rl.types import Group, ScoredAnswer, Scores, Shapes, TrainGroup

STD_FLOOR = 1e-6


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

    >>> shapes = Shapes(labels=("a", "a"), bins_NK=np.zeros((2, 4), int), spans_N2=np.array([[0, 2], [2, 4]]), faults=())
    >>> box_credit(np.array([0.5, -0.1]), shapes, 5)
    array([ 0.34,  0.34, -0.26, -0.26, -0.16])
    """
    credit_T = np.zeros(num_tokens)
    for gain, (start, end) in zip(gains_N, shapes.spans_N2, strict=True):
        credit_T[start:end] = gain
    return credit_T - credit_T.mean()


def gains_to_go(scores: Scores) -> list[np.ndarray]:
    """[G] of [N + 1]: what the rest of an answer still adds after i shapes, compared with the group at the same i.

    Entry i < N belongs to shape i, entry N to the decision to stop. The baseline at i is the group's mean of what was
    still added from there (answers that had stopped by then added nothing), so stopping where the others gain is
    blamed, and so is going on where they lose.
    """
    sizes = [gains_N.size for gains_N in scores.gains_GN]
    to_go_GM = np.zeros((len(sizes), max(sizes) + 1))
    for row, gains_N in zip(to_go_GM, scores.gains_GN, strict=True):
        row[: gains_N.size] = np.cumsum(gains_N[::-1])[::-1]
    centred_GM = to_go_GM - to_go_GM.mean(axis=0)
    return [row[: size + 1] for row, size in zip(centred_GM, sizes, strict=True)]


def train_group(group: Group, scores: Scores, config: AdvantageConfig, *, num_answers: int) -> TrainGroup:
    """A group ready to learn from; `num_answers` is the step's total, for per-sequence means (paper, equation 2)."""
    advantages_G = group_advantages(scores.total_G, normalise_std=config.normalise_std)
    credits: Sequence[np.ndarray] = [np.zeros(answer.tokens_T.size) for answer in group.answers]
    if config.credit == "to_go":
        credits = [
            to_go_credit(to_go_M, shapes, answer.tokens_T.size)
            for to_go_M, shapes, answer in zip(gains_to_go(scores), scores.shapes_G, group.answers, strict=True)
        ]
    elif config.credit != "none":
        credits = [
            box_credit(gains_N, shapes, answer.tokens_T.size)
            for gains_N, shapes, answer in zip(scores.gains_GN, scores.shapes_G, group.answers, strict=True)
        ]
    return TrainGroup(
        prompt=group.prompt,
        answers=tuple(
            ScoredAnswer(
                answer=answer,
                advantages_T=(advantage + config.credit_weight * credit_T).astype(np.float32),
                token_weight=1.0 / (num_answers * answer.tokens_T.size),
            )
            for answer, advantage, credit_T in zip(group.answers, advantages_G, credits, strict=True)
        ),
    )


def to_go_credit(to_go_M: np.ndarray, shapes: Shapes, num_tokens: int) -> np.ndarray:
    """[T] of :func:`gains_to_go`: a shape's entry on its tokens, the last entry on the tokens after the last shape."""
    credit_T = np.zeros(num_tokens)
    last = 0
    for credit, (start, end) in zip(to_go_M[:-1], shapes.spans_N2, strict=True):
        credit_T[start:end], last = credit, end
    credit_T[last : last + 1] = to_go_M[-1]
    return credit_T
