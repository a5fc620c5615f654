"""An answer as a sequence of decisions: what it would have earned had it ended before each, and what state it was in.

Axes: P prompts, G answers of one prompt, K decisions of an answer, N its shapes, B true shapes, F features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rewards import GroupScores, Prefixes, RewardWeights, Truth
from rewards.terms import f1, is_malformed
from rex_rl.language.codec import Codec
from rex_rl.language.decision_points import Choice, DecisionPoints
from rex_rl.language.tasks import Task
from rex_rl.scoring.reward_rule import RewardRule
from rex_rl.types import Decisions, Group, Marks, Shapes

_IN_LIST = (Choice.FIRST, Choice.SHAPE, Choice.MORE)


def decide(
    groups: Sequence[Group],
    shapes_PG: Sequence[Sequence[Shapes]],
    scores_P: Sequence[GroupScores],
    truth_P: Sequence[Truth],
    *,
    codec: Codec,
    rule: RewardRule,
    task: Task,
) -> list[tuple[Decisions, ...]]:
    """[P] of [G]: the decisions of the answers to prompts of one task; `scores_P` with their prefixes.

    Where later tokens change what decoding says of those before, it is asked about the answer that ended there.
    """
    weights = rule.weights_of(task.name)
    points = iter(codec.decision_points([answer.tokens_T for group in groups for answer in group.answers], task=task))
    decisions_PG = []
    for group, shapes_G, scores, truth in zip(groups, shapes_PG, scores_P, truth_P, strict=True):
        tokens_G = [answer.tokens_T for answer in group.answers]
        points_G = [next(points) for _ in tokens_G]
        odds = Odds.of(shapes_G, scores.prefixes_G, truth)
        rows = zip(shapes_G, points_G, scores.prefixes_G, strict=True)
        decisions_G = [decisions_of(*row, truth, odds, weights) for row in rows]
        stops = [(g, k) for g, points in enumerate(points_G) for k in np.flatnonzero(points.is_unsure_K)]
        if stops:
            ended_X = [codec.ended(tokens_G[g][: points_G[g].starts_K[k]], task=task) for g, k in stops]
            categories = group.prompt.record.categories
            shapes_X = codec.decode_group(ended_X, categories=categories, task=task, with_marks=True)
            (scores_X,) = rule.score_built_in([shapes_X], [truth], task=task.name, prefixes=True)
            for (g, k), shapes, prefixes in zip(stops, shapes_X, scores_X.prefixes_G, strict=True):
                ended = decisions_of(shapes, points_G[g], prefixes, truth, odds, weights)
                decisions_G[g].earned_K[k], decisions_G[g].state_KF[k] = ended.earned_K[k], ended.state_KF[k]
        decisions_PG.append(tuple(decisions_G))
    return decisions_PG


@dataclass(frozen=True, kw_only=True, slots=True)
class Odds:
    """How often the answers of a group found what there is to find: what a further one may be expected to find."""

    found_B: np.ndarray
    """Share of the answers that have each truth matched."""
    told_E: np.ndarray
    """Share of the answers that gave `None` for each empty category."""
    quality: float
    """Mean value of a matched shape."""
    faulty: float
    """Share of the answers with a fault of format."""

    @classmethod
    def of(cls, shapes_G: Sequence[Shapes], prefixes_G: Sequence[Prefixes], truth: Truth) -> "Odds":
        """Of the answers to one prompt."""
        is_found_GB = np.stack([prefixes.is_matched_PB[-1] for prefixes in prefixes_G])
        empty = truth.empty_categories
        is_told_GE = np.array([[name in shapes.absent for name in empty] for shapes in shapes_G], dtype=np.bool_)
        total = sum(prefixes.total_P[-1] for prefixes in prefixes_G)
        return cls(
            found_B=is_found_GB.mean(axis=0),
            told_E=is_told_GE.reshape(len(shapes_G), len(empty)).mean(axis=0),
            quality=float(total / max(1, is_found_GB.sum())),
            faulty=float(np.mean([is_malformed(shapes.faults) for shapes in shapes_G])),
        )


def decisions_of(
    shapes: Shapes,
    points: DecisionPoints,
    prefixes: Prefixes,
    truth: Truth,
    odds: Odds,
    weights: RewardWeights | None,
) -> Decisions:
    """The decisions of one answer.

    Args:
        shapes: as decoded, with their marks.
        points: where its decisions begin.
        prefixes: what the answer had earned after each of its shapes.
        truth: of the prompt.
        odds: of its group.
        weights: of the penalties that shapes do not decide; None where the reward has none.

    What an answer had earned before a token depends on the tokens before it alone: a fault, a `None` or a shape counts
    from the token on that shows it; what only the whole answer shows (in JSON, for example) counts at its end.
    """
    starts_K, marks = points.starts_K, shapes.marks
    assert marks is not None, "decode with them"
    shape_K = marks.last_N.searchsorted(starts_K)  # complete ones
    is_missing_KE = _missing(shapes, marks, truth, starts_K)
    share = 1.0 / max(1, len(truth.empty_categories))
    missing_K, fault_K = share * is_missing_KE.sum(axis=1), np.zeros(len(starts_K))
    if marks.fault is not None:
        fault_K[starts_K > marks.fault] = 1.0
    earned_K = prefixes.earned_P[shape_K]
    if weights is not None:
        earned_K = earned_K - weights.rejection * missing_K - weights.format * fault_K
    hoped_K = share * (is_missing_KE @ odds.told_E)
    return Decisions(
        starts_K=starts_K,
        earned_K=earned_K,
        state_KF=np.column_stack(
            [
                _reachable(shapes, marks, points, prefixes, truth, odds, shape_K),
                missing_K,
                hoped_K,
                fault_K,
                (1.0 - fault_K) * odds.faulty,
            ]
        ),
    )


def _missing(shapes: Shapes, marks: Marks, truth: Truth, starts_K: np.ndarray) -> np.ndarray:
    """[K, E] which empty categories have not been given their `None`."""
    first_of = {name: at for at, name in zip(reversed(marks.absent), reversed(shapes.absent), strict=True)}
    told_E = np.array([first_of.get(name, np.inf) for name in truth.empty_categories])
    return starts_K[:, None] <= told_E


def _reachable(
    shapes: Shapes,
    marks: Marks,
    points: DecisionPoints,
    prefixes: Prefixes,
    truth: Truth,
    odds: Odds,
    shape_K: np.ndarray,
) -> np.ndarray:
    """[K, F] what is left to find, as the F1 that finding it would add, by the choice at hand; and what was found.

    Answers are written by first coordinate within a list: truths that lie before the last shape are passed over. So a
    list has truths ahead and passed, an answer lists to come and lists that are done.
    """
    num_true, is_free_KB = len(truth.labels), ~prefixes.is_matched_PB[shape_K]
    is_ahead_KB, is_later_KB = _ahead_and_later(shapes, marks, points, truth, shape_K)
    total_K = prefixes.total_P[shape_K]
    now_K = f1(total_K, shape_K, num_true)
    ahead_K, later_K = (is_free_KB & is_ahead_KB) @ odds.found_B, (is_free_KB & is_later_KB) @ odds.found_B
    with_ahead_K = f1(total_K + odds.quality * ahead_K, shape_K + ahead_K, num_true)
    all_K = ahead_K + later_K
    with_all_K = f1(total_K + odds.quality * all_K, shape_K + all_K, num_true)
    choice_KC = points.choices_K[:, None] == np.arange(len(Choice))
    hopes_K3 = np.stack([np.ones(len(now_K)), with_ahead_K - now_K, with_all_K - with_ahead_K], axis=1)
    by_choice_KF = (choice_KC[:, :, None] * hopes_K3[:, None]).reshape(len(now_K), -1)
    num_found_K = num_true - is_free_KB.sum(axis=1)
    surplus_K = np.minimum((shape_K - num_found_K) / max(1, num_true), 2.0)
    quality_K = total_K / np.maximum(num_found_K, 1)
    return np.column_stack([by_choice_KF, now_K, surplus_K, quality_K])


def _ahead_and_later(
    shapes: Shapes, marks: Marks, points: DecisionPoints, truth: Truth, shape_K: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """([K, B], [K, B]) truths that the list at hand can still reach, and those of lists to come."""
    first_B, last_N = truth.bins_NK[:, 0], np.concatenate([[-1], shapes.bins_NK[:, 0]])
    is_inside_K1 = np.isin(points.choices_K, _IN_LIST)[:, None]
    if truth.reads_text:  # each text has a list of its own, and all are in order
        is_ahead_KB = first_B >= last_N[shape_K][:, None]
        return is_ahead_KB & is_inside_K1, is_ahead_KB & ~is_inside_K1
    tokens = [token for token, _ in marks.phrases]
    list_K = np.searchsorted(tokens, points.starts_K)  # how many lists have their phrase
    codes = {label: code for code, label in enumerate(dict.fromkeys(truth.labels))}
    code_B = np.array([codes[label] for label in truth.labels], dtype=np.int64)
    code_S = np.array([-1, *(codes.get(label, -1) for _, label in marks.phrases)])
    is_of_SB = code_S[:, None] == code_B
    begun_K = np.array([0, *marks.last_N.searchsorted(tokens)])[list_K]
    last_K = np.where(shape_K > begun_K, last_N[shape_K], -1)  # of the list at hand
    is_ahead_KB = is_of_SB[list_K] & is_inside_K1 & (first_B >= last_K[:, None])
    return is_ahead_KB, ~np.logical_or.accumulate(is_of_SB, axis=0)[list_K]
