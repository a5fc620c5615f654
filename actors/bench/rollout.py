"""`rex-rl bench rollout`: answers through a rollout worker against a bare vLLM engine, and what a group's image costs.

One engine is driven in two ways by turns. Bare: by a plain loop in its own process, over images already opened and
prompts already in tokens. As in a run: timed from the driver's `submit` to the last `result`. Its caches are emptied
before every round. A second engine in a process of its own would be no baseline: two processes that do the same work
differ by 5 % either way for as long as they live.
"""

import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.bench.setup import BenchCluster, bench_config, local_cluster
from actors.rollout.worker import RolloutWorker
from rex_rl.bench.figure import Figure
from rex_rl.data.images import open_image
from rex_rl.data.splits import load_split
from rex_rl.data.stream import evaluation_prompts
from rex_rl.language.tasks import chat_prompt
from rex_rl.language.vocabulary import Vocabulary, load_vocabulary
from rex_rl.learning.batch import IMAGE_TOKEN_PX
from rex_rl.policy.model_folder import SHIPPED_BASE
from rex_rl.shapes.world import IMAGE_SIDE_PX
from rex_rl.types import Prompt, Sampling

GROUP_SIZE = 8
NUM_PROMPTS = 16
MAX_SEQUENCES = 64
MAX_ANSWER_TOKENS = 160
ROUNDS = 24
"""A single round is off by 10 % either way on a shared machine."""


class Lookups:
    """Replaces an engine's statistics of its prefix cache; keeps every lookup instead of sums."""

    reset = False

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        """(tokens of the prompt, tokens of it that were cached)."""

    def record(self, num_tokens: int, num_hits: int, preempted: bool, hits_by_source: object = None) -> None:
        """Called by vLLM's `KVCacheManager` once a request."""
        self.seen.append((num_tokens, num_hits))


class CountedWorker(RolloutWorker):
    """A rollout worker whose engine's caches can be emptied and watched."""

    _lookups = Lookups()
    _num_encoded = 0

    def forget(self) -> None:
        """Empty the caches."""
        self._engine.call(forget)

    def watch(self) -> None:
        """From here on, count lookups in the prefix cache and images that the scheduler gives to the encoder."""
        self._engine.call(self._watch)

    def bare_tokens_per_s(self, prompts: Sequence[Prompt], sampling: Sampling) -> float:
        """Tokens a second of the engine alone, without any code of ours around it."""
        return self._engine.call(lambda engine: bare_tokens_per_s(engine, self._vocabulary, prompts, sampling))

    def counts(self) -> tuple[list[tuple[int, int]], int]:
        """((tokens, cached tokens) of every lookup, images encoded) since `watch`."""
        return self._engine.call(lambda engine: (self._lookups.seen, self._num_encoded))

    def _watch(self, engine: Any) -> None:
        scheduler = engine.engine_core.engine_core.scheduler  # in this process, so its parts can be reached
        self._lookups, self._num_encoded = Lookups(), 0
        manager, encoder = scheduler.kv_cache_manager, scheduler.encoder_cache_manager
        manager.log_stats, manager.prefix_cache_stats = True, self._lookups
        allocate = encoder.allocate

        def counted(*args: Any, **kwargs: Any) -> Any:
            self._num_encoded += 1
            return allocate(*args, **kwargs)

        encoder.allocate = counted


def bare_tokens_per_s(engine: Any, vocabulary: Vocabulary, prompts: Sequence[Prompt], sampling: Sampling) -> float:
    """Tokens a second of plain vLLM: add all requests, then step until none is left; timed from first to last."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    images = [open_image(prompt.record.image, size=prompt.record.size) for prompt in prompts]
    ids = [vocabulary.encode(chat_prompt(prompt.question)) for prompt in prompts]
    params = SamplingParams(
        n=sampling.num_answers,
        temperature=sampling.temperature,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        stop_token_ids=[vocabulary.answer_end_id],
        allowed_token_ids=vocabulary.sampled_ids.tolist(),
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,  # as vLLM's own `LLM.generate` asks
    )
    forget(engine)
    begun, last = time.perf_counter(), {}
    for number, (prompt_ids, image) in enumerate(zip(ids, images, strict=True)):
        asked = {"prompt_token_ids": prompt_ids, "multi_modal_data": {"image": image}}
        engine.add_request(f"{begun}/{number}", asked, params)
    while engine.has_unfinished_requests():
        last.update({output.request_id: output for output in engine.step()})
    taken_s = time.perf_counter() - begun
    return sum(len(answer.token_ids) for output in last.values() for answer in output.outputs) / taken_s


def forget(engine: Any) -> None:
    """Empty an engine's prefix, image and encoder caches."""
    engine.reset_prefix_cache()
    engine.reset_mm_cache()
    engine.reset_encoder_cache()


