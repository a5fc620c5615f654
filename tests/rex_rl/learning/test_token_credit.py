"""Credit of each shape on its tokens, and on the decisions that led to it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.learning.token_credit import CREDIT_OVER, answer_credit, decision_credit

CREDITS_N = st.lists(st.floats(-1, 1), max_size=6).map(np.array)
PHRASE = 3
"""Tokens of a list's label and its delimiters, without the one in the first shape's span."""
SHAPE = 5


def lists(*num_shapes: int) -> np.ndarray:
    """[N, 2] spans of an answer of lists: a phrase, shapes with what precedes each, an end delimiter, a separator."""
    spans, at = [], 0
    for num in num_shapes:
        spans += [(at + PHRASE + SHAPE * i, at + PHRASE + SHAPE * (i + 1)) for i in range(num)]
        at += PHRASE + SHAPE * num + 2
    return np.array(spans, dtype=np.int64).reshape(-1, 2)


@given(CREDITS_N, st.integers(0, 5))
def test_over_an_answer_credit_moves_reward_between_shapes_alone(credits_N: np.ndarray, num_more: int) -> None:
    """It adds none; a better shape's tokens get more, and tokens of no shape get nothing."""
    spans_N2, end = lists(credits_N.size), PHRASE + SHAPE * credits_N.size
    (credit_T,) = answer_credit([credits_N], [spans_N2], [end + num_more])
    assert credit_T.sum() == pytest.approx(0, abs=1e-9)
    assert not credit_T[np.r_[:PHRASE, end : credit_T.size]].any()
    at_shapes_N = np.array([credit_T[start] for start, _ in spans_N2])
    assert np.allclose(at_shapes_N - at_shapes_N[:1], credits_N - credits_N[:1])


@given(st.lists(CREDITS_N, min_size=1, max_size=4))
def test_over_decisions_a_token_is_compared_with_those_of_its_kind(credits: list[np.ndarray]) -> None:
    """Each kind sums to zero over the group: shapes' tokens, and the delimiters that go on to one or stop."""
    spans_GN2 = [lists(credits_N.size) for credits_N in credits]
    lengths_G = [PHRASE + SHAPE * credits_N.size + 2 for credits_N in credits]
    rows = decision_credit(credits, spans_GN2, lengths_G)
    assert [row.size for row in rows] == lengths_G
    labels, shapes, goes_on, stops = [], [], [], []
    for credit_T, spans_N2 in zip(rows, spans_GN2, strict=True):
        starts_N, ends_N = spans_N2.T
        labels += credit_T[:PHRASE].tolist()
        shapes += [credit for start, end in spans_N2 for credit in credit_T[start + 1 : end]]
        shapes += credit_T[starts_N[:1]].tolist()
        goes_on += credit_T[starts_N[1:]].tolist()
        stops += credit_T[ends_N[-1:]].tolist()
        assert not credit_T[-1:].any()
    for of_a_kind in (labels, shapes, goes_on + stops):
        assert sum(of_a_kind) == pytest.approx(0, abs=1e-9)
    assert np.allclose(
        np.array(goes_on) - np.array(stops[:1]), [credit for credits_N in credits for credit in credits_N[1:]]
    )


def test_stopping_is_blamed_where_going_on_earns_and_praised_where_it_repeats() -> None:
    """One answer goes on where the other stops; its second shape is right, or a duplicate."""
    for second in (0.5, -0.5):
        rows = decision_credit([np.array([0.5, second]), np.array([0.5])], [lists(2), lists(1)], [15, 10])
        goes_on, stops = rows[0][PHRASE + SHAPE], rows[1][PHRASE + SHAPE]
        assert np.sign([goes_on, stops]).tolist() == [np.sign(second), -np.sign(second)]


def test_a_list_begun_a_second_time_is_blamed_as_a_whole_from_its_separator_on() -> None:
    """The delimiter that ended the list before did nothing wrong, and the answer that ended there did right."""
    spans_GN2 = [lists(2, 2), lists(2)]
    again, once = decision_credit([np.array([0.5, 0.5, -0.5, -0.25]), np.array([0.5, 0.5])], spans_GN2, [30, 15])
    stop, next_list, phrase = 13, 14, slice(15, 15 + PHRASE)
    assert again[stop] == once[stop]
    assert (again[next_list], once[next_list]) == pytest.approx((-0.5, 0.25))
    assert (again[phrase] < 0).all()


def test_an_answer_that_the_limit_cut_has_not_decided_to_stop() -> None:
    (credit_T,) = decision_credit([np.array([0.5, 0.5])], [lists(2)], [PHRASE + 2 * SHAPE])
    assert credit_T == pytest.approx(0)


@pytest.mark.parametrize("over", CREDIT_OVER)
def test_answers_without_shapes_have_no_credit(over: str) -> None:
    rows = CREDIT_OVER[over]([np.zeros(0), np.zeros(0)], [lists(0), lists()], [4, 0])
    assert [row.tolist() for row in rows] == [[0.0] * 4, []]
