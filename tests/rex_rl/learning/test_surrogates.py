"""What each algorithm makes of ratio and advantage: values by hand, gradients by autograd, the laws of clipping."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.learning.surrogates import SURROGATES, AnswerTokens, answer_mean

LENGTHS = [2, 3]
OPEN = (1.0, 1e4)
"""Clips that no ratio of these tests reaches."""


def slopes(
    algorithm: str, log_ratios: list[float], advantages: list[float], low: float, high: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, d loss / d log-probability) of the tokens of answers of 2 and 3."""
    logprobs_N = torch.full((5,), -1.0, dtype=torch.float64, requires_grad=True)
    old_N = logprobs_N.detach() - torch.tensor(log_ratios, dtype=torch.float64)
    advantages_N = torch.tensor(advantages, dtype=torch.float64)
    tokens = AnswerTokens(logprobs_N, old_N, advantages_N, torch.tensor(LENGTHS))
    loss_N, ratio_N = SURROGATES[algorithm](tokens, low, high)
    assert ratio_N.shape == loss_N.shape == (5,)
    return loss_N.detach(), torch.autograd.grad(loss_N.sum(), logprobs_N)[0]


TOKENS = st.lists(st.floats(-3, 3), min_size=5, max_size=5)


@pytest.mark.parametrize("names", [["grpo", "dr_grpo", "dapo"]])
def test_three_names_share_one_function_of_a_token(names: list[str]) -> None:
    """They differ in weights, clips and std, which the configuration sets."""
    assert len({SURROGATES[name] for name in names}) == 1


def test_gspo_clips_answers_as_a_whole() -> None:
    """arXiv 2507.18071, equations 5 and 7: s is 2 and 1/2; a token of ratio 1 in the first is clipped with it."""
    log_ratios = [2 * math.log(2), 0.0, *[-math.log(2)] * 3]
    loss_N, slope_N = slopes("gspo", log_ratios, [1.0] * 5, 0.2, 0.3)
    assert loss_N.tolist() == pytest.approx([-1.3, -1.3, -0.5, -0.5, -0.5])
    assert slope_N.tolist() == pytest.approx([0, 0, -0.5, -0.5, -0.5])


@given(TOKENS, st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 1), st.floats(0, 1))
def test_gspos_token_form_is_equation_5(
    log_ratios: list[float], first: float, second: float, low: float, high: float
) -> None:
    """One advantage an answer, weights 1 / length: value and gradient of min(s A, clip(s) A), by autograd."""
    lengths_B, per_answer_B = torch.tensor(LENGTHS), torch.tensor([first, second], dtype=torch.float64)
    log_ratios_N = torch.tensor(log_ratios, dtype=torch.float64, requires_grad=True)
    s_B = torch.stack([one.mean() for one in torch.split(log_ratios_N, LENGTHS)]).exp()
    loss = -torch.minimum(s_B * per_answer_B, s_B.clamp(1 - low, 1 + high) * per_answer_B).sum()
    expected_N = torch.autograd.grad(loss, log_ratios_N)[0]
    ours_N, slope_N = slopes("gspo", log_ratios, [first] * 2 + [second] * 3, low, high)
    weights_N = 1 / lengths_B.double().repeat_interleave(lengths_B)
    assert float((ours_N * weights_N).sum()) == pytest.approx(loss.item(), abs=1e-9)
    assert torch.allclose(slope_N * weights_N, expected_N, atol=1e-9)


def test_gspo_keeps_credit_per_token() -> None:
    """Section 4.3: tokens of one answer may have advantages of their own, under the answer's ratio."""
    _, slope_N = slopes("gspo", [0.4, 0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0, 2.0], *OPEN)
    assert slope_N.tolist() == pytest.approx([-math.exp(0.2), math.exp(0.2), 0, 0, -2])


def test_cispo_stops_the_gradient_of_its_weight() -> None:
    """arXiv 2506.13585, equation 4: slope -clip(r) A, also beyond the bound, where GRPO's is 0."""
    log_ratios = [math.log(8), math.log(2), 0.0, -math.log(2), math.log(8)]
    loss_N, slope_N = slopes("cispo", log_ratios, [1.0, 1.0, 1.0, 1.0, -1.0], 1.0, 4.0)
    assert slope_N.tolist() == pytest.approx([-5, -2, -1, -0.5, 5])
    assert loss_N.tolist() == pytest.approx([5, 2, 1, 0.5, -5])
    assert slopes("grpo", log_ratios, [1.0] * 5, 0.2, 4.0)[1][0] == 0


@pytest.mark.parametrize("algorithm", SURROGATES)
@given(advantages=TOKENS)
def test_on_policy_all_are_the_plain_policy_gradient(algorithm: str, advantages: list[float]) -> None:
    """Whatever the clips; how tokens are weighted comes on top."""
    _, slope_N = slopes(algorithm, [0.0] * 5, advantages, 3e-4, 4e-4)
    assert slope_N.tolist() == pytest.approx([-one for one in advantages])


@pytest.mark.parametrize("algorithm", SURROGATES)
@given(log_ratios=TOKENS, advantages=TOKENS, low=st.floats(0, 1), high=st.floats(0, 10))
def test_clipping_only_ever_removes_gradient(
    algorithm: str, log_ratios: list[float], advantages: list[float], low: float, high: float
) -> None:
    """Never more of it, never the other way: all or nothing in PPO's form, less in CISPO's (no lower bound)."""
    low = 1.0 if algorithm == "cispo" else low
    _, clipped_N = slopes(algorithm, log_ratios, advantages, low, high)
    _, free_N = slopes(algorithm, log_ratios, advantages, *OPEN)
    assert (clipped_N.abs() <= free_N.abs() + 1e-12).all()
    assert (clipped_N * free_N >= 0).all()
    if algorithm != "cispo":
        assert ((clipped_N == 0) | torch.isclose(clipped_N, free_N)).all()


def test_means_stay_within_their_answers() -> None:
    values_N = torch.tensor([1.0, 3.0, 5.0, 6.0, 7.0])
    assert answer_mean(values_N, torch.tensor(LENGTHS)).tolist() == [2, 2, 6, 6, 6]
