"""Everything pairwise that a reward needs to know of an answer, measured once for all answers of a prompt.

Axes: G answers, N said shapes of one answer, A those of all answers, B true shapes, K numbers a shape has.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from rewards.duplicates import group_roots, near_pairs, num_copies
from rewards.geometry import BoolArray, FloatArray, IntArray
from rewards.matching import best_total, first_choices, group_values
from rewards.records import RewardWeights, Said, Truth
from rewards.terms import HIT_IOU, is_giant
from rewards.text import text_similarity
from rewards.values import Boxes, read_shapes, shape_values

_BATCH_PAIRS = 16384
"""Pairs measured in one NumPy call: enough to hide the call's cost; larger arrays cost fresh memory pages each time
(eight answers of 100 boxes took twice as long in one call)."""


@dataclass(frozen=True, slots=True, eq=False)
class Overlaps:
    """One answer against its truth."""

    value_NB: FloatArray
    """What a pair counts in the matching: its value by geometry where the labels are equal, else 0; where labels are
    recognised text, the value times their similarity. Boxes: shaped, where the weights say so."""
    near_NN: BoolArray | None
    """Near-copies of one label (of any, where labels are recognised text) among the said shapes, the diagonal False;
    None when there are none."""
    root_N: IntArray
    """Near-copy group of each said shape, named by its first member."""
    num_copies: int
    """Said shapes beyond the first of their group."""
    lost_giant_N: BoolArray
    """Giant shapes that no truth of their label explains (value by geometry > 0.5)."""
    choice_N: IntArray
    """The truth each said shape is worth most to, UNMATCHED where it is worth nothing to any."""
    best_N: FloatArray
    """What it is worth to that one."""
    is_plain: bool
    """Whether every shape can have its first choice: no near-copies, no truth chosen twice."""

    @property
    def num_said(self) -> int:
        """N."""
        return len(self.value_NB)

    @property
    def num_true(self) -> int:
        """B."""
        return int(self.value_NB.shape[1])

    @property
    def group_value_NB(self) -> FloatArray:
        """Value of each near-copy group for each truth, in the row of its first member; other rows are 0."""
        return group_values(self.value_NB, self.root_N) if self.num_copies else self.value_NB

    @property
    def total(self) -> float:
        """The largest total of a one-to-one matching between groups and truths (matching.py)."""
        return math.fsum(self.best_N.tolist()) if self.is_plain else best_total(self.group_value_NB)


def measure(said_G: Sequence[Said], truth: Truth, weights: RewardWeights) -> list[Overlaps]:
    """Measure every answer of a prompt against the truth.

    Raises ValueError when an answer's shapes are of another geometry than the truth's.
    """
    num_G = [len(said.labels) for said in said_G]
    ends_G = [0, *accumulate(num_G)]
    shapes = read_shapes(said_G, truth)
    labels_A = [label for said in said_G for label in said.labels]
    code_A, code_B = _label_codes(labels_A, truth)
    answer_A = np.repeat(np.arange(len(said_G)), num_G)
    pairs_L2 = near_pairs(shapes, answer_A if truth.reads_text else code_A * len(said_G) + answer_A)
    root_A = group_roots(pairs_L2, len(labels_A))
    near_G = _near_copies(pairs_L2, answer_A, ends_G)
    giant_A = is_giant(shapes.areas())
    batch = max(1, _BATCH_PAIRS // max(1, max(num_G, default=0) * len(code_B)))
    overlaps_G: list[Overlaps] = []
    for first in range(0, len(said_G), batch):
        ends_C = ends_G[first : first + batch + 1]
        rows = slice(ends_C[0], ends_C[-1])
        value_AB = shapes.values(rows)
        same_AB = code_A[rows, None] == code_B
        lost_A = giant_A[rows]
        if lost_A.any():
            lost_A = lost_A & ~((value_AB > HIT_IOU) & (same_AB | truth.reads_text)).any(axis=1)
        if isinstance(shapes, Boxes) and weights.shapes_boxes:
            value_AB = shape_values(value_AB, shapes.shapes_AK[rows], truth.bins_NK, weights)
        value_AB *= text_similarity(labels_A[rows], truth.labels) if truth.reads_text else same_AB
        overlaps_G += _split(value_AB, lost_A, root_A[rows], near_G[first : first + batch], ends_C)
    return overlaps_G


def measure_labels(said_G: Sequence[Said], truth: Truth) -> list[tuple[FloatArray, BoolArray]]:
    """[G] of ([N, B] value of every pair by geometry alone, [N, B] whether their labels are equal)."""
    shapes = read_shapes(said_G, truth)
    code_A, code_B = _label_codes([label for said in said_G for label in said.labels], truth)
    any_AB, same_AB = shapes.values(slice(None)), code_A[:, None] == code_B
    ends_G = [0, *accumulate(len(said.labels) for said in said_G)]
    return [(any_AB[start:end], same_AB[start:end]) for start, end in pairwise(ends_G)]


def _split(
    value_AB: FloatArray,
    lost_A: BoolArray,
    root_A: IntArray,
    near_G: Sequence[BoolArray | None],
    ends_G: Sequence[int],
) -> list[Overlaps]:
    """What was measured of a few answers in one pass, answer by answer."""
    starts_G = [end - ends_G[0] for end in ends_G]
    choice_A, best_A, contested_G = first_choices(value_AB, starts_G)
    overlaps_G = []
    for (start, end), near_NN, contested in zip(pairwise(starts_G), near_G, contested_G, strict=True):
        root_N = root_A[start:end] - ends_G[0] - start
        overlaps_G.append(
            Overlaps(
                value_NB=value_AB[start:end],
                near_NN=near_NN,
                root_N=root_N,
                num_copies=0 if near_NN is None else num_copies(root_N),
                lost_giant_N=lost_A[start:end],
                choice_N=choice_A[start:end],
                best_N=best_A[start:end],
                is_plain=near_NN is None and not contested,
            )
        )
    return overlaps_G


def _label_codes(labels_A: Sequence[str], truth: Truth) -> tuple[IntArray, IntArray]:
    """[A] and [B] a number for each label, the same for equal labels."""
    code_of = {label: code for code, label in enumerate(dict.fromkeys((*truth.labels, *labels_A)))}
    code_A = np.array([code_of[label] for label in labels_A], dtype=np.int64)
    return code_A, np.array([code_of[label] for label in truth.labels], dtype=np.int64)


def _near_copies(pairs_L2: IntArray, answer_A: IntArray, ends_G: list[int]) -> list[BoolArray | None]:
    """[G] of [N, N]: the pairs of near-copies within each answer, None for an answer without any."""
    near_G: list[BoolArray | None] = [None] * (len(ends_G) - 1)
    if not len(pairs_L2):
        return near_G
    answer_L = answer_A[pairs_L2[:, 0]]
    for answer in np.unique(answer_L).tolist():
        start, end = ends_G[answer], ends_G[answer + 1]
        first_L, second_L = (pairs_L2[answer_L == answer] - start).T
        near_NN = np.zeros((end - start, end - start), dtype=np.bool_)
        near_NN[first_L, second_L] = near_NN[second_L, first_L] = True
        near_G[answer] = near_NN
    return near_G
