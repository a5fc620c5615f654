"""Real reward workers: rewards in the order of the groups, and faults of a user's own term."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
import ray

from actors.cluster.handles import RayRewardPool
from actors.cluster.reward_worker import RewardWorker
from rex_rl.config.reward import RewardConfig
from rex_rl.errors import RunError
from rex_rl.policy.model_folder import resolve_model
from rex_rl.scoring.reward_rule import RewardRule
from rex_rl.types import Group
from tests.support import fakes

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("ray_cluster")]


@contextmanager
def pool_with(*terms: str, num_workers: int = 1, timeout_s: float = 60.0) -> Iterator[RayRewardPool]:
    """Workers whose reward has these terms of tests/support/own_terms.py on top."""
    custom = {name: {"function": f"tests.support.own_terms:{name}"} for name in terms}
    rule = RewardRule(RewardConfig.model_validate({"custom": custom, "allow": ["tests.support.own_terms"]}))
    kind = ray.remote(num_cpus=0.1, max_restarts=-1, max_task_retries=1)(RewardWorker)
    workers = [kind.remote(str(resolve_model("tiny")), rule, with_credit=False) for _ in range(num_workers)]
    yield RayRewardPool(workers, timeout_s=timeout_s)
    for worker in workers:
        ray.kill(worker)


def some_groups(num_groups: int) -> Sequence[Group]:
    """Groups of different sizes, so that the size identifies the group."""
    return [fakes.group(f"prompt-{i}", lengths=[3] * (i + 1)) for i in range(num_groups)]


@pytest.mark.parametrize("num_groups", [1, 2, 5])
def test_rewards_come_in_the_order_of_the_groups(num_groups: int) -> None:
    """With two workers, of which one gets nothing where there is one group."""
    with pool_with("share_known", num_workers=2) as pool:
        scores_P = pool.score(some_groups(num_groups))
    assert [len(scores.total_G) for scores in scores_P] == list(range(1, num_groups + 1))
    assert all(np.isfinite(scores.terms_G["share_known"]).all() for scores in scores_P)


def test_a_term_that_waits_ends_the_run_with_the_key_that_says_so() -> None:
    with pool_with("waits", timeout_s=2) as pool, pytest.raises(RunError, match=r"reward_workers.timeout_s = 2: "):
        pool.score(some_groups(1))


def test_a_term_that_ends_its_process_ends_the_run() -> None:
    """Ray starts the worker anew and repeats its slice, but not for ever."""
    with pool_with("dies") as pool, pytest.raises(RunError, match=r"a reward worker died over its answers each time"):
        pool.score(some_groups(1))


def test_a_term_that_gives_no_reward_comes_as_the_error_it_is() -> None:
    with pool_with("too_much") as pool, pytest.raises(RunError, match=r"reward.custom.too_much: gave 1.5, not"):
        pool.score(some_groups(1))
