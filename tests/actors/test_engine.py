"""The engine thread: many prompts at once, and a step that fails without taking the worker with it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

from actors.rollout import RolloutWorker
from actors.rollout_pool import RolloutPool
from actors.worker import FolderWeights
from rex_rl.errors import RolloutError
from rex_rl.shapes.world import IMAGE_SIDE_PX, SceneKind, write_split
from rex_rl.types import Prompt, Sampling
from tests.engines import engine_options, one_thread, only_worker, prompt_for, start_pool

pytestmark = pytest.mark.engine

NUM_PROMPTS, NUM_ANSWERS = 16, 8
"""128 answers to prompts of about 90 tokens: more than the 8,192 tokens of one engine step."""
SAMPLING = Sampling(num_answers=NUM_ANSWERS, temperature=1.0, max_tokens=4, seed=1)


class FailingWorker(RolloutWorker):
    """A worker whose engine can be told to fail at its next step."""

    def fail_next_step(self) -> None:
        """Raise once in the middle of an engine step, as a library may."""

        def sabotage(engine: Any) -> None:
            step = engine.step

            def fail() -> None:
                engine.step = step
                step()
                raise RuntimeError("out of luck")

            engine.step = fail

        self._engine.call(sabotage)


@pytest.fixture(scope="module")
def pool(tiny_model: Path, ray_cluster: None) -> Iterator[RolloutPool]:
    kind = ray.remote(FailingWorker).options(num_cpus=0.1, max_concurrency=NUM_PROMPTS + 4, runtime_env=one_thread())
    options = replace(engine_options(tiny_model), max_sequences=NUM_PROMPTS * NUM_ANSWERS)
    started = start_pool(lambda name: kind.remote(name, options, mask_tokens=True))
    started.publish(FolderWeights())
    yield started
    started.close()


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    folder = tmp_path_factory.mktemp("scenes")
    write_split(folder, name="a", num_images=NUM_PROMPTS, seed=3, kind=SceneKind())
    return [prompt_for(path, (IMAGE_SIDE_PX, IMAGE_SIDE_PX)) for path in sorted((folder / "images").iterdir())]


def test_more_seeded_prompts_than_one_step_holds(pool: RolloutPool, prompts: list[Prompt]) -> None:
    """vLLM cut the prompt at the limit in two, then failed on its CPU generator: every answer in flight was lost."""
    tickets = [pool.submit(prompt, SAMPLING) for prompt in prompts]
    groups = [pool.result(ticket) for ticket in tickets]
    assert [len(group.answers) for group in groups] == [NUM_ANSWERS] * NUM_PROMPTS


def test_a_failed_step_costs_its_answers_and_nothing_else(pool: RolloutPool, prompts: list[Prompt]) -> None:
    """Whoever waited gets the error in its own words; the engine forgets those answers and serves the next ones."""
    ray.get(only_worker(pool).fail_next_step.remote())
    with pytest.raises(RolloutError, match="out of luck"):
        pool.result(pool.submit(prompts[0], SAMPLING))
    assert ray.get(only_worker(pool).heartbeat.remote()).num_waiting == 0
    for prompt in prompts[:2]:
        assert len(pool.result(pool.submit(prompt, SAMPLING)).answers) == NUM_ANSWERS
