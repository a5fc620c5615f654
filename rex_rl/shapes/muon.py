"""Muon, the optimiser that the base is pre-trained with (Jordan et al. 2024)."""

import torch


class Muon:
    """Momentum whose matrices are made orthogonal (Jordan et al. 2024), for the weights inside the blocks.

    A step lowers this small model's loss about as much as two of AdamW. torch.optim.Muon does the same in bfloat16,
    which takes 4 s a step on a CPU without bfloat16 arithmetic; float32 takes 0.05 s.
    """

    def __init__(self, weights: list[torch.nn.Parameter], *, momentum: float = 0.95) -> None:
        self._weights, self._momentum = weights, momentum
        self._mean = [torch.zeros_like(weight) for weight in weights]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update; `learning_rate` is what AdamW would take (update RMS 0.2, as in Moonlight, section 2.2)."""
        for weight, mean in zip(self._weights, self._mean, strict=True):
            if weight.grad is None:
                continue
            mean.lerp_(weight.grad, 1 - self._momentum)
            update = orthogonal(weight.grad.lerp(mean, self._momentum).flatten(1))
            weight.sub_(update.view_as(weight), alpha=0.2 * max(update.shape) ** 0.5 * learning_rate)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly the closest matrix with orthonormal rows or columns: five Newton-Schulz steps, Muon's coefficients.

    >>> orthogonal(torch.tensor([[3.0, 0.0], [0.0, 1.0]])).diag().round(decimals=0)
    tensor([1., 1.])
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(5):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


def split_weights(model: torch.nn.Module) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """(matrices inside the blocks, for Muon; all other weights, for AdamW)."""
    inside: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, weight in model.named_parameters():
        is_inside = weight.ndim == 2 and (".blocks." in name or ".layers." in name)
        (inside if is_inside else others).append(weight)
    return inside, others
