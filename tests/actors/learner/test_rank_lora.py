"""A learner rank that trains adapters, real DeepSpeed on gloo: trained weights, exported weights, resumed state."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from actors.learner.rank import LearnerRank
from rex_rl.config.actors import LearnerConfig, LoraConfig
from rex_rl.config.schema import GrpoConfig, GrpoRates, SftConfig, SftRates
from rex_rl.errors import ConfigError
from rex_rl.learning.batch import MicroBatch
from rex_rl.policy.model import load_policy
from rex_rl.types import TrainGroup
from tests.support import fakes
from tests.support.engines import RANK_ENVIRONMENT, as_batch, lone_rank, prompt_for

LORA = LoraConfig(rank=4, dropout=0.2, vision=("qkv",), projector=("mlp.2",))
RATE = 1e-2


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.effect_noise((56, 56), 60).convert("RGB").save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def step_of(image: Path) -> list[MicroBatch]:
    groups: list[TrainGroup] = as_batch([replace(fakes.group(lengths=(4, 6)), prompt=prompt_for(image, (56, 56)))])
    return [MicroBatch(rows=tuple((group,) for group in groups))]


@pytest.fixture
def rank(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LearnerRank]:
    """A rank at the requested ZeRO stage, which holds no model yet."""
    for name in RANK_ENVIRONMENT:
        monkeypatch.setenv(name, "before")  # so that it is restored
    config = LearnerConfig(lora=LORA, deepspeed={"zero_optimization": {"stage": request.param}})
    with lone_rank(config) as rank:
        yield rank


def weights(rank: LearnerRank) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in rank._engine.named_tensors()}


def begin_sft(rank: LearnerRank, model: Path) -> None:
    rates = SftRates(vision=RATE, projector=RATE, language=RATE)
    rank.begin_stage(str(model), SftConfig(learning_rate=rates, frozen=("projector",)))


@pytest.mark.engine
@pytest.mark.parametrize("rank", [0, 1, 3], indirect=True)
def test_adapters_alone_are_trained_and_the_merged_weights_leave(
    rank: LearnerRank, image: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """The first export equals the base to the bit, frozen parts stay, and the model folder is a plain one. A rank that
    resumes gives the same bits, dropout included."""
    base: dict[str, Any] = {name: p.data for name, p in load_policy(tiny_model).named_parameters()}
    begin_sft(rank, tiny_model)
    started = weights(rank)
    assert list(started) == list(base)
    assert all(torch.equal(started[name], base[name]) for name in base)

    batch = step_of(image)
    rank.step(batch, 1.0)
    rank.step(batch, 1.0)
    after = weights(rank)
    changed = {name for name in base if not torch.equal(after[name], base[name])}
    assert changed == {
        name
        for name in base
        if ".attn.qkv.weight" in name or (".language_model.layers." in name and "_proj.weight" in name)
    }

    rank.save_model(str(tmp_path / "model"), like=str(tiny_model))
    saved = dict(load_policy(tmp_path / "model").named_parameters())
    assert all(torch.equal(saved[name], after[name]) for name in base)

    rank.save_state(str(tmp_path / "state.safetensors"))
    rank._writing.result()
    state = {key for key, _ in rank._engine.named_state()}
    assert all(key == "num_updates" or ".lora_A." in key or ".lora_B." in key for key in state)
    rank.step(batch, 1.0)
    expected = weights(rank)
    begin_sft(rank, tiny_model)
    rank.load_state(str(tmp_path / "state.safetensors"))
    assert all(torch.equal(tensor, after[name]) for name, tensor in weights(rank).items())
    rank.step(batch, 1.0)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(rank).items())
    rank._config = LearnerConfig(deepspeed=rank._config.deepspeed)
    begin_sft(rank, tiny_model)
    with pytest.raises(ConfigError, match=r"holds no model\.visual\.\S+: learner\.lora"):
        rank.load_state(str(tmp_path / "state.safetensors"))


@pytest.mark.engine
@pytest.mark.parametrize("rank", [0, 3], indirect=True)
def test_the_reference_is_the_same_wherever_it_is_kept(
    rank: LearnerRank, image: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KL at the start and after a step agrees within 1e-6: a copy, an offloaded one, the policy without adapters."""
    monkeypatch.setattr(rank, "_config", rank._config.model_copy(update={"lora": LoraConfig(rank=4)}))
    rates = GrpoRates(vision=RATE, projector=RATE, language=RATE)

    def kls(kind: Literal["copy", "offloaded", "lora_off"]) -> list[float]:
        settings = GrpoConfig(learning_rate=rates, reference=kind, kl_beta=0.1, token_mask="none")
        rank.begin_stage(str(tiny_model), settings)
        return [rank.step(step_of(image), 1.0)["kl"].value for _ in range(3)]

    copied = kls("copy")
    assert copied[0] == pytest.approx(0, abs=1e-6)
    assert copied[2] > 1e-3
    assert kls("offloaded") == copied
    assert np.allclose(kls("lora_off"), copied, rtol=0, atol=1e-6)
