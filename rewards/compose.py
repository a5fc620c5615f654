"""The reward of answers: every term by name, their weighted total, and what each prefix of an answer had earned.

Axes: P prompts, G answers of one prompt or of all, N predicted shapes, B true shapes.

    total = f1 * F1 - duplicates * D - surplus * S - large * L - rejection * R - format * M - truncated * T

with the weights of `RewardWeights` and terms in [0, 1] (terms.py), so the total lies in `RewardWeights.bounds`,
[-1.75, 1] by default, and is f1's weight exactly when the answer is perfect. The value of a pair of shapes depends on
the geometry (values.py).

The laws of the total, for every truth. A perfect answer has exactly f1's weight, no duplicate and no surplus. The order
of the shapes changes nothing. An exact duplicate, or a shape left unmatched, never raises the total when added and
never lowers it when removed (why: matching.py; every penalty only grows with shapes, and `rejection` and `format` do
not look at shapes). tests/rewards/test_laws.py searches for counter-examples.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from operator import eq

import numpy as np

from rewards.geometry.boxes import BOX, BoolArray, FloatArray, IntArray, pairwise_iou
from rewards.matching import UNMATCHED, match
from rewards.official import official_box_iou, official_boxes, official_phrase, official_points, paper_f1
from rewards.overlaps import Overlaps, measure, measure_labels
from rewards.prefixes import measure_prefixes
from rewards.records import REWARDS, GroupScores, Predictions, Prefixes, RewardWeights
from rewards.terms import count_error, is_malformed, is_truncated, rejection, shape_terms, weighted_total
from rewards.text import text_similarity
from rewards.truth import Truth

_RewardOf = Callable[[IntArray], float]
"""Reward of the shapes at these indices alone."""


def score_group(
    predicted_G: Sequence[Predictions],
    truth: Truth,
    *,
    weights: RewardWeights,
    name: str = "matched",
    prefixes: bool = False,
) -> GroupScores:
    """Score the G answers of one prompt: `score_groups` of one.

    A right box earns 1; predicted twice, an F1 of 2 / 3 less the whole penalties for a duplicate and a surplus:

    >>> from types import SimpleNamespace
    >>> truth = Truth(("cat",), np.array([[0, 0, 9, 9]]), ("cat",))
    >>> once = SimpleNamespace(labels=("cat",), bins_NK=truth.bins_NK, faults=(), absent=())
    >>> twice = SimpleNamespace(labels=("cat",) * 2, bins_NK=truth.bins_NK.repeat(2, axis=0), faults=(), absent=())
    >>> score_group([once, twice], truth, weights=RewardWeights()).total_G.round(3).tolist()
    [1.0, -0.083]
    """
    return score_groups([predicted_G], [truth], weights=weights, name=name, prefixes=prefixes)[0]


def score_groups(
    predicted_PG: Sequence[Sequence[Predictions]],
    truth_P: Sequence[Truth],
    *,
    weights: RewardWeights,
    name: str = "matched",
    prefixes: bool = False,
) -> list[GroupScores]:
    """Score the answers of some prompts of one task, all in one pass: many answers cost little more than one.

    Args:
        predicted_PG: decoded answers; prompts may have different numbers of them.
        truth_P: the true answer to each prompt, on the grid.
        weights: weight of each term of `matched`; the other rewards are their formula alone.
        name: a key of REWARDS.
        prefixes: whether to measure every prefix of every answer too, under the named reward.

    Raises:
        ValueError: an unknown name, shapes of another geometry than the truth's, or truths of several.
    """
    if name not in REWARDS:
        raise ValueError(f"reward {name!r} is unknown; known are {', '.join(REWARDS)}")
    if not truth_P:
        return []
    overlaps_G = measure(predicted_PG, truth_P, weights)
    num_true_G = np.array([overlaps.num_true for overlaps in overlaps_G], dtype=np.int64)
    num_predicted_G = np.array([overlaps.num_predicted for overlaps in overlaps_G], dtype=np.int64)
    num_duplicates_G = np.array([overlaps.num_duplicates for overlaps in overlaps_G], dtype=np.int64)
    matched_G = [overlaps.total for overlaps in overlaps_G]
    giants_G = [np.count_nonzero(overlaps.lost_giant_N) for overlaps in overlaps_G]
    terms_G = shape_terms(matched_G, num_predicted_G, num_duplicates_G, giants_G, num_true_G)
    terms_G |= _answer_terms(predicted_PG, truth_P)
    total_G = weighted_total(terms_G, weights)
    prefixes_G = measure_prefixes(overlaps_G, weights) if prefixes else ()
    if name != "matched":
        formula_G = _formulas(name, predicted_PG, truth_P)
        total_G = np.array([of(np.arange(num)) for of, num in zip(formula_G, num_predicted_G, strict=True)])
        terms_G[name] = total_G
        prefixes_G = tuple(map(_under_formula, prefixes_G, formula_G))
    terms_G["count_error"] = count_error(num_predicted_G, num_true_G)
    terms_G |= _text_terms(predicted_PG, overlaps_G, truth_P)
    ends_P = accumulate(map(len, predicted_PG), initial=0)
    return [
        GroupScores(
            total_G=total_G[start:end],
            terms_G={term: values_G[start:end] for term, values_G in terms_G.items()},
            prefixes_G=prefixes_G[start:end],
            num_duplicates_G=num_duplicates_G[start:end],
            num_predicted_G=num_predicted_G[start:end],
            num_true=len(truth.labels),
        )
        for (start, end), truth in zip(pairwise(ends_P), truth_P, strict=True)
    ]


def _answer_terms(predicted_PG: Sequence[Sequence[Predictions]], truth_P: Sequence[Truth]) -> dict[str, FloatArray]:
    """The terms that do not depend on shapes, each [G] in [0, 1]."""
    rejection_G: list[float] = []
    for predicted_G, truth in zip(predicted_PG, truth_P, strict=True):
        empty = truth.empty_categories
        rejection_G += [rejection(predicted.absent, empty) for predicted in predicted_G]
    faults_G = [predicted.faults for predicted_G in predicted_PG for predicted in predicted_G]
    return {
        "rejection": np.array(rejection_G, dtype=np.float64),
        "format": np.array([is_malformed(faults) for faults in faults_G], dtype=np.float64),
        "truncated": np.array([is_truncated(faults) for faults in faults_G], dtype=np.float64),
    }


def _text_terms(
    predicted_PG: Sequence[Sequence[Predictions]], overlaps_G: Sequence[Overlaps], truth_P: Sequence[Truth]
) -> dict[str, FloatArray]:
    """Where labels are recognised text, logged only: mean similarity and share of exact texts over the true shapes.

    A true shape left without a prediction counts 0; an empty truth gives 1.
    """
    if not truth_P[0].reads_text:
        return {}
    similar_G, exact_G = [], []
    for (predicted, truth), overlaps in zip(_beside_truths(predicted_PG, truth_P), overlaps_G, strict=True):
        truth_N = match(overlaps.value_NB, overlaps.root_N).truth_N
        shapes = np.flatnonzero(truth_N != UNMATCHED).tolist()
        predicted_texts, true_texts = [predicted.labels[i] for i in shapes], [truth.labels[truth_N[i]] for i in shapes]
        num_true = len(truth.labels)
        similar_G.append(sum(text_similarity(predicted_texts, true_texts).tolist()) / num_true if num_true else 1.0)
        exact_G.append(sum(map(eq, predicted_texts, true_texts)) / num_true if num_true else 1.0)
    return {"text_similarity": np.array(similar_G), "exact_text": np.array(exact_G)}


def _beside_truths(
    predicted_PG: Sequence[Sequence[Predictions]], truth_P: Sequence[Truth]
) -> list[tuple[Predictions, Truth]]:
    """[G] every answer and the truth of its prompt."""
    return [(one, truth) for predicted_G, truth in zip(predicted_PG, truth_P, strict=True) for one in predicted_G]


def _under_formula(prefixes: Prefixes, reward_of: _RewardOf) -> Prefixes:
    earned_P = np.array([reward_of(np.arange(num)) for num in range(len(prefixes.earned_P))])
    return replace(prefixes, earned_P=earned_P)


def _formulas(name: str, predicted_PG: Sequence[Sequence[Predictions]], truth_P: Sequence[Truth]) -> list[_RewardOf]:
    """[G] each answer's published reward."""
    measured_G = measure_labels(predicted_PG, truth_P)
    return [
        _formula(name, predicted, any_NB, same_NB, truth)
        for (predicted, truth), (any_NB, same_NB) in zip(_beside_truths(predicted_PG, truth_P), measured_G, strict=True)
    ]


def _formula(name: str, predicted: Predictions, any_NB: FloatArray, same_NB: BoolArray, truth: Truth) -> _RewardOf:
    """One answer's published reward as a function of the shapes that are kept."""
    aims = truth.geometry == "point" and (bool(truth.masks) or truth.boxes_N4 is not None)
    if name == "paper" or not (aims or truth.geometry == "box"):
        return lambda kept: paper_f1(any_NB[kept], same_NB[kept])
    askable_B = np.array([official_phrase(label) == label for label in truth.labels], dtype=np.bool_)
    same_NB = same_NB & askable_B
    if aims:
        return lambda kept: official_points((any_NB[kept] > 0.0) & same_NB[kept])
    boxes_N4, counts_N = official_boxes(np.asarray(predicted.bins_NK, dtype=np.float64).reshape(-1, BOX))
    iou_NB = pairwise_iou(boxes_N4, truth.bins_NK)

    def reward_of(kept: IntArray) -> float:
        kept = kept[counts_N[kept]]
        return official_box_iou(iou_NB[kept], same_NB[kept])

    return reward_of
