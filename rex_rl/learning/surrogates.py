"""What each algorithm does with a token's advantage and its policy ratio: one function per name.

Axes: N answer tokens of a micro-batch, those of an answer side by side; B answers.
`old_N` are the log-probabilities the ratio is taken to; `low` and `high` are `grpo.clip_low` and `grpo.clip_high`.
How tokens are weighted into a scalar is decided where the whole step is known: `advantage.token_weights`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

MAX_LOG_RATIO = 10.0
"""exp(10) = 22,026: beyond it a ratio or a k3 term means only "far away", and float32 would overflow at 88."""

LossAndRatio = tuple[torch.Tensor, torch.Tensor]
"""(loss_N, ratio_N)."""


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """What an algorithm looks at."""

    logprobs_N: torch.Tensor
    old_N: torch.Tensor
    advantages_N: torch.Tensor
    lengths_B: torch.Tensor
    """Tokens of each answer."""

    @property
    def log_ratio_N(self) -> torch.Tensor:
        """How much likelier each token became, as a logarithm."""
        return log_ratio(self.logprobs_N, self.old_N)


def log_ratio(logprobs_N: torch.Tensor, old_N: torch.Tensor) -> torch.Tensor:
    """How much likelier each token became, as a logarithm, bounded."""
    return (logprobs_N - old_N).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


def answer_mean(values_N: torch.Tensor, lengths_B: torch.Tensor) -> torch.Tensor:
    """[N] each token gets the mean over its own answer.

    >>> answer_mean(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([2, 1]))
    tensor([2., 2., 5.])
    """
    answer_N = torch.repeat_interleave(torch.arange(len(lengths_B), device=lengths_B.device), lengths_B)
    sums_B = values_N.new_zeros(len(lengths_B)).index_add(0, answer_N, values_N)
    return (sums_B / lengths_B)[answer_N]


def clipped(ratio_N: torch.Tensor, advantages_N: torch.Tensor, low: float, high: float) -> LossAndRatio:
    """PPO's -min(r A, clip(r, 1 - low, 1 + high) A) (arXiv 1707.06347, equation 7), and r.

    >>> clipped(torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 1.0, -1.0]), 0.2, 0.3)[0]
    tensor([-1.0000, -1.3000,  0.8000])
    """
    clipped_N = ratio_N.clamp(1 - low, 1 + high)
    return -torch.minimum(ratio_N * advantages_N, clipped_N * advantages_N), ratio_N


def grpo(tokens: AnswerTokens, low: float, high: float) -> LossAndRatio:
    """GRPO (paper, equation 2; DeepSeekMath, arXiv 2402.03300, equation 3): the clipped ratio of each token.

    Dr. GRPO (arXiv 2503.20783, section 3) and DAPO (arXiv 2503.14476, equation 8) are the same function of a token:
    the first drops 1 / length and 1 / std, the second weights all tokens alike and has `high` above `low`.

    >>> logprobs_N, old_N = torch.tensor([0.0, 0.0]), torch.tensor([0.0, -1.0])
    >>> grpo(AnswerTokens(logprobs_N, old_N, torch.ones(2), torch.tensor([2])), 0.2, 0.3)[0]
    tensor([-1.0000, -1.3000])
    """
    return clipped(tokens.log_ratio_N.exp(), tokens.advantages_N, low, high)


def gspo(tokens: AnswerTokens, low: float, high: float) -> LossAndRatio:
    """GSPO (arXiv 2507.18071): s = exp(mean over the answer's tokens of log r) is clipped, answers as a whole.

    This is its token form (section 4.3, GSPO-token): s_t = sg(s) * policy_t / sg(policy_t) has the value s and, where
    an answer's tokens share one advantage, the value and gradient of equation 5; credit per box stays with its tokens.

    >>> logprobs_N, old_N = torch.tensor([0.0, 0.0, -2.0]), torch.tensor([-0.2, 0.0, -2.0])
    >>> tokens = AnswerTokens(logprobs_N, old_N, torch.ones(3), torch.tensor([2, 1]))
    >>> gspo(tokens, 0.2, 0.3)[1]  # exp(0.1) on both tokens of the first answer
    tensor([1.1052, 1.1052, 1.0000])
    """
    log_s_N = answer_mean(tokens.log_ratio_N.detach(), tokens.lengths_B)
    return clipped((log_s_N + tokens.logprobs_N - tokens.logprobs_N.detach()).exp(), tokens.advantages_N, low, high)


def cispo(tokens: AnswerTokens, low: float, high: float) -> LossAndRatio:
    """CISPO (MiniMax-M1, arXiv 2506.13585, equations 4 and 5): -sg(clip(r, 1 - low, 1 + high)) A log policy.

    The ratio is a weight without a gradient, so a token beyond the bound still teaches.

    >>> logprobs_N, old_N = torch.tensor([-1.0, -1.0]), torch.tensor([-1.0, -4.0])
    >>> cispo(AnswerTokens(logprobs_N, old_N, torch.ones(2), torch.tensor([2])), 1.0, 4.0)[0]
    tensor([1., 5.])
    """
    ratio_N = tokens.log_ratio_N.detach().exp()
    return -ratio_N.clamp(1 - low, 1 + high) * tokens.advantages_N * tokens.logprobs_N, ratio_N


Surrogate = Callable[[AnswerTokens, float, float], LossAndRatio]
"""(tokens, low, high) -> (loss_N, ratio_N)."""
SURROGATES: dict[str, Surrogate] = {
    "grpo": grpo,
    "dr_grpo": grpo,
    "dapo": grpo,
    "gspo": gspo,
    "cispo": cispo,
}
"""`grpo.algorithm` -> function."""
