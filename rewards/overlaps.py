"""Everything pairwise that a reward needs to know of answers, measured at once for all answers of a task.

Axes: P prompts, G answers to all of them, N predicted shapes of one answer, A those of all answers, one answer after
the other, B true shapes of one prompt, C those of all prompts, L pairs of a predicted and a true shape.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

import numpy as np

from rewards.duplicates import group_roots, near_pairs, nearest_truths
from rewards.geometry.boxes import BoolArray, FloatArray, IntArray
from rewards.geometry.pairs import meeting_pairs
from rewards.matching import best_total, first_choices, group_values
from rewards.records import Predictions, RewardWeights
from rewards.terms import HIT_IOU, is_giant
from rewards.text import text_similarity
from rewards.truth import Truth
from rewards.values import Boxes, everywhere, read_shapes, shape_values

_BATCH_PAIRS = 8192
"""Pairs measured in one NumPy call: enough to hide the call's cost; larger arrays cost fresh memory pages each time
(23,000 pairs took twice as long in one call)."""


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """The pairs of all answers that have a value above 0."""

    predicted_L: IntArray
    """Place among the A predicted shapes, ascending."""
    true_L: IntArray
    """Place in the truth of the answer's own prompt."""
    value_L: FloatArray
    """Above 0."""

    def matrix(self, start: int, end: int, num_true: int) -> FloatArray:
        """[N, B] values of the answer whose shapes are from `start` to before `end`."""
        pairs = slice(*self.predicted_L.searchsorted((start, end)).tolist())
        value_NB = np.zeros((end - start, num_true))
        value_NB[self.predicted_L[pairs] - start, self.true_L[pairs]] = self.value_L[pairs]
        return value_NB


class Overlaps(NamedTuple):
    """One answer against its truth; a tuple, as a step has hundreds of them and a dataclass takes longer to make."""

    pairs: Pairs
    """Of all answers; see `value_NB`."""
    start: int
    """Where the answer's shapes start among all."""
    num_predicted: int
    """N."""
    num_true: int
    """B."""
    duplicates_L2: IntArray
    """Pairs of predictions that are duplicates of each other (duplicates.py)."""
    root_N: IntArray
    """Group of duplicates of each prediction, named by its first member."""
    lost_giant_N: BoolArray
    """Giant shapes that no truth of their label explains (value by geometry > 0.5)."""
    choice_N: IntArray
    """The truth for which each prediction has the largest value, UNMATCHED where it has none for any."""
    best_N: FloatArray
    """Its value for that truth."""
    is_plain: bool
    """Whether every shape can have its first choice: no duplicates, no truth chosen twice."""

    @property
    def value_NB(self) -> FloatArray:
        """[N, B] value of each pair in the matching: that by geometry where the labels are equal, else 0; where labels
        are recognised text, times the texts' similarity. Values of boxes are shaped, where the weights say so.
        """
        return self.pairs.matrix(self.start, self.start + self.num_predicted, self.num_true)

    @property
    def group_value_NB(self) -> FloatArray:
        """Value of each group of duplicates for each truth, in the row of its first member; other rows are 0."""
        return group_values(self.value_NB, self.root_N)

    @property
    def num_duplicates(self) -> int:
        """Predictions beyond the first of their group."""
        return int(np.count_nonzero(self.root_N != np.arange(self.num_predicted))) if len(self.duplicates_L2) else 0

    @property
    def total(self) -> float:
        """The largest total of a one-to-one matching between groups and truths (matching.py)."""
        return math.fsum(self.best_N.tolist()) if self.is_plain else best_total(self.group_value_NB)


def measure(
    predicted_PG: Sequence[Sequence[Predictions]], truth_P: Sequence[Truth], weights: RewardWeights
) -> list[Overlaps]:
    """Measure all answers to some prompts of one task, [G] of one prompt after the other.

    Raises ValueError when an answer's shapes are of another geometry than the truths'.
    """
    step = _Step(predicted_PG, truth_P)
    shapes, reads_text = step.shapes, truth_P[0].reads_text
    is_shaped = isinstance(shapes, Boxes) and weights.shapes_boxes
    predicted_L, true_L, value_L = step.measure(any_label=reads_text, anywhere=is_shaped)
    lost_A = is_giant(shapes.areas())
    if lost_A.any():
        lost_A[predicted_L[value_L > HIT_IOU]] = False
    if is_shaped:
        assert isinstance(shapes, Boxes)
        value_L = shape_values(value_L, shapes.shapes_AK[predicted_L], shapes.truth_BK[true_L], weights)
    family_A, likeness_L, place_L = step.code_A * len(step) + step.answer_A, None, value_L
    if reads_text:
        likeness_L = text_similarity([step.labels_A[i] for i in predicted_L], [step.labels_C[i] for i in true_L])
        family_A, value_L = step.answer_A, place_L * likeness_L
    pairs = step.pairs(predicted_L, true_L, value_L)
    ends_G = step.ends_G
    choice_A, best_A, contested_G = first_choices(
        pairs.predicted_L, pairs.true_L, pairs.value_L, step.answer_A, len(step)
    )
    pairs_L2 = near_pairs(shapes, family_A)
    if len(pairs_L2):
        text_L = step.code_C[true_L]
        nearest_A = nearest_truths(shapes, pairs_L2.ravel(), predicted_L, true_L, place_L, likeness_L, text_L)
        pairs_L2 = pairs_L2[nearest_A[pairs_L2[:, 0]] == nearest_A[pairs_L2[:, 1]]]
    root_A = group_roots(pairs_L2, len(family_A))
    pairs_GL2 = _by_answer(pairs_L2, step.answer_A, ends_G)
    return [
        Overlaps(
            pairs=pairs,
            start=start,
            num_predicted=end - start,
            num_true=num_true,
            duplicates_L2=duplicates_L2,
            root_N=root_A[start:end] - start,
            lost_giant_N=lost_A[start:end],
            choice_N=choice_A[start:end],
            best_N=best_A[start:end],
            is_plain=not len(duplicates_L2) and not contested,
        )
        for (start, end), num_true, duplicates_L2, contested in zip(
            pairwise(ends_G), step.num_true_G, pairs_GL2, contested_G, strict=True
        )
    ]


