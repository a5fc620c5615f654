"""The token losses: hand values, the direction of their gradients, and where clipping stops them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.config.schema import GrpoConfig
from rex_rl.learning.loss import PolicyTerms, policy_terms

LOGPROBS = st.floats(-60, 0, width=32)
LOW, HIGH = 0.2, 0.3
ALGORITHMS = ("grpo", "dr_grpo", "dapo", "gspo", "cispo")


def terms_of(
    ratio: float, advantage: float, *, reference: float | None = None, beta: float = 0.0, **settings: object
) -> tuple[PolicyTerms, float]:
    """The terms of one token whose policy ratio is `ratio`, and d loss / d log-probability."""
    logprobs_N = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    terms = policy_terms(
        logprobs_N,
        behaviour_N=torch.tensor([-1.0 - math.log(ratio)], dtype=torch.float64),
        advantages_N=torch.tensor([advantage], dtype=torch.float64),
        reference_N=None if reference is None else torch.tensor([reference], dtype=torch.float64),
        lengths_B=torch.tensor([1]),
        config=GrpoConfig(clip_low=LOW, clip_high=HIGH, kl_beta=beta, **settings),
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


CHOICES = st.fixed_dictionaries(
    {
        "algorithm": st.sampled_from(ALGORITHMS),
        "kl_estimator": st.sampled_from(["k1", "k2", "k3"]),
        "kl_in": st.sampled_from(["loss", "reward"]),
        "old_logprobs": st.sampled_from(["behaviour", "recompute"]),
        "importance": st.sampled_from(["none", "tis", "icepop", "sequence_mask"]),
    }
)


@given(LOGPROBS, LOGPROBS, st.floats(-5, 5, width=32), LOGPROBS, CHOICES)
def test_nothing_overflows(
    ours: float, behaviour: float, advantage: float, reference: float, choices: dict[str, str]
) -> None:
    """float32, however far the policies are apart; metrics carry no gradient."""
    logprobs_N = torch.tensor([ours], requires_grad=True)
    terms = policy_terms(
        logprobs_N,
        behaviour_N=torch.tensor([behaviour]),
        advantages_N=torch.tensor([advantage]),
        reference_N=torch.tensor([reference]),
        lengths_B=torch.tensor([1]),
        config=GrpoConfig(**choices),
    )
    terms.loss_N.sum().backward()
    assert terms.loss_N.isfinite().all()
    assert logprobs_N.grad is not None
    assert logprobs_N.grad.isfinite().all()
    metrics = (terms.kl_N, terms.clipped_low_N, terms.clipped_high_N, terms.log_ratio_N, terms.importance_N)
    assert not any(one.requires_grad for one in metrics)


@given(st.floats(0.05, 5), st.floats(-3, 3))
def test_the_clipped_loss_is_an_upper_bound(ratio: float, advantage: float) -> None:
    """PPO's pessimism: never better than the unclipped loss."""
    terms, _ = terms_of(ratio, advantage)
    assert float(terms.loss_N.detach()) >= -ratio * advantage - 1e-9


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_on_policy_every_algorithm_is_the_plain_policy_gradient(algorithm: str, advantage: float) -> None:
    assert terms_of(1.0, advantage, algorithm=algorithm)[1] == pytest.approx(-advantage)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("ratio", "importance", "weight"),
    [
        (1.5, "none", 1),
        (1.5, "tis", 1.5),
        (8.0, "tis", 2),
        (1.5, "icepop", 1.5),
        (8.0, "icepop", 0),
        (0.1, "icepop", 0),
    ],
)
def test_recomputed_old_logprobs_leave_the_ratio_to_the_correction(
    algorithm: str, ratio: float, importance: str, weight: float
) -> None:
    """At one update a step the policy ratio is 1 and never clipped; what is left is w = old / behaviour."""
    settings = {"algorithm": algorithm, "old_logprobs": "recompute", "importance": importance}
    terms, gradient = terms_of(ratio, 1.0, **settings)
    assert gradient == pytest.approx(-weight)
    assert float(terms.importance_N) == pytest.approx(weight)
    assert float(terms.clipped_high_N) == 0
    assert float(terms.log_ratio_N) == pytest.approx(math.log(ratio)), "the gap itself is still measured"


def test_a_correction_spares_the_kl() -> None:
    """A masked token is still held to the reference."""
    settings = {"old_logprobs": "recompute", "importance": "icepop"}
    _, gradient = terms_of(8.0, 1.0, reference=-2.0, beta=0.5, **settings)
    assert gradient == pytest.approx(0.5 * (1 - math.exp(-1)))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_kl_in_the_reward_is_taken_off_the_advantage(algorithm: str) -> None:
    """beta (behaviour - reference), k1: here 0.5 * (-1 + 3), off an advantage of 2; no term of its own."""
    terms, gradient = terms_of(1.0, 2.0, reference=-3.0, beta=0.5, kl_in="reward", algorithm=algorithm)
    assert gradient == pytest.approx(-(2.0 - 1.0))
    assert float(terms.kl_N) == pytest.approx(2.0)
