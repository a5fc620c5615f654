"""Credit of decisions: every token gets the advantage of the decision it belongs to.

Axes: P groups of a step, G answers of a group, K decisions of an answer, T its tokens, F features, R rows of all.

An answer is a sequence of decisions. Phi_k is the reward if it had ended before decision k, Phi_{K+1} its reward; V_k
is one function, for all answers of a group, of prompt, truth and the tokens before decision k; V_{K+1} = 0. Decision k
brought delta_k, and its tokens get A_k:

    delta_k = Phi_{k+1} + V_{k+1} - Phi_k - V_k
    A_k = sum over j >= 0 of lambda^j delta_{k+j}

(generalised advantage estimation, Schulman et al., arXiv 1506.02438, equation 16, of the reward Phi_{k+1} - Phi_k). At
lambda = 1 the sum telescopes to R - Phi_k - V_k. Phi_k + V_k do not depend on the tokens from k on, so they are a
baseline: the gradient's mean is that of the reward whatever V is, where every token weighs alike (`token_weighting:
constant`) and nothing is divided by the group's spread. Below 1, later decisions count less: less noise, and as right
as V is. No network is needed for V: the truth is known, and how often the group's answers found each part of it, so a
few numbers say what is left to expect. (These odds hold an answer's own outcome too, one part in G: like the group's
mean reward in GRPO, that shrinks its advantage by up to 1 / G and turns no sign.)
"""

from collections.abc import Sequence

import numpy as np

from rex_rl.types import Decisions, Scores

RIDGE = 1.0
"""Added to the sums of squared features, each of the order of 1, over thousands of decisions: next to nothing, but
enough for a feature that never varies."""


def to_go(earned_K: np.ndarray, value_K: np.ndarray, total: float, decay: float) -> np.ndarray:
    """[K] A_k, from Phi_k and V_k of the K decisions, the reward and lambda.

    Two shapes earn 0.6 and 0.2, the first was expected, then nothing more:

    >>> to_go(np.array([0.0, 0.6]), np.array([0.6, 0.0]), 0.8, 1.0).round(2).tolist()
    [0.2, 0.2]
    >>> to_go(np.array([0.0, 0.6]), np.array([0.6, 0.0]), 0.8, 0.5).round(2).tolist()
    [0.1, 0.2]
    """
    advantage_K = np.diff(np.append(earned_K + value_K, total))
    if decay == 1.0:
        return advantage_K[::-1].cumsum()[::-1]
    for k in range(len(advantage_K) - 2, -1, -1):
        advantage_K[k] += decay * advantage_K[k + 1]
    return advantage_K


def fit_values(scores_P: Sequence[Scores]) -> list[list[np.ndarray]]:
    """[P] of [G] of [K]: V before every decision: what the group's mean reward leaves, mended by a ridge regression.

    The regression is of R less the mean on the decisions' features and on what the mean leaves. It is fitted on the
    other groups; a group whose rewards are not finite is left out. Without another group, V is what the mean leaves.
    """
    hopes_PGK = [[scores.total_G.mean() - of.earned_K for of in scores.decisions_G] for scores in scores_P]
    features_PG = [
        [np.column_stack([of.state_KF, hope_K]) for of, hope_K in zip(scores.decisions_G, hopes_GK, strict=True)]
        for scores, hopes_GK in zip(scores_P, hopes_PGK, strict=True)
    ]
    sums_P = [_sums(scores, features_G) for scores, features_G in zip(scores_P, features_PG, strict=True)]
    squares, products = (np.sum(part, axis=0) for part in zip(*sums_P, strict=True))
    ridge_FF = RIDGE * np.eye(len(products))
    values_PG = []
    for (own_FF, own_F), features_G, hopes_GK in zip(sums_P, features_PG, hopes_PGK, strict=True):
        weights_F = np.linalg.solve(squares - own_FF + ridge_FF, products - own_F)
        rows = zip(features_G, hopes_GK, strict=True)
        values_PG.append([hope_K + feature_KF @ weights_F for feature_KF, hope_K in rows])
    return values_PG


def _sums(scores: Scores, features_G: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """([F, F] sums of the features' products, [F] of their products with R less the mean); 0 where R is not finite."""
    features_RF, lengths_G = np.concatenate(features_G), [len(feature_KF) for feature_KF in features_G]
    if not np.isfinite(scores.total_G).all():
        features_RF = np.zeros_like(features_RF)
    centred_R = np.nan_to_num(scores.total_G - scores.total_G.mean(), posinf=0.0, neginf=0.0).repeat(lengths_G)
    return features_RF.T @ features_RF, features_RF.T @ centred_R


def decision_advantages(scores: Scores, values_GK: Sequence[np.ndarray], decay: float) -> list[np.ndarray]:
    """[G] of [K]: A_k of every decision of a group, less the constant that makes the mean of the first ones zero."""
    advantages_GK = [
        to_go(of.earned_K, value_K, float(total), decay)
        for of, value_K, total in zip(scores.decisions_G, values_GK, scores.total_G, strict=True)
    ]
    mean = np.mean([advantage_K[0] for advantage_K in advantages_GK])
    return [advantage_K - mean for advantage_K in advantages_GK]


def on_tokens(decisions: Decisions, advantage_K: np.ndarray, num_tokens: int) -> np.ndarray:
    """[T] the advantage of the decision each token belongs to."""
    return advantage_K.repeat(np.diff(np.append(decisions.starts_K, num_tokens)))
