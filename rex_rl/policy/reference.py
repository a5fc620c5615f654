"""The model that KL is measured against, as `grpo.reference` names it: a second network, or the policy itself."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from rex_rl.policy.lora import adapters_off
from rex_rl.policy.model import ForwardInputs, TokenStats, answer_stats, load_policy

Forward = Callable[[ForwardInputs], TokenStats]


def copied_reference(
    folder: str,
    *,
    dtype: torch.dtype,
    kernel: str,
    device: torch.device,
    offloaded: bool,
    temperature: float,
    allowed_ids: torch.Tensor | None,
) -> Forward:
    """A second network from the policy's folder. Offloaded, it is in host memory except during a pass."""
    network = load_policy(folder, dtype=dtype, kernel=kernel).eval().requires_grad_(False)
    tensors = [*network.parameters(), *network.buffers()] if offloaded else []
    if not offloaded:
        network.to(device)
    elif device.type == "cuda":
        for tensor in tensors:
            tensor.data = tensor.data.pin_memory()  # copied to the device several times as fast

    @torch.no_grad()
    def forward(inputs: ForwardInputs) -> TokenStats:
        with _moved(tensors, device):
            return answer_stats(network, inputs, temperature=temperature, allowed_ids=allowed_ids)

    return forward


def adapterless_reference(policy: torch.nn.Module, forward: Forward) -> Forward:
    """The policy without its adapters, which is the model it was loaded from; `forward` is the policy's own pass."""

    @torch.no_grad()
    def reference(inputs: ForwardInputs) -> TokenStats:
        with adapters_off(policy):
            return forward(inputs)

    return reference


@contextmanager
def _moved(tensors: list[torch.Tensor], device: torch.device) -> Iterator[None]:
    """Inside, the tensors are on the device; nothing is copied back, as nobody writes to them."""
    homes = [tensor.data for tensor in tensors]
    try:
        for tensor in tensors:
            tensor.data = tensor.data.to(device, non_blocking=True)
        yield
    finally:
        for tensor, home in zip(tensors, homes, strict=True):
            tensor.data = home
