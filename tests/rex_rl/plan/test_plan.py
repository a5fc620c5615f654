"""The plan against counts made by hand and against what the tiny model really holds."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

from rex_rl.config.actors import LoraConfig
from rex_rl.config.load import Config, load_config
from rex_rl.errors import ModelError
from rex_rl.plan.memory import LOGIT_CHUNK_TOKENS, Lengths, activation_bytes, learner_memory, state_bytes
from rex_rl.plan.model_costs import (
    QWEN2_5_VL_3B,
    adapter_parameters,
    causal_pairs,
    group_work,
    parameters_by_part,
    read_shape,
    shape_from_json,
)
from rex_rl.plan.plan import lines, make_plan
from rex_rl.policy.model_folder import SHIPPED_BASE

THREE = shape_from_json(QWEN2_5_VL_3B)


@pytest.fixture
def large(root: Path) -> Config:
    return load_config(root / "configs" / "rex_omni_3b.yaml")


def test_the_parameters_of_qwen2_5_vl_3b_by_hand() -> None:
    """Every matrix written out; Hugging Face counts 3,754,622,976 in the released weights."""
    layer = (2048 * 2048 + 2048) + 2 * (2048 * 256 + 256) + 2048 * 2048 + 3 * 2048 * 11008 + 2 * 2048
    language = 151_936 * 2048 + 36 * layer + 2048
    block = (1280 * 3840 + 3840) + (1280 * 1280 + 1280) + 2 * (1280 * 3420 + 3420) + (3420 * 1280 + 1280) + 2 * 1280
    vision = 1176 * 1280 + 32 * block
    projector = 1280 + (5120 * 5120 + 5120) + (5120 * 2048 + 2048)
    assert parameters_by_part(THREE) == {"vision": vision, "projector": projector, "language": language}
    assert language + vision + projector == 3_754_622_976


def test_the_parameters_of_the_shipped_base_are_those_in_its_file() -> None:
    """The formula at other sizes, against the tensors' shapes in the file; weights are not read."""
    with safe_open(SHIPPED_BASE / "model.safetensors", framework="np") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 - no mapping
    counts = dict.fromkeys(("vision", "projector", "language"), 0)
    for name, shape in shapes.items():
        part = "projector" if ".visual.merger." in name or "visual.merger" in name else "vision"
        counts[part if "visual" in name else "language"] += _product(shape)
    assert parameters_by_part(read_shape(SHIPPED_BASE)) == counts


