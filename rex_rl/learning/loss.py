"""The policy loss, per token, as a pure function of tensors (SFT's is the negative log-probability).

Axes: N answer tokens of a micro-batch, those of an answer side by side; B answers. How tokens are weighted into a
scalar is not decided here: every token brings its weight (`rex_rl.learning.advantage.token_weights`).
"""

from dataclasses import dataclass

import torch

from rex_rl.config.schema import GrpoConfig
from rex_rl.learning.divergence import DIVERGENCES
from rex_rl.learning.importance import CORRECTIONS
from rex_rl.learning.surrogates import SURROGATES, AnswerTokens, log_ratio


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyTerms:
    """What the policy loss of each token is made of; all [N], only the loss carries a gradient."""

    loss_N: torch.Tensor
    kl_N: torch.Tensor
    """`grpo.kl_estimator` between policy and reference; 0 without a reference."""
    clipped_low_N: torch.Tensor
    """1 where the ratio is below its bound and the advantage would push it further."""
    clipped_high_N: torch.Tensor
    log_ratio_N: torch.Tensor
    """Policy to behaviour, whatever the loss takes its ratio to."""
    importance_N: torch.Tensor
    """The weight `grpo.importance` gives."""


def policy_terms(
    logprobs_N: torch.Tensor,
    *,
    behaviour_N: torch.Tensor,
    advantages_N: torch.Tensor,
    reference_N: torch.Tensor | None,
    lengths_B: torch.Tensor,
    config: GrpoConfig,
) -> PolicyTerms:
    """w * surrogate(r, A) + beta * kl: importance weight, algorithm and KL by their names in the configuration.

    `behaviour_N` are the log-probabilities the engine reported while sampling, under the same temperature and token
    mask. With `old_logprobs: behaviour`, r = policy / behaviour, 1 on-policy up to rounding, and w = 1. With
    `recompute`, r = policy / old and w corrects old / behaviour; as a step makes one update, the old policy is the
    current one and needs no forward pass of its own: r is 1, with its gradient, and never clipped.

    With `kl_in: reward`, beta * kl(behaviour, reference) is taken off each token's own advantage instead, without a
    gradient; the drift of later tokens is not charged to earlier ones.

    >>> terms = policy_terms(torch.tensor([0.0, 0.0]), behaviour_N=torch.tensor([0.0, -1.0]),
    ...     advantages_N=torch.tensor([1.0, 1.0]), reference_N=None, lengths_B=torch.tensor([2]), config=GrpoConfig())
    >>> terms.loss_N, terms.clipped_high_N
    (tensor([-1.0000, -1.3000]), tensor([0., 1.]))
    """
    divergence = DIVERGENCES[config.kl_estimator]
    old_N = logprobs_N.detach() if config.old_logprobs == "recompute" else behaviour_N
    if reference_N is not None and config.kl_in == "reward":
        advantages_N = advantages_N - config.kl_beta * divergence(behaviour_N, reference_N)
    low, high = config.clip_low, config.clip_high
    loss_N, ratio_N = SURROGATES[config.algorithm](AnswerTokens(logprobs_N, old_N, advantages_N, lengths_B), low, high)
    correct = CORRECTIONS[config.importance]
    weight_N = correct(log_ratio(old_N, behaviour_N), lengths_B, config.importance_low, config.importance_high)
    loss_N = weight_N * loss_N
    kl_N = torch.zeros_like(loss_N)
    if reference_N is not None:
        kl_N = divergence(logprobs_N, reference_N)
        if config.kl_in == "loss":
            loss_N = loss_N + config.kl_beta * kl_N
    return PolicyTerms(
        loss_N=loss_N,
        kl_N=kl_N.detach(),
        clipped_low_N=((ratio_N < 1 - low) & (advantages_N < 0)).float().detach(),
        clipped_high_N=((ratio_N > 1 + high) & (advantages_N > 0)).float().detach(),
        log_ratio_N=log_ratio(logprobs_N, behaviour_N).detach(),
        importance_N=weight_N,
    )