def bench_rollout(*, num_prompts: int = NUM_PROMPTS, rounds: int = ROUNDS) -> list[Figure]:
    """Tokens a second against the bare engine's, and how often a group's image is computed."""
    with tempfile.TemporaryDirectory() as root, local_cluster():
        config = bench_config(
            "bench-rollout",
            Path(root),
            rollout={"num_cpus": 0.1, "max_sequences": MAX_SEQUENCES, "kv_cache_gib": 0.5, "max_model_len": 512},
            grpo={"prompts_per_step": num_prompts, "group_size": GROUP_SIZE, "max_answer_tokens": MAX_ANSWER_TOKENS},
            data={"train": "shapes", "shapes": {"num_train": max(2, num_prompts), "num_heldout": 2}},
            evaluation={"num_images": 2, "max_answer_tokens": MAX_ANSWER_TOKENS},
        )
        prompts = evaluation_prompts(load_split(config).train)[:num_prompts]
        cluster = BenchCluster(config, str(SHIPPED_BASE), roles=("rollout",), kinds={RolloutWorker: CountedWorker})
        with contextlib.closing(cluster):
            cluster.serve_folder()
            return [_efficiency(cluster, prompts, rounds), *_image_work(cluster, prompts)]


def _efficiency(cluster: BenchCluster, prompts: Sequence[Prompt], rounds: int) -> Figure:
    worker, ours, theirs = _worker(cluster), [], []
    for number in range(rounds + 1):
        theirs.append(ray.get(worker.bare_tokens_per_s.remote(prompts, _sampling(number))))
        ours.append(_tokens_per_s(cluster, prompts, _sampling(number)))
    # Harmonic: over the seconds of all rounds, as their answers are the same. The first round compiles.
    value, baseline = statistics.harmonic_mean(ours[1:]), statistics.harmonic_mean(theirs[1:])
    return Figure(
        name="rollout_efficiency",
        value=value,
        unit="tokens/s",
        baseline=baseline,
        ratio=value / baseline,
        meaning=f"{len(prompts)} prompts x {GROUP_SIZE} answers through worker and pool; baseline: the bare engine",
    )


def _image_work(cluster: BenchCluster, prompts: Sequence[Prompt]) -> list[Figure]:
    """How often a group's image goes through the language model and the vision tower."""
    worker = _worker(cluster)
    ray.get(worker.forget.remote())
    ray.get(worker.watch.remote())
    _tokens_per_s(cluster, prompts, _sampling(0), forget_first=False)
    lookups, num_encoded = ray.get(worker.counts.remote())
    vocabulary = load_vocabulary(SHIPPED_BASE)
    ids = vocabulary.encode(chat_prompt(prompts[0].question))
    before = ids.index(vocabulary.image_pad_id)  # the chat frame: the same in every prompt, as is the image's size
    patches = (IMAGE_SIDE_PX // IMAGE_TOKEN_PX) ** 2
    computed = sum(image_tokens_computed(hits, before=before, image_tokens=patches) for _, hits in lookups)
    requests = len(lookups) / len(prompts)
    return [
        Figure(
            name="prefill_per_group",
            value=computed / len(prompts),
            unit="image tokens",
            baseline=float(patches),
            ratio=computed / len(prompts) / patches,
            meaning=f"computed for {GROUP_SIZE} answers ({requests:g} lookups in the prefix cache a group); baseline: "
            f"one image's tokens",
        ),
        Figure(
            name="encodings_per_group",
            value=num_encoded / len(prompts),
            unit="images",
            baseline=1.0,
            ratio=num_encoded / len(prompts),
            meaning="images the scheduler gave to the vision tower; baseline: one a group",
        ),
    ]


def image_tokens_computed(num_hits: int, *, before: int, image_tokens: int) -> int:
    """Tokens of an image that `num_hits` cached tokens do not cover; the image starts after `before` tokens.

    >>> [image_tokens_computed(hits, before=14, image_tokens=49) for hits in (0, 32, 64)]
    [49, 31, 0]
    """
    return min(image_tokens, max(0, before + image_tokens - num_hits))


def _tokens_per_s(
    cluster: BenchCluster, prompts: Sequence[Prompt], sampling: Sampling, *, forget_first: bool = True
) -> float:
    if forget_first:
        ray.get(_worker(cluster).forget.remote())
    begun = time.perf_counter()
    tickets = [cluster.rollouts.submit(prompt, sampling) for prompt in prompts]
    groups = [cluster.rollouts.result(ticket) for ticket in tickets]
    taken_s = time.perf_counter() - begun
    return sum(answer.tokens_T.size for group in groups for answer in group.answers) / taken_s


def _worker(cluster: BenchCluster) -> ActorHandle:
    (worker,) = cluster.rollouts.status().workers
    return worker.actor


def _sampling(number: int) -> Sampling:
    return Sampling(num_answers=GROUP_SIZE, temperature=1.0, max_tokens=MAX_ANSWER_TOKENS, seed=number)
