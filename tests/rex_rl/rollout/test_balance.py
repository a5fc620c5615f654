"""Loads over a window, and how many workers would balance a run."""

from rex_rl.rollout.balance import Load, balanced_rollouts


def load(rollout_busy_s: float, learn_s: float, *, num_rollouts: int = 2) -> Load:
    """Ten seconds of a run."""
    return Load(seconds=10.0, rollout_busy_s=rollout_busy_s, num_rollouts=num_rollouts, learn_s=learn_s, num_tokens=500)


def test_a_window_is_the_difference_of_two_moments() -> None:
    """What happened before the window does not count."""
    now = Load(seconds=110.0, rollout_busy_s=52.0, num_rollouts=2, learn_s=33.0, num_tokens=1500)
    before = Load(seconds=100.0, rollout_busy_s=36.0, num_rollouts=1, learn_s=31.0, num_tokens=1000)
    assert now.since(before) == load(16.0, 2.0)
    assert load(16.0, 2.0).tokens_per_s == 50.0


def test_waiting_rollouts_are_too_many_and_a_waiting_learner_needs_more() -> None:
    """Synchronous: 2 workers are busy 8 of 10 s, the learner 2; with 8 workers each side would take 2 s a step."""
    assert balanced_rollouts(load(16.0, 2.0), num_now=2) == 8
    assert balanced_rollouts(load(4.0, 8.0), num_now=2) == 1
    assert balanced_rollouts(load(10.0, 5.0), num_now=2) == 2


def test_nothing_is_advised_where_nothing_is_known() -> None:
    """Before the first step, and in SFT, which has no rollout."""
    assert balanced_rollouts(load(0.0, 5.0), num_now=2) is None
    assert balanced_rollouts(load(5.0, 0.0), num_now=2) is None
    nothing = load(1.0, 1.0).since(load(1.0, 1.0))
    assert (nothing.tokens_per_s, nothing.rollout_share, nothing.learner_share) == (0.0, 0.0, 0.0)
