"""One learner rank in this process, real DeepSpeed on gloo: skipped steps, and steps halved for lack of memory.

A step's gradient does not depend on how the step was cut, so one that ran out of memory ends like any other.
"""

import os
import resource
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from actors.learner.rank import LearnerRank, is_out_of_memory, write_state
from rex_rl.config.actors import LearnerConfig
from rex_rl.config.schema import SftConfig
from rex_rl.errors import BrokenWeightsError, CheckpointError, NonFiniteError, RunError
from rex_rl.learning.batch import MicroBatch, plan_micro_batches
from rex_rl.types import Mean, TrainGroup
from tests.support import fakes
from tests.support.engines import RANK_ENVIRONMENT, as_batch, lone_rank, prompt_for, start_learner


def groups(image: Path) -> list[TrainGroup]:
    """Two groups of two answers each."""
    prompts = [replace(prompt_for(image, (56, 56)), uid=uid) for uid in "ab"]
    return as_batch([replace(fakes.group(lengths=(4, 6)), prompt=prompt) for prompt in prompts])


def records(image: Path) -> list[TrainGroup]:
    """Three questions about one image, one of them twice, with one answer each."""
    asked = [("red circle",), ("blue square", "red circle"), ("red circle",)]
    prompts = [replace(prompt_for(image, (56, 56), categories), uid=f"{i}") for i, categories in enumerate(asked)]
    return as_batch([replace(fakes.group(lengths=(4 + i,)), prompt=prompt) for i, prompt in enumerate(prompts)])


@pytest.fixture
def rank(request: pytest.FixtureRequest, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LearnerRank]:
    """A rank at the ZeRO stage asked for, alone in its group."""
    for name in RANK_ENVIRONMENT:
        monkeypatch.setenv(name, "before")  # so that it is restored
    with lone_rank(LearnerConfig(deepspeed={"zero_optimization": {"stage": request.param}})) as rank:
        rank.begin_stage(str(tiny_model), SftConfig())
        yield rank


@pytest.fixture
def image(tmp_path: Path) -> Path:
    from PIL import Image

    Image.effect_noise((56, 56), 60).convert("RGB").save(tmp_path / "noise.png")
    return tmp_path / "noise.png"


def weights(rank: LearnerRank) -> dict[str, np.ndarray]:
    return {name: tensor.numpy().copy() for name, tensor in rank._engine.named_tensors()}


def same(before: dict[str, np.ndarray], after: dict[str, np.ndarray], *, atol: float = 0.0) -> bool:
    return all(np.allclose(before[name], after[name], rtol=0, atol=atol) for name in before)


def step(rank: LearnerRank, groups: list[TrainGroup]) -> dict[str, Mean]:
    return dict(rank.step([MicroBatch(rows=tuple((group,) for group in groups))], 1.0))


def failing(rank: LearnerRank, times: int, *, in_backward: bool) -> Callable[[MicroBatch], Any]:
    """The rank's loss, which runs out of memory the first `times`: at once, or half-way through the backward pass."""
    loss, left = rank._loss, [times + 1]
    embedding = rank._engine.policy.get_input_embeddings().weight  # the last one to get its gradient

    def run_out(*_: object) -> None:
        if left[0] > 0:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def wrapped(micro_batch: MicroBatch) -> Any:
        left[0] -= 1
        if not in_backward:
            run_out()
        return loss(micro_batch)

    if in_backward:
        embedding.register_hook(run_out)
    return wrapped


def test_nobody_else_gets_the_port_at_which_the_ranks_will_meet() -> None:
    """Between naming the port and meeting there, DeepSpeed is imported: seconds in which a free port could be taken."""
    rank = LearnerRank(LearnerConfig(), bfloat16=False)
    _, port = rank.meeting_point()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("", port))


