"""The rollout bench: both sides answer, and a group's image is computed once."""

import pytest

from actors.bench.rollout import bench_rollout

pytestmark = pytest.mark.engine


def test_worker_and_bare_engine_answer_and_an_image_is_computed_once(ray_cluster: None) -> None:
    """By the engine's own counters: one image's tokens prefilled and one image encoded for eight answers."""
    efficiency, prefill, encodings = bench_rollout(num_prompts=2, rounds=1)
    assert efficiency.name == "rollout_efficiency"
    assert efficiency.ratio is not None
    assert efficiency.ratio > 0
    assert (prefill.name, prefill.ratio, prefill.baseline) == ("prefill_per_group", 1.0, 49.0)
    assert "8 lookups in the prefix cache a group" in prefill.meaning
    assert encodings.value == 1.0
