"""What the tests of engines share."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from actors.rollout.pool import RolloutPool


@pytest.fixture(scope="session")
def engine_pool(tiny_model: Path, ray_cluster: None) -> Iterator[RolloutPool]:
    """A pool of one real engine, without weights until the first test publishes some."""
    from tests.support.engines import start_pool, start_worker

    started = start_pool(partial(start_worker, tiny_model))
    yield started
    started.close()
