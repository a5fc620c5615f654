"""Corrections: hand values, and that none of them ever weights a token above its bound."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.learning.importance import CORRECTIONS

LOW, HIGH = 0.5, 2.0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 1, 1, 1, 1]),
        ("tis", [0.4, 1.0, 2.0, 0.1, 2.0]),  # min(w, 2)
        ("icepop", [0.0, 1.0, 0.0, 0.0, 0.0]),  # arXiv 2510.18855: w within [1/2, 2], else 0
        ("sequence_mask", [0.4, 1.0, 2.0, 0.0, 0.0]),  # geometric means 1 and (0.1 * 2.1)^(1/2) = 0.458
    ],
)
def test_corrections_by_hand(name: str, expected: list[float]) -> None:
    """An answer of ratios 0.4, 1, 2.5 and one of 0.1, 2.1."""
    log_w_N = torch.tensor([0.4, 1.0, 2.5, 0.1, 2.1]).log()
    assert CORRECTIONS[name](log_w_N, torch.tensor([3, 2]), LOW, HIGH).tolist() == pytest.approx(expected)


@given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=5), min_size=1, max_size=4))
def test_weights_are_bounded_and_masks_spare_whole_answers(answers: list[list[float]]) -> None:
    log_w_N = torch.tensor([value for one in answers for value in one], dtype=torch.float64)
    lengths = [len(one) for one in answers]
    for correct in CORRECTIONS.values():
        weights_N = correct(log_w_N, torch.tensor(lengths), LOW, HIGH)
        assert weights_N.shape == log_w_N.shape
        assert ((weights_N >= 0) & (weights_N <= HIGH)).all()
    for kept_T in torch.split(CORRECTIONS["sequence_mask"](log_w_N, torch.tensor(lengths), LOW, HIGH), lengths):
        assert (kept_T > 0).all() or not kept_T.any()
