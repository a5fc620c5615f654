"""A rollout worker: one vLLM engine in one process, and the version of the weights it serves."""

import os
import time
from pathlib import Path
from typing import Any

import ray
from ray import ObjectRef

from actors.identity import Identity, own_identity
from actors.rollout.engine import BASE_VERSION, EngineThread, set_engine_environment
from actors.rollout.seat import CONTROL_GROUP, Heartbeat
from actors.weights.buckets import Bucket, tensor_digests
from actors.weights.manifest import Manifest
from rex_rl.config.actors import RolloutConfig
from rex_rl.config.schema import ModelConfig
from rex_rl.data.images import open_image
from rex_rl.errors import AbortedError, SyncError
from rex_rl.language.tasks import chat_prompt
from rex_rl.language.vocabulary import Vocabulary, load_vocabulary
from rex_rl.policy.model_folder import context_tokens
from rex_rl.types import Answer, Group, Prompt, Sampling

MAX_PROMPT_TOKENS = 3072
"""Room for an image of 2,560 tokens (official max_pixels, 2560 x 28 x 28) and its question."""


class RolloutWorker:
    """Runs as a threaded Ray actor: `generate` blocks its caller's thread, the engine's own thread does the work."""

    def __init__(
        self, name: str, folder: str, model: ModelConfig, rollout: RolloutConfig, *, mask_tokens: bool
    ) -> None:
        self.name = name
        set_engine_environment(rollout)
        self._vocabulary = load_vocabulary(folder)
        self._engine = EngineThread(folder, model, rollout, self._vocabulary, mask_tokens=mask_tokens)
        self._version = BASE_VERSION
        self._vision_digest = ""
        self._engine.call(lambda engine: engine.collective_rpc("init_weight_transfer_engine", args=({},)))

    def generate(self, prompt: Prompt, sampling: Sampling) -> Group:
        """All answers of one prompt."""
        if self._version == BASE_VERSION:
            raise SyncError(f"{self.name} was asked to serve before its first weight sync")
        answers = ask(self._engine, self._vocabulary, prompt, sampling)
        return Group(prompt=prompt, answers=tuple(answers), worker=self.name)

    @ray.method(concurrency_group=CONTROL_GROUP)
    def serve_folder(self, manifest: Manifest) -> Manifest:
        """Serve the model folder's own weights as that version: to evaluate a folder, without a learner."""
        self._engine.call(lambda engine: engine.set_weight_version(str(manifest.version)))
        self._version = manifest.version
        return manifest

    @ray.method(concurrency_group=CONTROL_GROUP)
    def update_weights(self, manifest: Manifest, bucket_refs: list[ObjectRef], *, abort: bool = False) -> Manifest:
        """Take a version: check every tensor's digest, load it, drop what was cached under the old weights.

        Runs between two engine steps. Answers in flight go on with the new weights: their keys and values are
        computed again, and every token keeps the version that wrote it. With `abort` they are aborted instead.
        """
        buckets: list[Bucket] = ray.get(bucket_refs)
        for digests, bucket in zip(manifest.digests, buckets, strict=True):
            if tensor_digests(bucket) != digests:
                raise SyncError(f"{self.name}: a bucket of version {manifest.version} arrived altered")
        if abort:
            self.abort_all()
        self._engine.call(lambda engine: self._apply(engine, manifest, buckets))
        return manifest

    @ray.method(concurrency_group=CONTROL_GROUP)
    def abort_all(self) -> None:
        """Abort the answers in flight; their callers get an AbortedError."""
        self._engine.abort_all(AbortedError(f"{self.name}: given up under version {self._version}"))

    def _apply(self, engine: Any, manifest: Manifest, buckets: list[Bucket]) -> None:
        """One closure on the engine's thread: no step ever runs on half a version."""
        engine.collective_rpc("start_weight_update")
        for bucket in buckets:
            engine.collective_rpc("update_weights", args=({"bucket": bucket},))
        engine.collective_rpc("finish_weight_update")
        if not engine.reset_prefix_cache(reset_running_requests=True):
            raise SyncError(f"{self.name}: what was cached under version {self._version} could not be dropped")
        if manifest.vision_digest != self._vision_digest:
            engine.reset_mm_cache()
            engine.reset_encoder_cache()
        engine.set_weight_version(str(manifest.version))
        self._version, self._vision_digest = manifest.version, manifest.vision_digest

    @ray.method(concurrency_group=CONTROL_GROUP)
    def identity(self) -> Identity:
        """Process and node; the first call returns once the engine is up."""
        return own_identity()

    @ray.method(concurrency_group=CONTROL_GROUP)
    def heartbeat(self) -> Heartbeat:
        """Passes of the engine's thread so far, and prompts that wait for answers."""
        return Heartbeat(num_loops=self._engine.num_loops, num_waiting=self._engine.num_unfinished)


def ask(engine: EngineThread, vocabulary: Vocabulary, prompt: Prompt, sampling: Sampling) -> list[Answer]:
    """Answers of an engine to a prompt and its image; blocks until all are written."""
    image = open_image(prompt.record.image, size=prompt.record.size)
    prompt_ids = vocabulary.encode(chat_prompt(prompt.question))
    return engine.generate(f"{prompt.uid}/{time.monotonic_ns()}", prompt_ids, image, sampling)


def answer_in_process(model_folder: str, prompt: Prompt, sampling: Sampling) -> Answer:
    """One answer from an engine in this process, without a cluster."""
    import torch

    on_gpu = torch.cuda.is_available()
    model = ModelConfig(path=model_folder, dtype="bfloat16" if on_gpu else "float32")
    rollout = RolloutConfig(
        num_gpus=float(on_gpu),
        threads=os.cpu_count() or 1,
        max_sequences=1,
        max_model_len=min(MAX_PROMPT_TOKENS + sampling.max_tokens, context_tokens(Path(model_folder))),
    )
    set_engine_environment(rollout)
    vocabulary = load_vocabulary(model_folder)
    engine = EngineThread(model_folder, model, rollout, vocabulary, mask_tokens=True)
    try:
        return ask(engine, vocabulary, prompt, sampling)[0]
    finally:
        engine.close()