def _product(shape: list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def test_sharing_the_prefix_saves_6_6_times_the_language_work() -> None:
    """Language tokens of 8 answers of 45 behind 1,380: 11,400 against 1,740, the published comparison's 6.6 times."""
    lengths = {"image_tokens": 1280, "prompt_tokens": 1380, "answers": [45] * 8}
    once, each = (group_work(THREE, **lengths, shared=shared) for shared in (True, False))
    assert each.vision == 8 * once.vision
    assert each.logits == once.logits
    assert each.layers / once.layers == pytest.approx(6.6, abs=0.1)


def test_pairs_of_attention_are_counted_one_by_one() -> None:
    prompt, answers = 5, [3, 2]
    pairs = sum(position + 1 for position in range(prompt))
    pairs += sum(prompt + step + 1 for length in answers for step in range(length))
    assert causal_pairs(prompt) + sum(causal_pairs(a, seen_before=prompt) for a in answers) == pairs


@pytest.mark.parametrize(
    ("zero_stage", "bytes_each"), [(0, 2 + 2 + 12), (1, 2 + 2 + 3), (2, 2 + 0.5 + 3), (3, 0.5 + 0.5 + 3)]
)
def test_zero_shares_states_over_four_ranks(zero_stage: int, bytes_each: float) -> None:
    """bfloat16: 2 bytes of weight, 2 of gradient, 12 of Adam, less what each stage shares out."""
    assert sum(state_bytes(1000, 1000, width=2, zero_stage=zero_stage, num_ranks=4)) == 1000 * bytes_each


def test_the_learners_memory_adds_up(large: Config) -> None:
    """ZeRO-2 over 4 ranks, reference kept, checkpointing: every part computed by hand."""
    lengths = Lengths(image=1280, text=100, answer=128)
    memory, count, gib = learner_memory(large, THREE, lengths), 3_754_622_976, 2**30
    assert memory.weights == memory.reference == pytest.approx(2 * count / gib)
    assert memory.gradients == pytest.approx(2 * count / 4 / gib)
    assert memory.optimiser == pytest.approx(12 * count / 4 / gib)
    assert memory.gathered == 0
    rows = 16_384 // (1380 + 128)  # SFT's records are shorter than GRPO's groups and fill the budget better
    inputs = 2 * rows * (1508 * 36 * 2048 + 5120 * 32 * 1280)
    one_layer = rows * max(1508 * (40 * 2048 + 8 * 11008 - 16 * 2048), 5120 * (24 * 1280 + 8 * 3420))
    assert memory.activations == pytest.approx((inputs + one_layer) / gib, rel=0.02)
    assert memory.logits == pytest.approx(rows * 128 * 151_936 * 16 / gib)
    parts = (memory.weights, memory.gradients, memory.optimiser, memory.reference, memory.activations, memory.logits)
    assert memory.total == pytest.approx(sum(parts) + memory.reserved)


def of_learner(config: Config, **settings: object) -> Config:
    return config.model_copy(update={"learner": config.learner.model_copy(update=settings)})


def test_without_a_shared_prefix_every_answer_brings_its_image(large: Config) -> None:
    """Eight passes of a prompt a group instead of one: operations as `bench learner` counts them, one answer a row."""
    plain = of_learner(large, prefix_sharing=False)
    size = {"image_tokens": 1280, "answer_tokens": 45}
    shared, alone = (make_plan(config, None, **size) for config in (large, plain))
    assert alone.flops["sft"] == shared.flops["sft"]
    each, once = (
        group_work(THREE, image_tokens=1280, prompt_tokens=1380, answers=[45] * 8, shared=way) for way in (False, True)
    )
    settings = {"checkpointing": True, "train_vision": "vision" not in large.grpo.frozen}
    expected = (each.trained(**settings) + each.forward) / (once.trained(**settings) + once.forward)
    assert alone.flops["grpo"] / shared.flops["grpo"] == pytest.approx(expected)
    assert "once an answer in the learner" in alone.assumptions[0]
    grpo_alone = plain.model_copy(update={"stages": ("grpo",)})
    lengths = Lengths(image=1280, text=100, answer=45)
    rows = 16_384 // (1380 + 45)
    assert learner_memory(grpo_alone, THREE, lengths).logits == pytest.approx(rows * 45 * 151_936 * 16 / 2**30)


def test_adapters_take_little_memory_and_half_the_backward_pass(large: Config) -> None:
    """Rank 16 on all language matrices: 29.9 M of 3,755 M; gradients and Adam are theirs alone, weights still whole."""
    q, k, mlp = 2048 + 2048, 2048 + 256, 2048 + 11008
    count = 16 * 36 * (2 * q + 2 * k + 3 * mlp)
    config, lengths, gib = of_learner(large, lora=LoraConfig(rank=16)), Lengths(image=1280, text=100, answer=128), 2**30
    memory, full = (learner_memory(one, THREE, lengths) for one in (config, large))
    assert memory.gradients == pytest.approx(2 * count / 4 / gib)
    assert memory.optimiser == pytest.approx(12 * count / 4 / gib)
    assert memory.weights == pytest.approx(2 * (3_754_622_976 + count) / gib)
    assert memory.reference == full.reference
    off = config.model_copy(update={"grpo": config.grpo.model_copy(update={"reference": "lora_off"})})
    assert learner_memory(off, THREE, lengths).reference == 0
    aside = config.model_copy(update={"grpo": config.grpo.model_copy(update={"reference": "offloaded"})})
    assert learner_memory(aside, THREE, lengths).reference == max(0, full.reference - full.activations)
    adapted, whole = (make_plan(one, None, image_tokens=1280).flops["sft"] for one in (config, large))
    assert adapted < whole


def test_adapters_are_counted_as_peft_makes_them(tiny_model: Path) -> None:
    """On every matrix that can have one."""
    from rex_rl.policy.lora import add_adapters
    from rex_rl.policy.model import load_policy

    vision = ("qkv", "proj", "gate_proj", "up_proj", "down_proj")
    lora = LoraConfig(rank=3, vision=vision, projector=("mlp.0", "mlp.2"))
    policy = load_policy(tiny_model)
    add_adapters(policy, lora)
    made = sum(parameter.numel() for parameter in policy.parameters() if parameter.requires_grad)
    assert sum(adapter_parameters(read_shape(tiny_model), lora.targets, rank=3).values()) == made


def test_without_checkpointing_every_layer_keeps_its_activations() -> None:
    """Ten numbers of the width and four of the MLP's a token, both norms' inputs in float32."""
    width, mlp, layers = THREE.hidden, THREE.intermediate, THREE.layers
    counted = activation_bytes(THREE, num_tokens=7, image_tokens=0, width=2, checkpointing=False)
    assert counted == 7 * layers * (2 * width * 4 + (8 * width + 4 * mlp) * 2)


def test_the_logit_chunk_is_the_models() -> None:
    from rex_rl.policy import model

    assert model.LOGIT_CHUNK_TOKENS == LOGIT_CHUNK_TOKENS


def test_more_of_everything_takes_longer(large: Config) -> None:
    """Faster GPUs are faster, longer answers and larger images slower, overlap never slower."""
    plan = make_plan(large, None, image_tokens=1280)
    by_name = {one.gpu.name: one.times["grpo"] for one in plan.gpus}
    assert by_name["H200-141G"].step < by_name["H100-80G"].step < by_name["A100-80G"].step
    for longer in ({"image_tokens": 2560}, {"image_tokens": 1280, "answer_tokens": 512}):
        slower = make_plan(large, None, **longer)
        assert all(b.times["grpo"].step > a.times["grpo"].step for a, b in zip(plan.gpus, slower.gpus, strict=True))
    settings = large.grpo.model_copy(update={"max_staleness": 1})
    ahead = make_plan(large.model_copy(update={"grpo": settings}), None, image_tokens=1280)
    for one, two in zip(plan.gpus, ahead.gpus, strict=True):
        time = two.times["grpo"]
        assert time.step == max(time.rollout, time.learn) + time.sync < one.times["grpo"].step


def test_the_plan_of_a_folder_reads_its_own_limits(root: Path) -> None:
    config = load_config(root / "configs" / "quickstart.yaml")
    plan = make_plan(config, SHIPPED_BASE)
    assert "a group: 100 image tokens" in plan.assumptions[0]
    shown = json.loads(json.dumps(plan.as_json(), allow_nan=False))
    assert shown["parameters"] == parameters_by_part(read_shape(SHIPPED_BASE))
    assert {one["gpu"] for one in shown["gpus"]} == {"A100-80G", "H100-80G", "H200-141G", "L40S-48G"}
    assert any(row.startswith("| L40S-48G | grpo |") for row in lines(plan))


def test_a_folder_without_sizes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        read_shape(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match=r"not the config\.json of a Qwen2\.5-VL"):
        read_shape(tmp_path)
