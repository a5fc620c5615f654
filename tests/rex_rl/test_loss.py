"""The token losses: hand values, the direction of their gradients, and where clipping stops them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rex_rl.loss import PolicyTerms, k3_divergence, policy_terms

LOGPROBS = st.floats(-60, 0, width=32)
LOW, HIGH = 0.2, 0.3


def terms_of(
    ratio: float, advantage: float, *, reference: float | None = None, beta: float = 0.0
) -> tuple[PolicyTerms, float]:
    """The terms of one token whose policy ratio is `ratio`, and d loss / d log-probability."""
    logprobs_N = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    terms = policy_terms(
        logprobs_N,
        behaviour_N=torch.tensor([-1.0 - math.log(ratio)], dtype=torch.float64),
        advantages_N=torch.tensor([advantage], dtype=torch.float64),
        reference_N=None if reference is None else torch.tensor([reference], dtype=torch.float64),
        clip_low=LOW,
        clip_high=HIGH,
        kl_beta=beta,
    )
    terms.loss_N.sum().backward()
    return terms, float(logprobs_N.grad)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope", "low", "high"),
    [
        (1.0, 2.0, -2.0, -2.0, 0, 0),  # on-policy: the gradient is minus the advantage
        (1.0, -2.0, 2.0, 2.0, 0, 0),
        (1.2, 1.0, -1.2, -1.2, 0, 0),
        (1.5, 1.0, -1.3, 0.0, 0, 1),  # has gone far enough: no more push
        (0.5, 1.0, -0.5, -0.5, 0, 0),  # good, but rarer than when sampled: never clipped
        (0.5, -1.0, 0.8, 0.0, 1, 0),
        (1.5, -1.0, 1.5, 1.5, 0, 0),  # bad, and likelier than when sampled: never clipped
        (0.5, 0.0, 0.0, 0.0, 0, 0),
    ],
)
def test_clipping_stops_only_what_has_gone_far_enough(
    ratio: float, advantage: float, loss: float, slope: float, low: float, high: float
) -> None:
    """Values by hand, for clips 0.2 and 0.3, on both signs of the advantage."""
    terms, gradient = terms_of(ratio, advantage)
    assert float(terms.loss_N.detach()) == pytest.approx(loss)
    assert gradient == pytest.approx(slope)
    assert (float(terms.clipped_low_N), float(terms.clipped_high_N)) == (low, high)
    assert float(terms.log_ratio_N) == pytest.approx(math.log(ratio))


@given(LOGPROBS, LOGPROBS)
@settings(max_examples=150, deadline=None)
def test_k3_is_never_negative_and_zero_only_at_home(ours: float, reference: float) -> None:
    value = float(k3_divergence(torch.tensor([ours]), torch.tensor([reference])))
    assert value >= 0
    assert math.isfinite(value)
    if ours == reference:
        assert value == 0


@pytest.mark.parametrize(("reference", "sign"), [(-2.0, 1), (-0.5, -1)])
def test_kl_pulls_towards_the_reference(reference: float, sign: int) -> None:
    """A token likelier than under the reference is made rarer, and the other way round."""
    terms, gradient = terms_of(1.0, 0.0, reference=reference, beta=0.5)
    delta = reference + 1.0
    assert float(terms.kl_N) == pytest.approx(math.exp(delta) - delta - 1)
    assert float(terms.loss_N.detach()) == pytest.approx(0.5 * float(terms.kl_N))
    assert gradient == pytest.approx(0.5 * (1 - math.exp(delta)))
    assert math.copysign(1, gradient) == sign


def test_without_a_reference_there_is_no_kl() -> None:
    assert float(terms_of(1.0, 1.0, beta=1.0)[0].kl_N) == 0


@given(LOGPROBS, LOGPROBS, st.floats(-5, 5, width=32), LOGPROBS)
@settings(max_examples=150, deadline=None)
def test_nothing_overflows(ours: float, behaviour: float, advantage: float, reference: float) -> None:
    """float32, however far the policies are apart; metrics carry no gradient."""
    logprobs_N = torch.tensor([ours], requires_grad=True)
    terms = policy_terms(
        logprobs_N,
        behaviour_N=torch.tensor([behaviour]),
        advantages_N=torch.tensor([advantage]),
        reference_N=torch.tensor([reference]),
        clip_low=LOW,
        clip_high=HIGH,
        kl_beta=0.01,
    )
    terms.loss_N.sum().backward()
    assert terms.loss_N.isfinite().all()
    assert logprobs_N.grad is not None
    assert logprobs_N.grad.isfinite().all()
    assert not any(
        one.requires_grad for one in (terms.kl_N, terms.clipped_low_N, terms.clipped_high_N, terms.log_ratio_N)
    )


@given(st.floats(0.05, 5), st.floats(-3, 3))
@settings(max_examples=80, deadline=None)
def test_the_clipped_loss_is_an_upper_bound(ratio: float, advantage: float) -> None:
    """PPO's pessimism: never better than the unclipped loss."""
    terms, _ = terms_of(ratio, advantage)
    assert float(terms.loss_N.detach()) >= -ratio * advantage - 1e-9
