"""The learner bench compares equal work, and a shared prompt pays even for a small group."""

from typing import Any

import pytest
import torch

from rex_rl.bench.learner import GroupBench, GroupSize, bench_learner_3b, random_model, saved_storages
from rex_rl.errors import RunError, UserError
from rex_rl.plan.memory import activation_bytes
from rex_rl.plan.model_costs import read_shape
from rex_rl.policy.model_folder import SHIPPED_BASE
from rex_rl.shapes.tiny import build_model, default_tokenizer

SIZE = GroupSize(image_tokens=64, text_tokens=16, answer_tokens=6, num_answers=4)


@pytest.fixture(scope="module")
def model() -> Any:
    return build_model(default_tokenizer(), seed=0).train()


@pytest.fixture(scope="module")
def bench(model: Any) -> GroupBench:
    return GroupBench(model, SIZE)


def test_both_ways_have_the_same_loss_and_gradients(bench: GroupBench, model: Any) -> None:
    losses, gradients = [], []
    for shared in (True, False):
        losses.append(bench.train(shared=shared))
        gradients.append({name: weight.grad.clone() for name, weight in model.named_parameters()})
    torch.testing.assert_close(losses[0], losses[1], atol=1e-5, rtol=0)
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, atol=1e-5, rtol=1e-4, msg=name)
    bench.require_same_loss()


def test_unequal_work_is_not_compared(model: Any) -> None:
    bench = GroupBench(model, SIZE)
    bench._inputs[False].tokens_BS[:, 0] += 1
    with pytest.raises(RunError, match="with the prefix shared"):
        bench.require_same_loss()


def test_sharing_keeps_less_for_the_backward_pass(bench: GroupBench) -> None:
    """Four answers after 80 tokens: 104 tokens instead of 344, and one image instead of four."""
    shared, plain = (bench.activation_bytes(shared=way) for way in (True, False))
    assert 3 < plain / shared < 4.5


def test_what_is_kept_is_what_the_plan_says(bench: GroupBench) -> None:
    """The bytes are the plan's formula, plus the mask, rotary tables and logits that it leaves out."""
    tokens = SIZE.prompt_tokens + sum(SIZE.lengths)
    planned = activation_bytes(
        read_shape(SHIPPED_BASE), num_tokens=tokens, image_tokens=SIZE.image_tokens, width=4, checkpointing=False
    )
    assert planned == pytest.approx(bench.activation_bytes(shared=True), rel=0.3)


def test_a_storage_counts_once_and_weights_do_not() -> None:
    weight = torch.nn.Parameter(torch.ones(8, 8))
    given = torch.ones(2, 8, requires_grad=True)
    with saved_storages(skip=iter([weight])) as kept:
        (given[:1] * given[1:]).sum() + (given @ weight).sum()
    assert list(kept.values()) == [2 * 8 * 4]


def test_the_large_shapes_need_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="needs a GPU"):
        bench_learner_3b()


def test_random_weights_in_bfloat16_agree_too(model: Any) -> None:
    """What the large bench builds on a GPU, here on the CPU and small: checkpointed, both ways alike."""
    small = random_model(model.config.to_dict(), device="cpu")
    assert small.dtype == torch.bfloat16
    assert torch.get_default_dtype() == torch.float32
    bench = GroupBench(small, SIZE)
    bench.require_same_loss()
    assert torch.isfinite(bench.train(shared=True))