def measure_labels(
    predicted_PG: Sequence[Sequence[Predictions]], truth_P: Sequence[Truth]
) -> list[tuple[FloatArray, BoolArray]]:
    """[G] of ([N, B] value of every pair by geometry alone, [N, B] whether their labels are equal)."""
    step = _Step(predicted_PG, truth_P)
    pairs = step.pairs(*step.measure(any_label=True, anywhere=False))
    return [
        (
            pairs.matrix(start, end, num_true),
            step.code_A[start:end, None] == step.code_C[first : first + num_true],
        )
        for (start, end), first, num_true in zip(pairwise(step.ends_G), step.first_G, step.num_true_G, strict=True)
    ]


class _Step:
    """All answers and truths one after the other, and which belong together."""

    def __init__(self, predicted_PG: Sequence[Sequence[Predictions]], truth_P: Sequence[Truth]) -> None:
        predicted_G = [predicted for predicted_of_prompt in predicted_PG for predicted in predicted_of_prompt]
        num_G, num_P = [len(predicted.labels) for predicted in predicted_G], [len(truth.labels) for truth in truth_P]
        prompts_P = np.arange(len(truth_P))
        prompt_G = prompts_P.repeat([len(predicted_of_prompt) for predicted_of_prompt in predicted_PG])
        self.shapes = read_shapes(predicted_G, truth_P)
        self.ends_G = [0, *accumulate(num_G)]
        self.answer_A, self.prompt_A = np.arange(len(predicted_G)).repeat(num_G), prompt_G.repeat(num_G)
        self.prompt_C = prompts_P.repeat(num_P)
        self.first_P = np.cumsum(num_P) - num_P
        self.first_G, self.num_true_G = self.first_P[prompt_G].tolist(), np.array(num_P)[prompt_G].tolist()
        self.labels_A = list(chain.from_iterable([predicted.labels for predicted in predicted_G]))
        self.labels_C = list(chain.from_iterable([truth.labels for truth in truth_P]))
        codes = {label: code for code, label in enumerate(sorted({*self.labels_C, *self.labels_A}))}
        self.code_A = np.array([codes[label] for label in self.labels_A], dtype=np.int64)
        self.code_C = np.array([codes[label] for label in self.labels_C], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.num_true_G)

    def measure(self, *, any_label: bool, anywhere: bool) -> tuple[IntArray, IntArray, FloatArray]:
        """([L] place among A, [L] place among C, [L] value by geometry) of the pairs of one prompt.

        Args:
            any_label: also pairs of different labels.
            anywhere: also pairs that lie so far apart that their value is 0.
        """
        num_codes = len(self.code_A) + len(self.code_C) + 1
        family_A, family_C = self.prompt_A * num_codes, self.prompt_C * num_codes
        if not any_label:
            family_A, family_C = family_A + self.code_A, family_C + self.code_C
        spans_A, spans_C = (everywhere(family_A), everywhere(family_C)) if anywhere else self.shapes.spans()
        predicted_L, true_L = meeting_pairs(spans_A, family_A, spans_C, family_C)
        parts = [slice(at, at + _BATCH_PAIRS) for at in range(0, len(predicted_L), _BATCH_PAIRS)]
        values = [self.shapes.values(predicted_L[part], true_L[part]) for part in parts]
        return predicted_L, true_L, np.concatenate([np.zeros(0), *values])

    def pairs(self, predicted_L: IntArray, true_L: IntArray, value_L: FloatArray) -> Pairs:
        """Those of `measure` that have a value above 0."""
        counts_L = np.flatnonzero(value_L > 0.0)
        predicted_L, true_L = predicted_L[counts_L], true_L[counts_L]
        return Pairs(predicted_L, true_L - self.first_P[self.prompt_A[predicted_L]], value_L[counts_L])


def _by_answer(pairs_L2: IntArray, answer_A: IntArray, ends_G: list[int]) -> list[IntArray]:
    """[G] of [L, 2]: the pairs within each answer, counted from its first shape."""
    pairs_GL2: list[IntArray] = [pairs_L2[:0]] * (len(ends_G) - 1)
    answer_L = answer_A[pairs_L2[:, 0]]
    order_L = answer_L.argsort()
    answers, firsts = np.unique(answer_L[order_L], return_index=True)
    for answer, pairs_of_answer_L2 in zip(answers.tolist(), np.split(pairs_L2[order_L], firsts[1:]), strict=False):
        pairs_GL2[answer] = pairs_of_answer_L2 - ends_G[answer]
    return pairs_GL2
