"""The reward of the answers to one prompt: every term by name, their weighted total, and each shape's share.

Axes: G answers of one prompt, N said shapes, B true shapes.

    total = f1 * F1 - duplicates * D - surplus * S - large * L - rejection * R - format * M - truncated * T

with the weights of `RewardWeights` and terms in [0, 1] (terms.py), so the total lies in `RewardWeights.bounds`,
[-1.75, 1] by default, and is f1's weight exactly when the answer is perfect. What a pair of shapes is worth is the
geometry's business (values.py). Its laws, for truths of which no two of a label are near-copies (of any, where labels
are recognised text): the order of the shapes changes nothing; an exact copy, or a shape left unmatched, never raises
it when added and never lowers it when removed (why: matching.py; every penalty only grows with shapes, and `rejection`
and `format` do not look at shapes). tests/rewards/test_laws.py searches for counter-examples.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from rewards.credit import (
    RewardOf,
    group_leave_one_out_gains,
    group_prefix_gains,
    leave_one_out_differences,
    prefix_differences,
)
from rewards.geometry import BOX, BoolArray, FloatArray, IntArray, pairwise_iou
from rewards.matching import UNMATCHED, match
from rewards.official import official_box_iou, official_boxes, official_phrase, official_points, paper_f1
from rewards.overlaps import Overlaps, measure, measure_labels
from rewards.records import CREDITS, REWARDS, GroupScores, RewardWeights, Said, Truth
from rewards.terms import count_error, is_malformed, is_truncated, rejection, shape_terms, weighted_total
from rewards.text import text_similarity

__all__ = ["CREDITS", "REWARDS", "GroupScores", "RewardWeights", "Said", "Truth", "score_group"]


def score_group(
    said_G: Sequence[Said],
    truth: Truth,
    *,
    weights: RewardWeights,
    name: str = "matched",
    credit: str = "prefix",
) -> GroupScores:
    """Score the G answers of one prompt.

    Args:
        said_G: decoded answers.
        truth: the true answer, on the grid.
        weights: weight of each term of `matched`; the other rewards are their formula alone.
        name: a key of REWARDS.
        credit: a key of CREDITS: the form of `gains_GN`, of the reward that `name` names.

    Raises:
        ValueError: an unknown name, or shapes of another geometry than the truth's.

    A right box is worth 1; the same box said twice 2 / 3 of F1 less the whole penalties for a copy and a surplus:

    >>> from types import SimpleNamespace
    >>> truth = Truth(("cat",), np.array([[0, 0, 9, 9]]), ("cat",))
    >>> once = SimpleNamespace(labels=("cat",), bins_NK=truth.bins_NK, faults=(), absent=())
    >>> twice = SimpleNamespace(labels=("cat",) * 2, bins_NK=truth.bins_NK.repeat(2, axis=0), faults=(), absent=())
    >>> score_group([once, twice], truth, weights=RewardWeights()).total_G.round(3).tolist()
    [1.0, -0.083]
    """
    _check(name, REWARDS, "reward")
    _check(credit, CREDITS, "credit")
    overlaps_G = measure(said_G, truth, weights)
    num_true = len(truth.labels)
    num_said_G = np.array([overlaps.num_said for overlaps in overlaps_G], dtype=np.int64)
    num_duplicates_G = np.array([overlaps.num_copies for overlaps in overlaps_G], dtype=np.int64)
    matched_G = [overlaps.total for overlaps in overlaps_G]
    giants_G = [np.count_nonzero(overlaps.lost_giant_N) for overlaps in overlaps_G]
    terms_G = shape_terms(matched_G, num_said_G, num_duplicates_G, giants_G, num_true) | _answer_terms(said_G, truth)
    if name == "matched":
        total_G = weighted_total(terms_G, weights)
        gains_GN = _matched_gains(overlaps_G, weights, credit)
    else:
        pairs_G = zip(said_G, measure_labels(said_G, truth), strict=True)
        formula_G = [_formula(name, said, any_NB, same_NB, truth) for said, (any_NB, same_NB) in pairs_G]
        total_G = np.array([of(np.arange(num)) for of, num in zip(formula_G, num_said_G, strict=True)])
        terms_G[name] = total_G
        gains_GN = tuple(_formula_gains(of, num, credit) for of, num in zip(formula_G, num_said_G, strict=True))
    return GroupScores(
        total_G=total_G,
        terms_G=terms_G | {"count_error": count_error(num_said_G, num_true)} | _text_terms(said_G, overlaps_G, truth),
        gains_GN=gains_GN,
        num_duplicates_G=num_duplicates_G,
        num_said_G=num_said_G,
        num_true=num_true,
        fault_cost_G=weights.format * terms_G["format"] * (name == "matched"),
    )


def _check(name: str, known: Mapping[str, str], what: str) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r} is unknown; known are {', '.join(known)}")


def _answer_terms(said_G: Sequence[Said], truth: Truth) -> dict[str, FloatArray]:
    """The terms that do not depend on shapes, each in [0, 1]."""
    empty = truth.empty_categories
    rejection_G = [rejection(said.absent, empty) for said in said_G]
    malformed_G = [is_malformed(said.faults) for said in said_G]
    truncated_G = [is_truncated(said.faults) for said in said_G]
    return {
        "rejection": np.array(rejection_G, dtype=np.float64),
        "format": np.array(malformed_G, dtype=np.float64),
        "truncated": np.array(truncated_G, dtype=np.float64),
    }


def _text_terms(said_G: Sequence[Said], overlaps_G: Sequence[Overlaps], truth: Truth) -> dict[str, FloatArray]:
    """Where labels are recognised text, logged only: mean similarity and share of exact texts over the true shapes.

    Over the true shapes, so that one left without a said shape counts 0; an empty truth gives 1.
    """
    if not truth.reads_text:
        return {}
    similar_G, exact_G = [], []
    for said, overlaps in zip(said_G, overlaps_G, strict=True):
        truth_N = match(overlaps.value_NB, overlaps.root_N).truth_N
        pairs = [(said.labels[i], truth.labels[truth_N[i]]) for i in np.flatnonzero(truth_N != UNMATCHED)]
        similar = sum(float(text_similarity([said_text], [true_text])[0, 0]) for said_text, true_text in pairs)
        exact = sum(said_text == true_text for said_text, true_text in pairs)
        similar_G.append(similar / len(truth.labels) if truth.labels else 1.0)
        exact_G.append(exact / len(truth.labels) if truth.labels else 1.0)
    return {"text_similarity": np.array(similar_G), "exact_text": np.array(exact_G)}


def _matched_gains(overlaps_G: Sequence[Overlaps], weights: RewardWeights, credit: str) -> tuple[FloatArray, ...]:
    if credit == "prefix":
        return group_prefix_gains(overlaps_G, weights)
    if credit == "leave_one_out":
        return group_leave_one_out_gains(overlaps_G, weights)
    return tuple(np.zeros(overlaps.num_said) for overlaps in overlaps_G)


def _formula(name: str, said: Said, any_NB: FloatArray, same_NB: BoolArray, truth: Truth) -> RewardOf:
    """One answer's published reward as a function of the shapes that are kept."""
    aims = truth.geometry == "point" and (bool(truth.masks) or truth.boxes_N4 is not None)
    if name == "paper" or not (aims or truth.geometry == "box"):
        return lambda kept: paper_f1(any_NB[kept], same_NB[kept])
    askable_B = np.array([official_phrase(label) == label for label in truth.labels], dtype=np.bool_)
    same_NB = same_NB & askable_B
    if aims:
        return lambda kept: official_points((any_NB[kept] > 0.0) & same_NB[kept])
    boxes_N4, counts_N = official_boxes(np.asarray(said.bins_NK, dtype=np.float64).reshape(-1, BOX))
    iou_NB = pairwise_iou(boxes_N4, truth.bins_NK)

    def reward_of(kept: IntArray) -> float:
        kept = kept[counts_N[kept]]
        return official_box_iou(iou_NB[kept], same_NB[kept])

    return reward_of


def _formula_gains(reward_of: RewardOf, num_said: int, credit: str) -> FloatArray:
    if credit == "prefix":
        return prefix_differences(reward_of, num_said)
    if credit == "leave_one_out":
        return leave_one_out_differences(reward_of, num_said)
    return np.zeros(num_said)
