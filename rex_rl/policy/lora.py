"""Low-rank adapters in the policy, through peft (LoRA, arXiv 2106.09685): scale * B A is added to a matrix W.

Only A and B are trained; B begins at zero, so that the policy begins as the model it was loaded from. What leaves the
learner (engines, model folders) is W + scale * B A under W's own name: no other code knows about adapters.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rex_rl.config.actors import LoraConfig
from rex_rl.policy.cpu_repair import repair

_ADAPTER = "default"
"""peft's name for the only adapter of a model."""
_MODULES = {
    "language": r"model\.language_model\.layers\.\d+\.\w+\.",
    "vision": r"model\.visual\.blocks\.\d+\.\w+\.",
    "projector": r"model\.visual\.merger\.",
}
"""Part -> where its matrices are; the merger is the projector, though it is in the vision tower."""


def add_adapters(policy: torch.nn.Module, config: LoraConfig, *, frozen: Collection[str] = ()) -> None:
    """Put adapters into the parts that are not frozen; from then on only they require gradients. Rank 0 adds none.

    A begins with the same numbers in every process, whatever its random state.
    """
    if config.rank == 0:
        return
    repair()
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    places = [
        _MODULES[part] + "(" + "|".join(names).replace(".", r"\.") + ")"
        for part, names in config.targets.items()
        if part not in frozen
    ]
    adapter = PeftConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules="|".join(places)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inject_adapter_in_model(adapter, policy, adapter_name=_ADAPTER)


@contextmanager
def adapters_off(policy: torch.nn.Module) -> Iterator[None]:
    """Inside, the policy is the model it was loaded from.

    Adapters are scaled by 0 and not left out, as ZeRO-3 fetches weights ahead in the order it has seen.
    """
    layers: list[Any] = [module for module in policy.modules() if hasattr(module, "lora_A")]
    for layer in layers:
        layer.set_scale(_ADAPTER, 0.0)
    try:
        yield
    finally:
        for layer in layers:
            layer.set_scale(_ADAPTER, 1.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class BaseWeight:
    """One weight of the base model, with its adapter where it has one."""

    name: str
    """As in the base model without adapters."""
    weight: torch.nn.Parameter
    factors: tuple[torch.nn.Parameter, ...] = ()
    """A [rank, in] and B [out, rank], or nothing."""
    scale: float = 0.0

    def merged(self) -> torch.Tensor:
        """W + scale * B A, computed in float32; the weight's own memory where there is no adapter."""
        if not self.factors:
            return self.weight.data
        first, second = (factor.data.float() for factor in self.factors)
        return (self.weight.data.float() + self.scale * (second @ first)).to(self.weight.dtype)


def base_weights(policy: torch.nn.Module) -> Iterator[BaseWeight]:
    """Every weight under the base model's name, in its order."""
    for name, parameter in policy.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            continue
        layer_name, _, rest = name.partition(".base_layer.")
        own_name = f"{layer_name}.{rest}" if rest else name
        if rest != "weight":
            yield BaseWeight(name=own_name, weight=parameter)
            continue
        layer: Any = policy.get_submodule(layer_name)
        factors = (layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight)
        yield BaseWeight(name=own_name, weight=parameter, factors=factors, scale=layer.scaling[_ADAPTER])