@pytest.mark.engine
@pytest.mark.parametrize("rank", [0, 1, 2, 3], indirect=True)
def test_a_step_without_a_finite_loss_or_norm_changes_nothing_and_the_next_is_as_ever(
    rank: LearnerRank, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every ZeRO stage: weights equal to the bit, no gradient left, the skipped step not in Adam's count."""
    batch = groups(image)
    before = weights(rank)
    with monkeypatch.context() as patch:
        loss = rank._loss
        patch.setattr(rank, "_loss", lambda micro: (loss(micro)[0] * float("nan"), {}))
        with pytest.raises(NonFiniteError, match="loss is nan in micro-batch 1 of 1"):
            step(rank, batch)
        patch.setattr(rank, "_loss", lambda micro: ((loss(micro)[0] * 1e30) ** 2 * 1e-30, {}))
        with pytest.raises(NonFiniteError):
            step(rank, batch)
    assert same(before, weights(rank))
    learned = step(rank, batch)
    assert 0 < learned["grad_norm"].value < float("inf")
    assert not same(before, weights(rank))
    state = dict(rank._engine.named_state())
    assert float(state["num_updates"]) == 1
    assert all(torch.isfinite(tensor).all() for tensor in state.values())


@pytest.mark.engine
def test_a_bfloat16_rank_goes_on_from_its_float32_weights(
    tiny_model: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The forwarded weights have lost the last digits, so a state made of them would go on from other weights."""
    for name in RANK_ENVIRONMENT:
        monkeypatch.setenv(name, "before")  # so that it is restored
    batch, file = groups(image), tmp_path / "state.safetensors"
    with lone_rank(LearnerConfig(), bfloat16=True) as rank:
        rank.begin_stage(str(tiny_model), SftConfig())
        step(rank, batch)
        rank.save_state(str(file))
        rank._writing.result()
        step(rank, batch)
        expected = {key: tensor.clone() for key, tensor in rank._engine.named_state()}
        rank.begin_stage(str(tiny_model), SftConfig())
        rank.load_state(str(file))
        step(rank, batch)
        found = dict(rank._engine.named_state())
    assert any(not torch.equal(tensor, tensor.bfloat16()) for tensor in expected.values())
    assert any(bool(tensor.any()) for key, tensor in expected.items() if key.startswith("exp_avg_sq/"))
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@pytest.mark.engine
@pytest.mark.parametrize("rank", [0, 3], indirect=True)
def test_weights_that_are_no_numbers_are_named_as_the_cause(
    rank: LearnerRank, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the step that broke them, so that no rollout worker gets them; and before the next step, should it come."""
    parameter = next(p for p in rank._engine.policy.parameters() if p.requires_grad)
    apply = rank._engine.apply

    def break_weights() -> float:
        norm = apply()
        getattr(parameter, "ds_tensor", parameter).data.view(-1)[0] = float("nan")
        return norm

    monkeypatch.setattr(rank._engine, "apply", break_weights)
    with pytest.raises(BrokenWeightsError, match="weights are not numbers"):
        step(rank, groups(image))
    monkeypatch.setattr(rank._engine, "apply", apply)
    with pytest.raises(BrokenWeightsError):
        step(rank, groups(image))


@pytest.mark.engine
@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("rank", [0, 1], indirect=True)
def test_out_of_memory_halves_and_ends_where_the_whole_step_does(
    rank: LearnerRank, image: Path, tmp_path: Path, in_backward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Halved twice: four answers, then two, then one at a time; dropped passes leave nothing behind."""
    batch = groups(image)
    step(rank, batch)
    rank.save_state(str(tmp_path / "state.safetensors"))
    rank._writing.result()
    assert rank.state_written()
    whole = step(rank, batch)
    reached = weights(rank)
    rank.load_state(str(tmp_path / "state.safetensors"))
    monkeypatch.setattr(rank, "_loss", failing(rank, 2, in_backward=in_backward))
    halved = step(rank, batch)
    assert whole["guards/oom_splits"].value == 0
    assert halved["guards/oom_splits"].value == 2
    assert halved["grad_norm"].value == pytest.approx(whole["grad_norm"].value, rel=1e-4)
    assert halved["loss"].value == pytest.approx(whole["loss"].value, rel=1e-5)
    assert same(reached, weights(rank), atol=2e-6)


@pytest.mark.engine
@pytest.mark.parametrize(("make", "num_rows"), [(groups, 2), (records, 1)])
@pytest.mark.parametrize("rank", [0, 3], indirect=True)
def test_a_step_with_a_shared_prefix_is_the_plain_one(
    rank: LearnerRank, image: Path, tmp_path: Path, make: Callable[[Path], list[TrainGroup]], num_rows: int
) -> None:
    """Loss, gradient norm and new weights agree within 1e-5: `learner.prefix_sharing` only changes the time.

    With groups of two answers, and with records that ask different questions about one image.
    """
    batch = make(image)
    rank.save_state(str(tmp_path / "state.safetensors"))
    rank._writing.result()
    (sharing,) = plan_micro_batches(batch, num_ranks=1, token_budget=10**6)
    assert len(sharing[0].rows) == num_rows
    shared = rank.step(sharing, 1.0)
    reached = weights(rank)
    rank.load_state(str(tmp_path / "state.safetensors"))
    plain = rank.step(plan_micro_batches(batch, num_ranks=1, token_budget=10**6, prefix_sharing=False)[0], 1.0)
    assert plain["loss"].value == pytest.approx(shared["loss"].value, rel=1e-5)
    assert plain["grad_norm"].value == pytest.approx(shared["grad_norm"].value, rel=1e-4)
    assert same(reached, weights(rank), atol=1e-5)


@pytest.mark.engine
@pytest.mark.parametrize("rank", [0], indirect=True)
def test_one_answer_that_does_not_fit_ends_the_run(
    rank: LearnerRank, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank, "_loss", failing(rank, 99, in_backward=False))
    with pytest.raises(RunError, match="single answer"):
        step(rank, groups(image))


@pytest.mark.engine
@pytest.mark.parametrize("rank", [2, 3], indirect=True)
def test_where_gradients_are_shared_at_once_the_error_says_what_helps(
    rank: LearnerRank, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank, "_loss", failing(rank, 1, in_backward=False))
    with pytest.raises(RunError, match=r"micro_batch_tokens = 16384: lower it.*stage 0 or 1"):
        step(rank, groups(image))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_counts_as_out_of_memory(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


def test_a_state_with_numbers_missing_is_not_written(tmp_path: Path) -> None:
    """A run cannot go on from such a state."""
    state = {"weight/a": torch.ones(3), "weight/b": torch.tensor([1.0, float("nan")])}
    with pytest.raises(CheckpointError, match="weight/b is not finite"):
        write_state(state, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_state_that_finds_no_room_is_a_checkpoint_error(tmp_path: Path) -> None:
    """The kernel cuts the file as a full disk does. Not a device file, as safetensors may replace its target."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"state\.safetensors"):
            write_state({"a": torch.ones(10**5)}, tmp_path / "state.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_saved_model_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file, then their folder, then the folder that holds its name: the stage counts as done right after."""
    like, folder = tmp_path / "like", tmp_path / "stages" / "sft"
    like.mkdir()
    (like / "config.json").write_text("{}")
    rank = LearnerRank(LearnerConfig(), bfloat16=False)
    rank._seat = SimpleNamespace(rank=0)
    rank._engine = SimpleNamespace(named_tensors=lambda: [("weight", torch.ones(2))])
    synced: list[Path] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    rank.save_model(str(folder), like=str(like))
    assert sorted(synced[:-2]) == [folder / "config.json", folder / "model.safetensors"]
    assert synced[-2:] == [folder, folder.parent]


def test_a_rank_says_whether_its_state_is_written() -> None:
    rank = LearnerRank(LearnerConfig(), bfloat16=False)
    rank._writing = Future()
    assert rank.state_written() is False
    rank._writing.set_exception(CheckpointError("no room"))
    with pytest.raises(CheckpointError, match="no room"):
        rank.state_written()


@pytest.mark.engine
def test_a_run_goes_on_with_another_number_of_ranks(tiny_model: Path, image: Path, ray_cluster: None) -> None:
    """Written by one rank at ZeRO 0, read by two at ZeRO 3: the state is whole tensors by name."""
    folder = image.parent
    with ThreadPoolExecutor() as together:
        two_starting = together.submit(start_learner, 2, zero_stage=3)
        one = start_learner(1, zero_stage=0)
        two = two_starting.result()
    one.begin(str(tiny_model), SftConfig())
    one.step(groups(image), 1.0)
    one.save_state(folder)()
    expected = one.step(groups(image), 1.0)
    two.begin(str(tiny_model), SftConfig())
    two.load_state(folder, 1)
    found = two.step(groups(image), 1.0)
    assert found["loss"].value == pytest.approx(expected["loss"].value, rel=1e-5)
    assert found["grad_norm"].value == pytest.approx(expected["grad_norm"].value, rel=1e-3)
