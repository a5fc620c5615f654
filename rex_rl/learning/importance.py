"""Weights that correct for tokens drawn from another distribution than the learner's old policy.

Engine and learner compute the same weights' log-probabilities with other kernels and number formats, and answers may
come from older weights. Where the ratio is taken to log-probabilities of the learner's own, w = old / behaviour is
left over: each function turns log w into the factor of the policy term.

Axes: N answer tokens, those of an answer side by side; B answers. No weight carries a gradient.
"""

import torch

from rex_rl.learning.surrogates import answer_mean


def no_correction(log_w_N: torch.Tensor, lengths_B: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Ones.

    >>> no_correction(torch.tensor([0.5]), torch.tensor([1]), 0.5, 2.0)
    tensor([1.])
    """
    return torch.ones_like(log_w_N)


def truncated(log_w_N: torch.Tensor, lengths_B: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """TIS: min(w, high) (Yao et al. 2025, fengyao.notion.site/off-policy-rl); `low` is not used.

    >>> truncated(torch.tensor([0.1, 1.0, 4.0]).log(), torch.tensor([3]), 0.5, 2.0)
    tensor([0.1000, 1.0000, 2.0000])
    """
    return log_w_N.exp().clamp(max=high)


def icepop(log_w_N: torch.Tensor, lengths_B: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """IcePop: w where low <= w <= high, else 0, token by token (Ring-1T, arXiv 2510.18855, section 2.3.2).

    >>> icepop(torch.tensor([0.1, 1.0, 4.0]).log(), torch.tensor([3]), 0.5, 2.0)
    tensor([0., 1., 0.])
    """
    w_N = log_w_N.exp()
    return w_N * ((w_N >= low) & (w_N <= high))


def sequence_mask(log_w_N: torch.Tensor, lengths_B: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """min(w, high) on answers whose geometric mean of w lies in [low, high], 0 on all tokens of the others.

    OpenRLHF's `seq-mask-tis`, but for min(..), without which one token could decide a step. The geometric mean does
    not drift with an answer's length, as the product of its ratios would.

    >>> sequence_mask(torch.tensor([0.5, 2.0, 4.0, 4.0]).log(), torch.tensor([2, 2]), 0.5, 2.0)
    tensor([0.5000, 2.0000, 0.0000, 0.0000])
    """
    mean_N = answer_mean(log_w_N, lengths_B).exp()
    return log_w_N.exp().clamp(max=high) * ((mean_N >= low) & (mean_N <= high))


CORRECTIONS = {"none": no_correction, "tis": truncated, "icepop": icepop, "sequence_mask": sequence_mask}
"""`grpo.importance` -> function."""
