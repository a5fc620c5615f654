"""KL estimators: what they are as values, and which gradient each gives."""

import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from rex_rl.learning.divergence import DIVERGENCES, k3_divergence

LOGPROBS = st.floats(-60, 0, width=32)
REFERENCE_V = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64).log()
LOGITS_V = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64)


@given(LOGPROBS, LOGPROBS)
@example(ours=-(2.0**-24), reference=0.0)
def test_k3_is_never_negative_and_zero_only_at_home(ours: float, reference: float) -> None:
    value = float(k3_divergence(torch.tensor([ours]), torch.tensor([reference])))
    assert value >= 0
    assert math.isfinite(value)
    if ours == reference:
        assert value == 0


def gradient_of(value: torch.Tensor, logits_V: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(value, logits_V)[0]


@pytest.mark.parametrize(("name", "biased"), [("k1", False), ("k2", True), ("k3", False)])
def test_k1_and_k3_are_unbiased_values(name: str, biased: bool) -> None:
    """Expected over a vocabulary of four, exactly."""
    logprobs_V = LOGITS_V.log_softmax(0)
    kl = (logprobs_V.exp() * (logprobs_V - REFERENCE_V)).sum()
    estimate = (logprobs_V.exp() * DIVERGENCES[name](logprobs_V, REFERENCE_V)).sum()
    assert (abs(float(estimate - kl)) > 0.01) == biased


def test_the_gradient_each_gives() -> None:
    """In the loss, k2 has the KL's, k1 none, k3 that of KL(reference || policy); in the reward k1 has the KL's."""
    logits_V = LOGITS_V.clone().requires_grad_()
    logprobs_V = logits_V.log_softmax(0)
    drawn_V = logprobs_V.exp().detach()  # how often each token is sampled: no gradient flows through that
    kl_V = gradient_of((logprobs_V.exp() * (logprobs_V - REFERENCE_V)).sum(), logits_V)
    swapped_V = drawn_V - REFERENCE_V.exp()  # of KL(reference || policy) with respect to the logits
    in_loss = {
        name: gradient_of((drawn_V * one(logits_V.log_softmax(0), REFERENCE_V)).sum(), logits_V)
        for name, one in DIVERGENCES.items()
    }
    assert torch.allclose(in_loss["k1"], torch.zeros_like(kl_V), atol=1e-12)
    assert torch.allclose(in_loss["k2"], kl_V)
    assert torch.allclose(in_loss["k3"], swapped_V)
    charge_V = DIVERGENCES["k1"](logprobs_V, REFERENCE_V).detach()
    assert torch.allclose(gradient_of((drawn_V * charge_V * logits_V.log_softmax(0)).sum(), logits_V), kl_V)
