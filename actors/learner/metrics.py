"""The learner's metrics of a step, from the tokens of every micro-batch.

Ranks join their values as `Mean`s: the sum of totals over the sum of counts. Axes: N answer tokens of a micro-batch.
"""

from collections.abc import Mapping, Sequence

import torch

from rex_rl.types import Mean

WEIGHTED = frozenset({"loss", "kl"})
"""Sums over the step under the tokens' weights, as the loss that is minimised; all others are means over tokens."""


def token_metrics(values: Mapping[str, torch.Tensor], weights_N: torch.Tensor) -> dict[str, Mean]:
    """A micro-batch's part of each metric; tokens of weight 0 count for nothing.

    Parts of weighted sums have no count, since a micro-batch does not know its share of the step:
    :func:`rank_metrics` gives it to them.
    """
    counted_N = weights_N > 0
    num_counted = float(counted_N.sum())
    return {
        name: Mean(total=float((value_N.detach() * weights_N).sum()), count=0.0)
        if name in WEIGHTED
        else Mean(total=float((value_N.detach() * counted_N).sum()), count=num_counted)
        for name, value_N in values.items()
    }


def rank_metrics(micro_batches: Sequence[Mapping[str, Mean]], *, num_ranks: int) -> dict[str, Mean]:
    """The metrics of one of `num_ranks` ranks; joined over the ranks, a weighted sum's count is 1.

    >>> parts = [{"loss": Mean(total=0.25, count=0.0)}, {"loss": Mean(total=0.5, count=0.0)}]
    >>> (rank_metrics(parts, num_ranks=2)["loss"] + rank_metrics(parts[:1], num_ranks=2)["loss"]).value
    1.0
    """
    joined: dict[str, Mean] = {}
    for metrics in micro_batches:
        for name, mean in metrics.items():
            share = 1 / num_ranks if name in WEIGHTED else 0.0
            joined[name] = joined.get(name, Mean(total=0.0, count=share)) + mean
    return joined
