"""The pure parts of the DeepSpeed engine: which part a parameter belongs to, and the block DeepSpeed gets."""

import os
from collections import Counter
from pathlib import Path

import pytest

from actors.learner.deepspeed_engine import PARTS, deepspeed_config, part_of, set_learner_environment
from actors.weights.buckets import VISION_PREFIX
from rex_rl.config.actors import LearnerConfig
from rex_rl.config.schema import GrpoConfig, SftConfig
from rex_rl.policy.model import load_policy


def test_every_parameter_of_the_network_has_its_part(tiny_model: Path) -> None:
    """No parameter is without a learning rate; the merger is the projector; embeddings belong to the language model."""
    names = [name for name, _ in load_policy(tiny_model).named_parameters()]
    parts = {name: part_of(name) for name in names}
    assert set(parts.values()) == set(PARTS)
    for name, part in parts.items():
        assert (part == "projector") == (".merger." in name)
        assert (part == "language") == (not name.startswith(VISION_PREFIX))
    assert parts["model.language_model.embed_tokens.weight"] == "language"
    assert parts["model.visual.patch_embed.proj.weight"] == "vision"
    assert Counter(parts.values()).most_common()[-1][0] == "projector"


@pytest.mark.parametrize("bfloat16", [True, False])
def test_the_block_holds_what_the_run_implies(bfloat16: bool) -> None:
    block = deepspeed_config(LearnerConfig(), GrpoConfig(max_grad_norm=0.5), bfloat16=bfloat16)
    assert block["gradient_clipping"] == 0.5
    assert block["bf16"] == {"enabled": bfloat16}
    assert block["train_micro_batch_size_per_gpu"] == block["gradient_accumulation_steps"] == 1
    assert block["zero_allow_untested_optimizer"] is True
    assert block["zero_optimization"] == {"stage": int(bfloat16)}


def test_the_users_block_overrides_it() -> None:
    """Its keys are passed on to DeepSpeed unchanged."""
    zero = {"stage": 3, "offload_optimizer": {"device": "cpu"}}
    learner = LearnerConfig(deepspeed={"zero_optimization": zero, "steps_per_print": 10})
    block = deepspeed_config(learner, SftConfig(), bfloat16=False)
    assert block["zero_optimization"] == zero
    assert block["steps_per_print"] == 10
    assert block["gradient_clipping"] == SftConfig().max_grad_norm


def test_a_rank_knows_its_place_by_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "DS_ACCELERATOR", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "before")  # so that it is restored
    set_learner_environment(rank=1, world_size=2, on_gpu=False, threads=3)
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["LOCAL_RANK"]) == ("1", "2", "0")
    assert (os.environ["DS_ACCELERATOR"], os.environ["OMP_NUM_THREADS"]) == ("cpu", "3")


def test_on_a_gpu_the_accelerator_is_deepspeeds_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "before")
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    set_learner_environment(rank=0, world_size=1, on_gpu=True, threads=3)
    assert "DS_ACCELERATOR" not in os.environ
