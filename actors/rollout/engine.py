"""vLLM in process: one thread owns the engine, everything else asks that thread.

Requests are added and answered while others run; weights change between two steps. The thread runs closures from an
inbox, so no lock is needed and no call reaches the engine half-way through a step.
"""

import contextlib
import gc
import os
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from actors.rollout.loop_watch import LoopWatch
from rex_rl.config.actors import RolloutConfig
from rex_rl.config.schema import ModelConfig
from rex_rl.language.vocabulary import Vocabulary
from rex_rl.policy.model import pixel_limit
from rex_rl.types import Answer, FinishReason, Sampling

T = TypeVar("T")
BASE_VERSION = -1
"""The version an engine serves before its first sync: the weights of its folder."""
IDLE_WAIT_S = 0.5
"""How long an idle engine thread sleeps before it checks whether it should end; a request wakes it at once."""


MIN_STEP_TOKENS = 8192
"""Least token budget of one engine step: vLLM's own default for a server."""
FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.LOOPED}
"""vLLM's -> ours; the only aborted answers that are still returned are those that loop."""


def set_engine_environment(rollout: RolloutConfig) -> None:
    """Set what vLLM reads from the environment when it is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine runs in this process, not in a child
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # its default is standard output
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if rollout.num_gpus == 0:
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # several engines share few cores here
        # vLLM compiles one thing: the rank of a token's log-probability, which nobody asks for. It takes 18 s, or 2 s
        # where an earlier process left the result, at the first answer of every engine.
        os.environ["TORCH_COMPILE_DISABLE"] = "1"
        os.environ["OMP_NUM_THREADS"] = str(rollout.threads)


def build_engine(folder: str, model: ModelConfig, rollout: RolloutConfig) -> Any:
    """A vLLM `LLMEngine` for Qwen2.5-VL that reports the log-probabilities its tokens were drawn with."""
    from rex_rl.policy.cpu_repair import repair

    repair()
    import vllm.v1.core.sched.output as scheduled
    from vllm import EngineArgs, LLMEngine, ModelRegistry
    from vllm.config import WeightTransferConfig
    from vllm.model_executor.models.qwen2_5_vl import Qwen2_5_VLForConditionalGeneration

    from actors.weights import receiver

    gc.freeze()  # vLLM collects five times while it starts
    # When registered as a class, vLLM does not inspect the model in a fresh process, which lacks the repair above.
    ModelRegistry.register_model("Qwen2_5_VLForConditionalGeneration", Qwen2_5_VLForConditionalGeneration)
    receiver.register()
    # vLLM 0.32 withholds an image's pixels from answers whose prompt is cached. Where a sync drops the caches, such an
    # answer has to encode the image anew, and fails without pixels. In one process it costs nothing to pass them on.
    scheduled.strip_covered_mm_data = lambda features, *rest, **named: features
    on_gpu = rollout.num_gpus > 0
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=folder,
            dtype=model.dtype,
            max_num_seqs=rollout.max_sequences,
            max_model_len=rollout.max_model_len,
            max_num_batched_tokens=max(MIN_STEP_TOKENS, rollout.max_model_len),
            # For a prompt cut in two, vLLM rewinds the answer's random generator, which CPU generators refuse.
            enable_chunked_prefill=on_gpu,
            block_size=rollout.block_size,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            kv_cache_memory_bytes=None if on_gpu else int(rollout.kv_cache_gib * 2**30),
            enforce_eager=not on_gpu,
            enable_prefix_caching=True,
            limit_mm_per_prompt={"image": 1, "video": 0},
            mm_processor_kwargs=pixel_limit(model.max_pixels),
            logprobs_mode="processed_logprobs",
            weight_transfer_config=WeightTransferConfig(backend=receiver.BACKEND),
            generation_config="vllm",
            disable_log_stats=True,
        )
    )


class EngineThread:
    """The engine and the thread that owns it."""

    def __init__(
        self, folder: str, model: ModelConfig, rollout: RolloutConfig, vocabulary: Vocabulary, *, mask_tokens: bool
    ) -> None:
        """`folder` holds the model at this point of the run; `model` says how it is loaded."""
        self._build, self._vocabulary = partial(build_engine, folder, model, rollout), vocabulary
        self._allowed_ids = vocabulary.sampled_ids.tolist() if mask_tokens else None
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._waiting: dict[str, tuple[Future[list[Answer]], str]] = {}
        """Request -> (future of the caller who waits for it, vLLM's own name for it)."""
        self._closing = False
        self._engine: Any = None
        self._loops: LoopWatch
        self.num_loops = 0
        """Passes of the thread; an idle thread still makes one every `IDLE_WAIT_S`."""
        self._thread = threading.Thread(target=self._run, name="vllm-engine", daemon=True)
        started: Future[None] = Future()
        self._inbox.put(lambda: _resolve(started, self._start))
        self._thread.start()
        started.result()

    def call(self, function: Callable[[Any], T]) -> T:
        """Run `function(engine)` between two steps and return what it returned."""
        future: Future[T] = Future()
        self._inbox.put(lambda: _resolve(future, lambda: function(self._engine)))
        return future.result()

    def generate(self, request_id: str, prompt_ids: list[int], image: Image.Image, sampling: Sampling) -> list[Answer]:
        """Answers to one prompt; blocks until all are written. Safe from several threads at a time."""
        future: Future[list[Answer]] = Future()

        def add() -> None:
            try:
                self._waiting[request_id] = future, self._add(request_id, prompt_ids, image, sampling)
            except Exception as error:  # noqa: BLE001 - handed to the caller, who waits for it
                future.set_exception(error)

        self._inbox.put(add)
        return future.result()

    def abort_all(self, error: Exception) -> None:
        """Drop every request; their callers get `error`."""
        self.call(lambda engine: self._give_up(error))

    @property
    def num_unfinished(self) -> int:
        """Prompts that wait for their answers."""
        return len(self._waiting)

    def close(self) -> None:
        """End the thread after the current step."""
        self._closing = True
        self._thread.join(timeout=10)

    def _start(self) -> None:
        gc.disable()  # vLLM's modules are a million objects that stay; to look through them is an eighth of the start
        try:
            self._engine = self._build()
        finally:
            gc.freeze()
            gc.enable()
        self._engine.set_weight_version(str(BASE_VERSION))
        self._loops = LoopWatch(self._engine, self._vocabulary)

    def _run(self) -> None:
        while not self._closing:
            self.num_loops += 1
            busy = bool(self._waiting)
            try:
                command = self._inbox.get(block=not busy, timeout=IDLE_WAIT_S)
            except queue.Empty:
                pass
            else:
                command()
                continue  # drain the inbox before the next step: prompts that arrive together decode together
            if busy:
                self._step()

    def _step(self) -> None:
        try:
            for output in [*self._engine.step(), *self._loops.end_loops()]:
                if output.finished:
                    future, _ = self._waiting.pop(output.request_id)
                    _resolve(future, partial(_to_answers, output.outputs))
        except Exception as error:  # noqa: BLE001 - every waiting caller gets it, and the engine goes on without them
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        given_up, self._waiting = self._waiting, {}
        with contextlib.suppress(Exception):  # an engine that cannot abort fails again at its next step
            # By vLLM's own names: given ours, it aborts the answers and keeps their request.
            self._engine.abort_request([own_name for _, own_name in given_up.values()], internal=True)
        for future, _ in given_up.values():
            future.set_exception(error)

    def _add(self, request_id: str, prompt_ids: list[int], image: Image.Image, sampling: Sampling) -> str:
        """Ask vLLM; returns its own name for the request."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=sampling.num_answers,
            temperature=sampling.temperature,
            top_p=1.0,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed if sampling.temperature > 0 else None,
            stop_token_ids=[self._vocabulary.answer_end_id],
            allowed_token_ids=self._allowed_ids,
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        asked = {"prompt_token_ids": prompt_ids, "multi_modal_data": {"image": image}}
        own_name: str = self._engine.add_request(request_id, asked, params)
        self._loops.add(own_name, sampling)
        return own_name


def _resolve(future: "Future[T]", function: Callable[[], T]) -> None:
    try:
        value = function()
    except Exception as error:  # noqa: BLE001 - handed to the caller, who waits for it
        future.set_exception(error)
    else:
        future.set_result(value)


def _to_answers(outputs: Sequence[Any]) -> list[Answer]:
    return [_to_answer(output) for output in outputs]


def _to_answer(output: Any) -> Answer:
    tokens_T = np.array(output.token_ids, dtype=np.int64)
    steps: list[Mapping[int, Any]] = list(output.logprobs)
    versions_T = np.zeros(tokens_T.size, dtype=np.int64)
    for span in output.weight_versions:
        versions_T[span.start : span.end] = int(span.version)
    return Answer(
        tokens_T=tokens_T,
        logprobs_T=np.array(
            [step[token].logprob for step, token in zip(steps, output.token_ids, strict=True)], dtype=np.float32
        ),
        versions_T=versions_T,
        finish_reason=FINISH_REASONS[output.finish_reason],
    )
