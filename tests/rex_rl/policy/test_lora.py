"""Adapters in the tiny network: where they are, what they are merged to, and that nothing is left of them when off."""

from pathlib import Path
from typing import Any

import torch

from rex_rl.config.actors import LoraConfig
from rex_rl.policy.lora import adapters_off, add_adapters, base_weights
from rex_rl.policy.model import load_policy

EVERYWHERE = LoraConfig(
    rank=4, alpha=8, vision=("qkv", "proj", "gate_proj", "up_proj", "down_proj"), projector=("mlp.0", "mlp.2")
)


def adapted(tiny_model: Path, config: LoraConfig, frozen: tuple[str, ...] = ()) -> Any:
    policy = load_policy(tiny_model)
    add_adapters(policy, config, frozen=frozen)
    return policy


def moved(policy: Any) -> Any:
    """The same policy with adapters that are not zero."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if ".lora_B." in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    return policy


def test_at_first_the_weights_are_the_base_models_to_the_bit(tiny_model: Path) -> None:
    """Names, order and bytes; and rank 0 puts in nothing."""
    base = [(name, parameter.data.view(torch.int32)) for name, parameter in load_policy(tiny_model).named_parameters()]
    for config in (EVERYWHERE, LoraConfig()):
        found = [(one.name, one.merged().view(torch.int32)) for one in base_weights(adapted(tiny_model, config))]
        assert [name for name, _ in found] == [name for name, _ in base]
        assert all(torch.equal(ours, theirs) for (_, ours), (_, theirs) in zip(found, base, strict=True))


def test_merged_weights_are_those_of_pefts_own_merge(tiny_model: Path) -> None:
    policy = moved(adapted(tiny_model, EVERYWHERE))
    ours = {one.name: one.merged().clone() for one in base_weights(policy)}
    layers = [module for module in policy.modules() if hasattr(module, "lora_A")]
    changed = sum(bool(one.factors) for one in base_weights(policy))
    assert len(layers) == changed > 0
    for layer in layers:
        layer.merge()
    theirs = {name.replace(".base_layer.", "."): p for name, p in policy.named_parameters() if ".lora_" not in name}
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor.data, atol=1e-6, rtol=0)


def test_every_named_matrix_gets_an_adapter_and_nothing_else_is_trained(tiny_model: Path) -> None:
    policy = adapted(tiny_model, EVERYWHERE)
    config = policy.config
    expected = 7 * config.text_config.num_hidden_layers + 5 * config.vision_config.depth + 2
    assert sum(bool(one.factors) for one in base_weights(policy)) == expected
    assert all(p.requires_grad == (".lora_" in name) for name, p in policy.named_parameters())


def test_a_frozen_part_gets_none(tiny_model: Path) -> None:
    names = [one.name for one in base_weights(adapted(tiny_model, EVERYWHERE, ("language", "vision"))) if one.factors]
    assert names == ["model.visual.merger.mlp.0.weight", "model.visual.merger.mlp.2.weight"]


def test_adapters_begin_alike_in_every_process(tiny_model: Path) -> None:
    """Whatever its random state, which stays as it was."""
    factors = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        policy = load_policy(tiny_model)
        before = torch.get_rng_state()
        add_adapters(policy, EVERYWHERE)
        assert torch.equal(torch.get_rng_state(), before)
        factors.append([one.factors[0] for one in base_weights(policy) if one.factors])
    assert all(torch.equal(one, two) for one, two in zip(*factors, strict=True))


def test_switched_off_the_policy_is_the_base_model(tiny_model: Path) -> None:
    """Hidden states to the bit, and the adapters are back afterwards."""
    policy, tokens = moved(adapted(tiny_model, EVERYWHERE)).eval(), torch.arange(9)[None]

    def hidden(network: Any) -> torch.Tensor:
        with torch.no_grad():
            return network.model(input_ids=tokens).last_hidden_state

    on, base = hidden(policy), hidden(load_policy(tiny_model).eval())
    with adapters_off(policy):
        assert torch.equal(hidden(policy), base)
    assert torch.equal(hidden(policy), on)
    assert not torch.allclose(on, base, atol=1e-4)
