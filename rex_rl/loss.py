"""The two losses, per token, as pure functions of tensors.

Axes: N answer tokens of a micro-batch. Every function returns one value a token; how tokens are weighted into a
scalar is the batch's business (`MicroBatch`: per-sequence means for GRPO, a token mean for SFT).
"""

from dataclasses import dataclass

import torch

MAX_LOG_RATIO = 10.0
"""exp(10) = 22,026: beyond it a ratio or a k3 term says only "far away", and float32 would overflow at 88."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyTerms:
    """What the policy loss of each token is made of; all [N]."""

    loss_N: torch.Tensor
    kl_N: torch.Tensor
    clipped_low_N: torch.Tensor
    clipped_high_N: torch.Tensor
    log_ratio_N: torch.Tensor


def k3_divergence(logprobs_N: torch.Tensor, reference_N: torch.Tensor) -> torch.Tensor:
    """Schulman's k3 estimate of KL(policy || reference): exp(d) - d - 1 with d = reference - policy; never negative.

    >>> k3_divergence(torch.tensor([0.0, -1.0]), torch.tensor([0.0, -2.0]))
    tensor([0.0000, 0.3679])
    """
    delta_N = (reference_N - logprobs_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return delta_N.exp() - delta_N - 1


def policy_terms(
    logprobs_N: torch.Tensor,
    *,
    behaviour_N: torch.Tensor,
    advantages_N: torch.Tensor,
    reference_N: torch.Tensor | None,
    clip_low: float,
    clip_high: float,
    kl_beta: float,
) -> PolicyTerms:
    """GRPO's token loss: -min(r A, clip(r, 1 - low, 1 + high) A) + beta k3 (paper equation 2; DeepSeekMath, eq. 3).

    `r` is the ratio to the log-probabilities the engine reported while sampling, under the same temperature and
    token mask, so it is exactly 1 on-policy up to rounding.

    >>> terms = policy_terms(torch.tensor([0.0, 0.0]), behaviour_N=torch.tensor([0.0, -1.0]),
    ...     advantages_N=torch.tensor([1.0, 1.0]), reference_N=None, clip_low=0.2, clip_high=0.3, kl_beta=0.0)
    >>> terms.loss_N, terms.clipped_high_N
    (tensor([-1.0000, -1.3000]), tensor([0., 1.]))
    """
    log_ratio_N = (logprobs_N - behaviour_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    ratio_N = log_ratio_N.exp()
    clipped_N = ratio_N.clamp(1 - clip_low, 1 + clip_high)
    loss_N = -torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N)
    kl_N = torch.zeros_like(loss_N)
    if reference_N is not None:
        kl_N = k3_divergence(logprobs_N, reference_N)
        loss_N = loss_N + kl_beta * kl_N
    return PolicyTerms(
        loss_N=loss_N,
        kl_N=kl_N.detach(),
        clipped_low_N=((ratio_N < 1 - clip_low) & (advantages_N < 0)).float().detach(),
        clipped_high_N=((ratio_N > 1 + clip_high) & (advantages_N > 0)).float().detach(),
        log_ratio_N=log_ratio_N.detach(),
    )
