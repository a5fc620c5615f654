"""The feed: oldest first, never staler than allowed, resumable by one number, and failures are counted."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rex_rl.config.schema import GrpoConfig
from rex_rl.data.stream import PromptStream
from rex_rl.errors import RolloutError, StalenessError
from rex_rl.rollout.feed import RolloutFeed, sampling_seed
from tests.support import fakes

PROMPTS = 4
STREAM = PromptStream(records=[fakes.record(f"r{i}") for i in range(6)], seed=0)


def make_feed(
    pool: fakes.FakePool, *, max_staleness: int = 0, max_failed_fraction: float = 0.5, num_steps: int = 2000
) -> RolloutFeed:
    settings = GrpoConfig(
        num_steps=num_steps,
        prompts_per_step=PROMPTS,
        group_size=3,
        temperature=0.7,
        max_answer_tokens=99,
        max_staleness=max_staleness,
        max_failed_fraction=max_failed_fraction,
        max_repeats=7,
    )
    return RolloutFeed(pool, STREAM, settings, seed=5)


def run(feed: RolloutFeed, pool: fakes.FakePool, *, first: int, last: int) -> list[tuple[int, list[str], int]]:
    """The loop's own order, publish -> open -> take; returns (version, uids, most versions behind) of every step."""
    steps = []
    pool.version = first
    feed.open(first)
    for version in range(first, last):
        groups = feed.take(version)
        behind = max(version - answer.oldest_version for group in groups for answer in group.answers)
        steps.append((version, [group.prompt.uid for group in groups], behind))
        pool.version = version + 1
        feed.open(version + 1)
    return steps


def uids(first: int, count: int) -> list[str]:
    return [prompt.uid for prompt in STREAM.prompts(first, count)]


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_groups_come_in_the_streams_order_and_within_the_bound(max_staleness: int) -> None:
    """Every prompt once; the bound is reached (rollout runs ahead as far as it may) and never passed."""
    pool = fakes.FakePool()
    steps = run(make_feed(pool, max_staleness=max_staleness), pool, first=0, last=8)
    assert [uid for _, names, _ in steps for uid in names] == uids(0, 8 * PROMPTS)
    assert [behind for _, _, behind in steps] == [min(version, max_staleness) for version in range(8)]
    assert pool.most_in_flight == (max_staleness + 1) * PROMPTS


@given(st.integers(0, 3), st.integers(0, 10))
@hypothesis_settings(max_examples=40, deadline=None)
def test_a_resumed_feed_goes_on_where_it_was(max_staleness: int, version: int) -> None:
    """At version v the first v * P prompts are used, whatever was in flight when the run stopped."""
    pool = fakes.FakePool()
    steps = run(make_feed(pool, max_staleness=max_staleness), pool, first=version, last=version + 3)
    assert [uid for _, names, _ in steps for uid in names] == uids(version * PROMPTS, 3 * PROMPTS)


def test_opening_twice_dispatches_once() -> None:
    pool = fakes.FakePool()
    pool.version = 0
    feed = make_feed(pool, max_staleness=1)
    feed.open(0)
    feed.open(0)
    assert [uid for uid, _ in pool.submitted] == uids(0, 2 * PROMPTS)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_nothing_is_dispatched_that_no_step_would_learn_from(max_staleness: int) -> None:
    """Otherwise the last evaluation would wait behind answers that nobody takes."""
    pool = fakes.FakePool()
    run(make_feed(pool, max_staleness=max_staleness, num_steps=5), pool, first=0, last=5)
    assert [uid for uid, _ in pool.submitted] == uids(0, 5 * PROMPTS)
    assert pool.num_in_flight == 0


def test_a_prompt_is_sampled_alike_in_every_run() -> None:
    """Seeds depend on the run's seed and the prompt, not on which worker answers or what ran before."""
    pools = fakes.FakePool(), fakes.FakePool()
    run(make_feed(pools[0]), pools[0], first=0, last=3)
    run(make_feed(pools[1], max_staleness=1), pools[1], first=2, last=3)
    first, resumed = (dict(pool.submitted) for pool in pools)
    assert [first[uid] for uid in uids(2 * PROMPTS, PROMPTS)] == [resumed[uid] for uid in uids(2 * PROMPTS, PROMPTS)]
    sampling = first[uids(0, 1)[0]]
    assert (sampling.num_answers, sampling.temperature, sampling.max_tokens, sampling.max_repeats) == (3, 0.7, 99, 7)
    assert len({sampling.seed for sampling in first.values()}) == len(first)
    assert 0 <= sampling_seed(2**32, "x") < 2**32


def test_a_failed_group_is_dispatched_again_and_counted() -> None:
    """It is counted by cause, the order stays, and a failed group is never handed out."""
    bad = uids(1, 1)[0]
    pool = fakes.FakePool(failures={bad: 2})
    feed = make_feed(pool)
    steps = run(feed, pool, first=0, last=1)
    assert steps[0][1] == uids(0, PROMPTS)
    assert feed.failures == {"TimeoutError": 2}
    assert [uid for uid, _ in pool.submitted].count(bad) == 3
    seeds = {sampling.seed for uid, sampling in pool.submitted if uid == bad}
    assert len(seeds) == 1, "a second attempt draws the same answers"


def test_too_many_failures_stop_the_run() -> None:
    """The message names the group, what went wrong, the count and the limit."""
    pool = fakes.FakePool(failures={uids(0, 1)[0]: 10**6})
    feed = make_feed(pool, max_failed_fraction=0.3)
    with pytest.raises(RolloutError, match=r"r\d: rollout-0: .* went wrong; 4 failures in 4 groups .* = 0\.3 allows"):
        run(feed, pool, first=0, last=1)
    assert not pool.results


def test_none_allowed_means_none() -> None:
    pool = fakes.FakePool(failures={uids(0, 1)[0]: 1})
    with pytest.raises(RolloutError):
        run(make_feed(pool, max_failed_fraction=0.0), pool, first=0, last=1)


def test_every_failure_allowed_still_ends() -> None:
    """A prompt that can never be answered must not be tried for ever."""
    pool = fakes.FakePool(failures={uids(0, 1)[0]: 10**6})
    with pytest.raises(RolloutError):
        run(make_feed(pool, max_failed_fraction=1.0), pool, first=0, last=1)


def test_the_limit_counts_what_this_process_dispatched() -> None:
    """In a run resumed at version 1,000, the 4,000 prompts before it do not allow more failures."""
    pool = fakes.FakePool(failures={uids(1000 * PROMPTS, 1)[0]: 6})
    with pytest.raises(RolloutError, match="6 failures in 4 groups"):
        run(make_feed(pool), pool, first=1000, last=1001)


def test_only_a_rollout_error_is_survived() -> None:
    """A bug is not a failed group: it ends the run with its own error."""

    class Broken(fakes.FakePool):
        def result(self, ticket: object) -> fakes.Group:
            raise KeyError("bug")

    pool = Broken()
    with pytest.raises(KeyError):
        run(make_feed(pool), pool, first=0, last=1)


def test_an_answer_older_than_allowed_stops_the_run() -> None:
    """The check looks at the answers' versions, not at the feed's own count, in case a worker serves old weights."""
    pool = fakes.FakePool()
    feed = make_feed(pool, max_staleness=1)
    pool.version = 3
    feed.open(5)
    with pytest.raises(StalenessError, match="written 2 versions ago, max_staleness is 1"):
        feed.take(5)
