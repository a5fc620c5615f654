"""Each term on its own: values at the edges, what it is divided by, what it must not look at."""

import numpy as np
import pytest

from rewards.records import RewardWeights
from rewards.terms import PENALTIES, count_error, excess, f1, is_giant, is_malformed, rejection, shape_terms, surplus

Names = tuple[str, ...]


@pytest.mark.parametrize(
    ("total", "num_predicted", "num_true", "expected"),
    [
        (0.0, 0, 0, 1.0),  # nothing true, nothing predicted
        (0.0, 3, 0, 0.0),  # nothing true, something predicted
        (0.0, 0, 3, 0.0),  # all missed
        (3.0, 3, 3, 1.0),
        (1.0, 1, 2, 2 / 3),
        (1.0, 50, 1, 2 / 51),
    ],
)
def test_f1_by_hand(total: float, num_predicted: int, num_true: int, expected: float) -> None:
    """2 * total / (predicted + true), with the empty truth defined."""
    assert f1(total, num_predicted, num_true) == expected


def test_penalties_are_divided_by_the_truth_and_stop_at_one() -> None:
    """Predicting more junk never dilutes a penalty."""
    np.testing.assert_array_equal(excess([0, 1, 2, 4, 400], 4), [0.0, 0.25, 0.5, 1.0, 1.0])
    np.testing.assert_array_equal(excess([0, 1], 0), [0.0, 1.0])
    np.testing.assert_array_equal(surplus([0, 4, 5, 8, 80], 4), [0.0, 0.0, 0.25, 1.0, 1.0])


def test_count_error_has_a_sign_and_no_weight() -> None:
    """It is logged with its sign and never paid for; missing shapes cost recall alone."""
    np.testing.assert_array_equal(count_error([0, 2, 6], 2), [-1.0, 0.0, 2.0])
    assert "count_error" not in PENALTIES
    assert not hasattr(RewardWeights(), "count_error")


def test_giant_is_more_than_95_percent_of_the_grid() -> None:
    """The full grid is 999 x 999 bins."""
    assert is_giant([999 * 999, 999 * 950, 999 * 949, 0]).tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [((), False), (("truncated",), False), (("zero_area",), True), (("truncated", "unknown_label"), True)],
)
def test_malformed_by_hand(faults: Names, expected: bool) -> None:
    """A fault other than truncation, which has a term of its own."""
    assert is_malformed(faults) is expected


@pytest.mark.parametrize(
    ("absent", "empty_categories", "expected"),
    [
        ((), (), 0.0),
        (("cat",), ("cat",), 0.0),
        ((), ("cat",), 1.0),
        (("cat",), ("cat", "dog"), 0.5),  # the None for dog is missing
        (("cat", "dog"), (), 0.0),  # None for a category with a truth costs recall alone
        (("unicorn",), ("cat", "dog"), 1.0),
    ],
)
def test_rejection_by_hand(absent: Names, empty_categories: Names, expected: float) -> None:
    """The share of the expected `None`s that are missing."""
    assert rejection(absent, empty_categories) == expected


def test_terms_of_arrays_are_the_terms_of_their_elements() -> None:
    """One call for all prefixes gives what one call each gives."""
    counts = [(0.0, 0, 0, 0), (0.7, 2, 1, 0), (2.5, 9, 3, 2)]
    total, num_predicted, num_duplicates, num_giants = np.array(counts).T
    terms = shape_terms(total, num_predicted, num_duplicates, num_giants, 3)
    for index, (total, num_predicted, num_duplicates, num_giants) in enumerate(counts):
        for name, value in shape_terms(total, num_predicted, num_duplicates, num_giants, 3).items():
            assert terms[name][index] == value
