"""Layout of packed groups: positions as transformers counts them, answers that continue from the prompt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.policy.positions import lay_out_group, prompt_positions

IMAGE = 99


def prompt_with_image(rows: int, columns: int, before: int, after: int) -> np.ndarray:
    return np.array([*range(before), *[IMAGE] * (rows * columns), *range(after)])


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 5), st.integers(0, 5))
def test_positions_of_a_prompt(rows: int, columns: int, before: int, after: int) -> None:
    """Text counts on all axes alike; patches share a time step, no two a place; text goes on from the largest."""
    positions_3P = prompt_positions(
        prompt_with_image(rows, columns, before, after), image_token_id=IMAGE, grid_rows=rows, grid_columns=columns
    )
    text_3T = np.delete(positions_3P, np.s_[before : before + rows * columns], axis=1)
    image_3K = positions_3P[:, before : before + rows * columns]
    assert (text_3T == text_3T[0]).all()
    assert text_3T[0].tolist() == [
        *range(before),
        *range(before + max(rows, columns), before + max(rows, columns) + after),
    ]
    assert (image_3K[0] == before).all()
    assert len({*map(tuple, image_3K.T.tolist())}) == rows * columns
    assert image_3K.min() == before


def test_a_grid_that_does_not_fit_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="4 image tokens for a grid of 2 x 3"):
        prompt_positions(prompt_with_image(2, 2, 1, 1), image_token_id=IMAGE, grid_rows=2, grid_columns=3)


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(2, 9))
def test_every_answer_is_laid_out_as_if_it_stood_alone(lengths: list[int], num_prompt: int) -> None:
    """Same positions, and each token is predicted by the one before it, the first by the prompt's last."""
    tokens_P = np.arange(num_prompt) + 1000
    positions_3P = np.tile(np.arange(num_prompt) * 2, (3, 1))
    answers = [np.arange(length) + 100 * i for i, length in enumerate(lengths)]
    packed = lay_out_group(tokens_P, positions_3P, answers)
    assert packed.tokens_S.size == packed.segments_S.size == packed.positions_3S.shape[1] == num_prompt + sum(lengths)
    at = 0
    for segment, answer_T in enumerate(answers, start=1):
        alone = lay_out_group(tokens_P, positions_3P, [answer_T])
        mine_S = packed.segments_S == segment
        assert (packed.positions_3S[:, mine_S] == alone.positions_3S[:, num_prompt:]).all()
        assert (packed.positions_3S[:, mine_S].min(axis=1) == positions_3P.max() + 1).all()
        predictors_T, targets_T = (
            column[at : at + answer_T.size] for column in (packed.predictors_N, packed.targets_N)
        )
        assert (targets_T == answer_T).all()
        seen = packed.tokens_S[predictors_T]
        assert seen.tolist() == [tokens_P[-1], *answer_T[:-1]]
        assert (packed.segments_S[predictors_T[1:]] == segment).all()
        at += answer_T.size
    assert at == packed.targets_N.size
