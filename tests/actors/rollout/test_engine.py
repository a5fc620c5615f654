"""The engine thread: many prompts at once, and a step that fails without taking the worker with it."""

from dataclasses import replace
from pathlib import Path

import pytest
import ray

from actors.bench.rollout import image_tokens_computed
from actors.rollout.pool import RolloutPool
from actors.weights.published import FolderWeights
from rex_rl.errors import RolloutError, SyncError
from rex_rl.language.repeats import RepeatWatch
from rex_rl.language.tasks import chat_prompt
from rex_rl.language.vocabulary import load_vocabulary
from rex_rl.learning.batch import IMAGE_TOKEN_PX
from rex_rl.shapes.world import IMAGE_SIDE_PX, write_split
from rex_rl.types import Answer, FinishReason, Prompt, Sampling
from tests.support.engines import only_worker, prompt_for

pytestmark = pytest.mark.engine

NUM_PROMPTS, NUM_ANSWERS = 16, 8
"""128 answers to prompts of about 90 tokens: more than the 8,192 tokens of one engine step."""
SAMPLING = Sampling(num_answers=NUM_ANSWERS, temperature=1.0, max_tokens=4, seed=1)


@pytest.fixture(scope="module")
def pool(engine_pool: RolloutPool) -> RolloutPool:
    """Serves the weights of the model folder."""
    engine_pool.publish(FolderWeights())
    return engine_pool


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> list[Prompt]:
    folder = tmp_path_factory.mktemp("scenes")
    write_split(folder, name="a", num_images=NUM_PROMPTS, seed=3)
    return [prompt_for(path, (IMAGE_SIDE_PX, IMAGE_SIDE_PX)) for path in sorted((folder / "images").iterdir())]


def test_a_fresh_worker_refuses_to_serve_base_weights(engine_pool: RolloutPool, prompts: list[Prompt]) -> None:
    """The pool never asks such a worker; if it did, the worker would refuse. The first test here: later ones sync."""
    sampling = Sampling(num_answers=1, temperature=0.0, max_tokens=4, seed=0)
    with pytest.raises(SyncError, match="before its first weight sync"):
        ray.get(only_worker(engine_pool).generate.remote(prompts[0], sampling))


def test_more_seeded_prompts_than_one_step_holds(pool: RolloutPool, prompts: list[Prompt]) -> None:
    """vLLM once cut the prompt at the limit in two and failed on its CPU generator; all answers in flight were lost."""
    tickets = [pool.submit(prompt, SAMPLING) for prompt in prompts]
    groups = [pool.result(ticket) for ticket in tickets]
    assert [len(group.answers) for group in groups] == [NUM_ANSWERS] * NUM_PROMPTS


def test_a_failed_step_costs_its_answers_and_nothing_else(pool: RolloutPool, prompts: list[Prompt]) -> None:
    """Whoever waited gets the error with its message; the engine drops those answers and serves the next ones."""
    ray.get(only_worker(pool).fail_next_step.remote())
    with pytest.raises(RolloutError, match="out of luck"):
        pool.result(pool.submit(prompts[0], SAMPLING))
    assert ray.get(only_worker(pool).heartbeat.remote()).num_waiting == 0
    for prompt in prompts[:2]:
        assert len(pool.result(pool.submit(prompt, SAMPLING)).answers) == NUM_ANSWERS


def test_answers_that_loop_end_alone(pool: RolloutPool, prompts: list[Prompt], tiny_model: Path) -> None:
    """Each ends at the token that decides it and keeps all before; other answers, of its group too, are unchanged."""
    vocabulary, limit, worker = load_vocabulary(tiny_model), 2, only_worker(pool)
    free = Sampling(num_answers=NUM_ANSWERS, temperature=1.0, max_tokens=40, seed=1)
    # Each about as likely, as the weights are random.
    ray.get(worker.say_only.remote("<5>", "<|box_start|>"))
    groups: list[tuple[tuple[Answer, ...], tuple[Answer, ...]]] = []
    for sampling in (free, replace(free, num_answers=1)):
        watched = answered(pool, prompts[:4], replace(sampling, max_repeats=limit))
        groups += zip(watched, answered(pool, prompts[:4], sampling), strict=True)
    for short, whole in [pair for ours, theirs in groups for pair in zip(ours, theirs, strict=True)]:
        length, watch = short.tokens_T.size, RepeatWatch(vocabulary, limit=limit)
        assert short.tokens_T.tolist() == whole.tokens_T[:length].tolist()
        assert short.logprobs_T == pytest.approx(whole.logprobs_T[:length], abs=1e-5)
        assert short.versions_T.tolist() == [0] * length
        assert not any(watch.is_looping(short.tokens_T[:i].tolist()) for i in range(1, length))
        if short.finish_reason is FinishReason.LOOPED:
            assert watch.is_looping(short.tokens_T.tolist())
        else:
            assert length == whole.tokens_T.size
    reasons = [{answer.finish_reason for answer in ours} for ours, _ in groups]
    assert {FinishReason.LOOPED, FinishReason.LENGTH} in reasons, "no group in which some loop and some do not"
    assert ray.get(worker.say_anything.remote()) == 0, "vLLM still keeps something of them"


def answered(pool: RolloutPool, prompts: list[Prompt], sampling: Sampling) -> list[tuple[Answer, ...]]:
    """The answers to prompts submitted at once."""
    return [pool.result(ticket).answers for ticket in [pool.submit(prompt, sampling) for prompt in prompts]]


def test_a_watched_group_computes_its_image_once(pool: RolloutPool, prompts: list[Prompt], tiny_model: Path) -> None:
    """A group is still one request whose answers share the prompt; each answer can be ended."""
    vocabulary, worker = load_vocabulary(tiny_model), only_worker(pool)
    ray.get(worker.forget.remote())
    ray.get(worker.watch.remote())
    answered(pool, prompts[:4], replace(SAMPLING, max_repeats=1))
    lookups, num_encoded = ray.get(worker.counts.remote())
    before = vocabulary.encode(chat_prompt(prompts[0].question)).index(vocabulary.image_pad_id)
    image_tokens = (IMAGE_SIDE_PX // IMAGE_TOKEN_PX) ** 2
    computed = [image_tokens_computed(hits, before=before, image_tokens=image_tokens) for _, hits in lookups]
    assert len(computed) == 4 * NUM_ANSWERS
    assert sum(computed) == 4 * image_tokens
    assert num_encoded == 4
