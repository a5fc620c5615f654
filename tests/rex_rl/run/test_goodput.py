"""The time that counts as lost, on a clock set by hand."""

import pytest

from rex_rl.run.goodput import Goodput


class Clock:
    """A clock in seconds, set by hand."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def step(goodput: Goodput, clock: Clock, number: int, *, took_s: float) -> None:
    """A step that begins now."""
    clock.now_s += took_s
    goodput.step("sft", number, 9, {"data": 0.0, "learn": took_s})


@pytest.mark.parametrize("publishes", [True, False])
def test_a_repeated_step_its_loss_and_the_way_back_are_lost_and_nothing_else(publishes: bool) -> None:
    """Step 2 of 10 s is lost, 5 s of step 3 too, and the way back to step 1 takes 7 s: 22 s of 60. A stage that
    publishes weights reports when it is back; otherwise the next step's own seconds tell."""
    clock = Clock()
    goodput = Goodput(clock=clock)
    for number in (1, 2):
        step(goodput, clock, number, took_s=10)
    clock.now_s += 5
    goodput.lose(22, 24)  # a wait in the step that was lost anyway
    goodput.go_back("sft", 1)
    clock.now_s += 7
    assert goodput.share == pytest.approx(1 - 22 / 32)
    if publishes:
        goodput.resume()
    goodput.lose(33, 34)  # a wait in a step that counts
    for number in (2, 3):
        step(goodput, clock, number, took_s=14)
    assert clock.now_s == 60
    assert goodput.share == pytest.approx(1 - 23 / 60)


def test_without_a_step_to_go_back_to_the_loss_begins_when_it_is_noticed() -> None:
    """As in a stage's first step: the time before it was not part of the stage."""
    clock = Clock()
    goodput = Goodput(clock=clock)
    clock.now_s = 30
    goodput.go_back("grpo", 0)
    clock.now_s = 40
    goodput.resume()
    goodput.resume()
    assert goodput.share == 0.75
