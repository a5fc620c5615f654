"""The sync bench runs the learner's and the workers' own code, and what arrives is right."""

import pytest

from actors.bench.sync import NUM_WORKERS, bench_sync

pytestmark = pytest.mark.engine


def test_weights_arrive_at_every_worker(ray_cluster: None) -> None:
    """`bench_sync` raises where they do not; two matrices, one round."""
    (figure,) = bench_sync(num_bytes=16 * 2**20, rounds=1)
    assert figure.name == "sync_bandwidth"
    assert figure.value > 0
    assert figure.baseline is not None
    assert figure.ratio == pytest.approx(figure.value / figure.baseline)
    assert f"16 MiB to {NUM_WORKERS} workers" in figure.meaning
