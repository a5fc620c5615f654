"""Estimates of KL(policy || reference) from the log-probabilities of the sampled tokens.

Axes: N answer tokens. Source: J. Schulman, "Approximating KL divergence" (2020), whose names k1, k2, k3 are. As a
value, k1 and k3 are unbiased. As a loss, only k2 has the gradient of the KL: k1's is zero on average, k3's is that of
the KL with its arguments swapped. k1 in the reward has it too (arXiv 2510.01555; `test_divergence.py` computes it).
"""

import torch

from rex_rl.learning.surrogates import MAX_LOG_RATIO


def k1_divergence(logprobs_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """The log ratio, policy - reference: of either sign.

    >>> k1_divergence(torch.tensor([0.0, -1.0]), torch.tensor([0.0, -3.0]))
    tensor([0., 2.])
    """
    return logprobs_N - reference_N


def k2_divergence(logprobs_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """Half the squared log ratio: never negative, small variance, biased.

    >>> k2_divergence(torch.tensor([0.0, -1.0]), torch.tensor([0.0, -3.0]))
    tensor([0., 2.])
    """
    return (logprobs_N - reference_N) ** 2 / 2


def k3_divergence(logprobs_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """GRPO's own (DeepSeekMath, arXiv 2402.03300, equation 4): exp(d) - d - 1, d = reference - policy; never negative.

    >>> k3_divergence(torch.tensor([0.0, -1.0]), torch.tensor([0.0, -2.0]))
    tensor([0.0000, 0.3679])
    """
    delta_N = (reference_N - logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return delta_N.expm1() - delta_N  # exp(d) - 1 rounds to below d, where policy and reference are close


DIVERGENCES = {"k1": k1_divergence, "k2": k2_divergence, "k3": k3_divergence}
"""`grpo.kl_estimator` -> function."""
