"""The course of the learning rate: rises, then holds or falls, and is never zero; and what is due at which step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rex_rl.config.schema import SftConfig
from rex_rl.learning.schedule import due, learning_rate_factor

SCHEDULES = ("constant", "linear", "cosine")


def factors(num_steps: int, warmup_fraction: float, schedule: str) -> list[float]:
    config = SftConfig(num_steps=num_steps, warmup_fraction=warmup_fraction, schedule=schedule)
    return [learning_rate_factor(step, config) for step in range(num_steps)]


@given(st.integers(1, 200), st.floats(0, 1), st.sampled_from(SCHEDULES))
def test_it_rises_through_the_warm_up_and_never_again(num_steps: int, warmup_fraction: float, schedule: str) -> None:
    """In (0, 1], evenly up, then down or level; no step is lost to a rate of zero."""
    course = factors(num_steps, warmup_fraction, schedule)
    warmup = round(warmup_fraction * num_steps)
    assert all(0 < factor <= 1 for factor in course)
    assert course[:warmup] == pytest.approx([(step + 1) / (warmup + 1) for step in range(warmup)])
    assert all(later <= earlier for earlier, later in zip(course[warmup:], course[warmup + 1 :], strict=False))
    if warmup < num_steps:
        assert course[warmup] == 1


@pytest.mark.parametrize(
    ("schedule", "course"),
    [
        ("constant", [1, 1, 1, 1]),
        ("linear", [1, 0.75, 0.5, 0.25]),
        ("cosine", [1, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_schedules_by_hand(schedule: str, course: list[float]) -> None:
    assert factors(4, 0.0, schedule) == pytest.approx(course)


@pytest.mark.parametrize(("every", "steps"), [(0, [6]), (1, [1, 2, 3, 4, 5, 6]), (4, [4, 6]), (6, [6]), (9, [6])])
def test_due(every: int, steps: list[int]) -> None:
    assert [step for step in range(1, 7) if due(step, every=every, last=6)] == steps
