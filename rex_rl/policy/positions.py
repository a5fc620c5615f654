"""Layout of a group in one sequence: `prompt + answer_1 + .. + answer_G`, the image forwarded once.

Answers see the prompt and themselves only, and each continues from the prompt's largest position plus one, so
every answer token gets the same hidden state as if its answer stood alone after the prompt. Several questions about
one image share the tokens before them; each question then begins its answer's branch.

Axes: P prompt tokens, S tokens of the whole sequence, N answer tokens of all answers, 3 rotary axes (time, row,
column). NumPy only: the learner turns these arrays into tensors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupLayout:
    """Layout of a packed group.

    `tokens_S` ids; `segments_S` 0 for the prompt and 1..G for the answers; `positions_3S` rotary positions;
    `predictors_N` the index in S whose hidden state predicts answer token n (the prompt's last for a first token);
    `targets_N` the id of answer token n.
    """

    tokens_S: np.ndarray
    segments_S: np.ndarray
    positions_3S: np.ndarray
    predictors_N: np.ndarray
    targets_N: np.ndarray


def prompt_positions(tokens_P: np.ndarray, *, image_token_id: int, grid_rows: int, grid_columns: int) -> np.ndarray:
    """Qwen2.5-VL's 3-axis positions [3, P] of a prompt with one image of `grid_rows x grid_columns` merged patches.

    Text counts up on all three axes; the image's patches share one time step and spread over rows and columns; the
    text after it goes on from the largest position so far (Qwen2-VL paper, section 2.1, M-RoPE).

    >>> prompt_positions(np.array([5, 9, 9, 9, 9, 5]), image_token_id=9, grid_rows=2, grid_columns=2)
    array([[0, 1, 1, 1, 1, 3],
           [0, 1, 1, 2, 2, 3],
           [0, 1, 2, 1, 2, 3]])
    """
    (image_at,) = np.nonzero(tokens_P == image_token_id)
    if image_at.size != grid_rows * grid_columns:
        raise AssertionError(f"{image_at.size} image tokens for a grid of {grid_rows} x {grid_columns}")
    first = int(image_at[0])
    rows, columns = np.divmod(np.arange(image_at.size), grid_columns)
    image_3K = first + np.stack([np.zeros_like(rows), rows, columns])
    after = first + max(grid_rows, grid_columns) + np.arange(tokens_P.size - first - image_at.size)
    return np.concatenate([np.tile(np.arange(first), (3, 1)), image_3K, np.tile(after, (3, 1))], axis=1)


def lay_out_group(
    tokens_P: np.ndarray, positions_3P: np.ndarray, answers: Sequence[np.ndarray], leads: Sequence[np.ndarray] = ()
) -> GroupLayout:
    """Pack a prompt and its answers into one sequence.

    `leads[i]` are the tokens between the prompt and answer i that only its branch has, such as a question of its own.

    >>> layout = lay_out_group(np.array([7, 8]), np.array([[0, 1]] * 3), [np.array([1, 2]), np.array([3])])
    >>> layout.tokens_S, layout.segments_S
    (array([7, 8, 1, 2, 3]), array([0, 0, 1, 1, 2]))
    >>> layout.positions_3S[0], layout.predictors_N, layout.targets_N
    (array([0, 1, 2, 3, 2]), array([1, 2, 1]), array([1, 2, 3]))
    >>> lay_out_group(np.array([7]), np.array([[0]] * 3), [np.array([1, 2])], [np.array([8, 9])]).predictors_N
    array([2, 3])
    """
    num_prompt = tokens_P.size
    next_position = int(positions_3P.max()) + 1
    tokens, segments, positions, predictors = [tokens_P], [np.zeros(num_prompt, dtype=np.int64)], [positions_3P], []
    start = num_prompt
    leads = leads or [np.zeros(0, dtype=np.int64)] * len(answers)
    for segment, (lead_L, answer_T) in enumerate(zip(leads, answers, strict=True), start=1):
        size = lead_L.size + answer_T.size
        before_T = np.arange(lead_L.size - 1, size - 1)  # in the branch; -1 where an answer follows the prompt at once
        tokens += [lead_L, answer_T]
        segments.append(np.full(size, segment))
        positions.append(np.tile(next_position + np.arange(size), (3, 1)))
        predictors.append(np.where(before_T < 0, num_prompt - 1, start + before_T))
        start += size
    return GroupLayout(
        tokens_S=np.concatenate(tokens),
        segments_S=np.concatenate(segments),
        positions_3S=np.concatenate(positions, axis=1),
        predictors_N=np.concatenate(predictors),
        targets_N=np.concatenate(list(answers)),
    )
