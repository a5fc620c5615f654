"""Everything pairwise that a reward needs to know of an answer, measured once for all answers of a prompt.

Axes: G answers, N said shapes of one answer, A those of all answers, B true shapes, K numbers a shape has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from rewards.duplicates import group_roots, near_pairs, num_copies
from rewards.geometry import BoolArray, FloatArray, IntArray, pairwise_value
from rewards.matching import group_values
from rewards.records import Said, Truth
from rewards.terms import HIT_IOU, is_giant

_BATCH_PAIRS = 16384
"""Pairs measured in one NumPy call: enough to hide the call's cost; larger arrays cost fresh memory pages each time
(eight answers of 100 boxes took twice as long in one call)."""


@dataclass(frozen=True, slots=True)
class Overlaps:
    """One answer against its truth."""

    any_NB: FloatArray
    """Value of each said shape for each true one, whatever the labels."""
    same_NB: BoolArray
    """Whether the labels are equal."""
    value_NB: FloatArray
    """The value where the labels are equal, else 0."""
    near_NN: BoolArray | None
    """Near-copies of one label among the said shapes, the diagonal False; None when there are none."""
    root_N: IntArray
    """Near-copy group of each said shape, named by its first member."""
    num_copies: int
    """Said shapes beyond the first of their group."""
    lost_giant_N: BoolArray
    """Giant boxes that no truth of their label explains (IoU > 0.5)."""

    @property
    def num_said(self) -> int:
        """N."""
        return len(self.any_NB)

    @property
    def num_true(self) -> int:
        """B."""
        return int(self.any_NB.shape[1])

    @property
    def group_value_NB(self) -> FloatArray:
        """Value of each near-copy group for each truth, in the row of its first member; other rows are 0."""
        return group_values(self.value_NB, self.root_N) if self.num_copies else self.value_NB


def measure(said_G: Sequence[Said], truth: Truth) -> list[Overlaps]:
    """Measure every answer of a prompt against the truth.

    Raises ValueError when an answer's shapes are of another geometry than the truth's.
    """
    num_G = [len(said.labels) for said in said_G]
    ends_G = [0, *accumulate(num_G)]
    shapes_AK = _join_shapes(said_G, truth)
    code_A, code_B = _label_codes(said_G, truth)
    near_G = _near_copies(shapes_AK, code_A, ends_G)
    batch = max(1, _BATCH_PAIRS // max(1, max(num_G, default=0) * len(code_B)))
    overlaps_G: list[Overlaps] = []
    for first in range(0, len(said_G), batch):
        ends_C = ends_G[first : first + batch + 1]
        rows = slice(ends_C[0], ends_C[-1])
        overlaps_G += _compare(
            shapes_AK[rows], truth, code_A[rows, None] == code_B, near_G[first : first + batch], ends_C
        )
    return overlaps_G


def _compare(
    shapes_AK: FloatArray,
    truth: Truth,
    same_AB: BoolArray,
    near_G: Sequence[BoolArray | None],
    ends_G: Sequence[int],
) -> list[Overlaps]:
    """A few answers against the truth, in one pass over their shapes."""
    any_AB = pairwise_value(shapes_AK, truth.bins_NK)
    value_AB = any_AB * same_AB
    giant_A = is_giant(shapes_AK)
    if giant_A.any():
        giant_A &= ~(value_AB > HIT_IOU).any(axis=1)
    overlaps_G = []
    for (start, end), near_NN in zip(pairwise(ends_G), near_G, strict=True):
        root_N = np.arange(end - start) if near_NN is None else group_roots(near_NN)
        rows = slice(start - ends_G[0], end - ends_G[0])
        overlaps_G.append(
            Overlaps(
                any_NB=any_AB[rows],
                same_NB=same_AB[rows],
                value_NB=value_AB[rows],
                near_NN=near_NN,
                root_N=root_N,
                num_copies=0 if near_NN is None else num_copies(root_N),
                lost_giant_N=giant_A[rows],
            )
        )
    return overlaps_G


def _join_shapes(said_G: Sequence[Said], truth: Truth) -> FloatArray:
    """[A, K] the shapes of all answers, one answer after the other."""
    num_coordinates = truth.bins_NK.shape[1]
    for answer, said in enumerate(said_G):
        num = len(said.labels)
        if num and said.bins_NK.shape != (num, num_coordinates):
            raise ValueError(
                f"answer {answer}: {num} labels and shapes {said.bins_NK.shape}; expected ({num}, {num_coordinates})"
            )
    parts = [np.zeros((0, num_coordinates)), *(said.bins_NK for said in said_G if said.labels)]
    return np.concatenate(parts, dtype=np.float64)


def _label_codes(said_G: Sequence[Said], truth: Truth) -> tuple[IntArray, IntArray]:
    """[A] and [B] a number for each label, the same for equal labels."""
    said_labels = [label for said in said_G for label in said.labels]
    code_of = {label: code for code, label in enumerate(dict.fromkeys((*truth.labels, *said_labels)))}
    code_A = np.array([code_of[label] for label in said_labels], dtype=np.int64)
    return code_A, np.array([code_of[label] for label in truth.labels], dtype=np.int64)


def _near_copies(shapes_AK: FloatArray, code_A: IntArray, ends_G: list[int]) -> list[BoolArray | None]:
    """[G] of [N, N]: near-copies of one label within each answer, None for an answer without any."""
    near_G: list[BoolArray | None] = [None] * (len(ends_G) - 1)
    answer_A = np.repeat(np.arange(len(near_G)), np.diff(ends_G))
    pairs_L2 = near_pairs(shapes_AK, code_A * len(near_G) + answer_A)
    answer_L = answer_A[pairs_L2[:, 0]]
    for answer in np.unique(answer_L).tolist():
        start, end = ends_G[answer], ends_G[answer + 1]
        first_L, second_L = (pairs_L2[answer_L == answer] - start).T
        near_NN = np.zeros((end - start, end - start), dtype=np.bool_)
        near_NN[first_L, second_L] = near_NN[second_L, first_L] = True
        near_G[answer] = near_NN
    return near_G
