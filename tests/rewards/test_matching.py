"""The matching against exhaustive search."""

from itertools import permutations

import numpy as np
import pytest

from rewards.matching import UNMATCHED, best_assignment, best_total, first_choices, group_values, match


def _exhaustive(value_NB: np.ndarray) -> float:
    """Best total over every one-to-one assignment."""
    num_predicted, num_true = value_NB.shape
    if num_predicted > num_true:
        return _exhaustive(value_NB.T)
    rows = np.arange(num_predicted)
    totals = (value_NB[rows, list(columns)].sum() for columns in permutations(range(num_true), num_predicted))
    return max(float(total) for total in totals)


def _random_values(rng: np.random.Generator) -> np.ndarray:
    """Up to 5 x 5, a third zeros, some ties."""
    value_NB = np.round(rng.random((int(rng.integers(0, 6)), int(rng.integers(0, 6)))), 1)
    return value_NB * (rng.random(value_NB.shape) < 0.67)


def test_total_is_the_best_of_all_assignments() -> None:
    """500 small matrices, ties and empty ones included."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        value_NB = _random_values(rng)
        total, taken = best_assignment(value_NB)
        assert total == best_total(value_NB) == pytest.approx(_exhaustive(value_NB))
        assert taken <= set(np.flatnonzero(value_NB.any(axis=0)).tolist())


def test_matched_shapes_have_the_total_one_per_group_and_truth() -> None:
    """What `match` names as matched is one-to-one between groups and truths, and adds up to its total."""
    rng = np.random.default_rng(2)
    for _ in range(500):
        value_NB = _random_values(rng)
        root_N = np.arange(len(value_NB))
        for shape in range(1, len(root_N)):  # join some shapes to an earlier one's group
            if rng.random() < 0.4:
                root_N[shape] = root_N[rng.integers(shape)]
        found = match(value_NB, root_N)
        shapes = np.flatnonzero(found.truth_N != UNMATCHED)
        truths = found.truth_N[shapes]
        assert len(set(truths.tolist())) == len(truths)
        assert len(set(root_N[shapes].tolist())) == len(shapes)
        assert found.total == pytest.approx(value_NB[shapes, truths].sum())
        assert found.total == pytest.approx(_exhaustive(group_values(value_NB, root_N)))


def test_an_exact_duplicate_cannot_serve_a_second_truth() -> None:
    """The hand case that raises plain one-to-one F1 from 0.67 to 0.80 (one box over two overlapping truths)."""
    value_NB = np.array([[1.0, 0.6], [1.0, 0.6]])
    assert best_total(value_NB) == 1.6
    found = match(value_NB, np.array([0, 0]))
    assert found.total == 1.0
    assert found.truth_N.tolist() == [0, UNMATCHED]


def test_first_choices_without_a_contest_are_the_best_matching() -> None:
    """For stacks of small matrices: contested exactly where two rows' first best truth is the same, else optimal."""
    rng = np.random.default_rng(3)
    plain = 0
    for _ in range(200):
        stack_G = [(rng.random(size) * (rng.random(size) < 0.4)).round(1) for size in rng.integers(0, 6, (6, 2))]
        ends = np.cumsum([0, *map(len, stack_G)]).tolist()
        answer_A = np.repeat(np.arange(6), [*map(len, stack_G)])
        pairs_G3L = [(*np.nonzero(value_NB), value_NB[value_NB > 0.0]) for value_NB in stack_G]
        predicted_L = np.concatenate(
            [predicted + start for (predicted, _, _), start in zip(pairs_G3L, ends[:-1], strict=True)]
        )
        true_L, value_L = (np.concatenate([pairs[place] for pairs in pairs_G3L]) for place in (1, 2))
        choice_A, best_A, contested_G = first_choices(predicted_L, true_L, value_L, answer_A, 6)
        for value_NB, start, contested in zip(stack_G, ends[:-1], contested_G, strict=True):
            rows = slice(start, start + len(value_NB))
            wanted = [int(row.argmax()) if row.any() else UNMATCHED for row in value_NB]
            assert choice_A[rows].tolist() == wanted
            assert best_A[rows].tolist() == value_NB.max(axis=1, initial=0.0).tolist()
            taken = [truth for truth in wanted if truth != UNMATCHED]
            assert contested == (len(taken) > len(set(taken)))
            if not contested:
                plain += 1
                assert best_A[rows].sum() == pytest.approx(best_total(value_NB))
    assert plain > 200


def test_a_group_has_the_value_of_its_best_member() -> None:
    """Against the definition, for random groups named by their first member."""
    rng = np.random.default_rng(4)
    for _ in range(200):
        value_NB = _random_values(rng)
        root_N = np.arange(len(value_NB))
        for shape in range(1, len(root_N)):
            if rng.random() < 0.5:
                root_N[shape] = root_N[rng.integers(shape)]
        group_NB = group_values(value_NB, root_N)
        for shape, root in enumerate(root_N.tolist()):
            expected_B = value_NB[root_N == shape].max(axis=0) if root == shape else np.zeros(value_NB.shape[1])
            assert group_NB[shape].tolist() == expected_B.tolist()
