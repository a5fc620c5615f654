"""One rank of the DeepSpeed learner. The same actors serve SFT and GRPO; only the objective differs.

Axes: N answer tokens of all groups of a micro-batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import ray
import torch
from ray import ObjectRef
from torch.distributed import TCPStore, init_process_group  # type: ignore[attr-defined]  # no __all__ names it

from actors.identity import Identity, own_identity
from actors.learner.deepspeed_engine import LearnerEngine, set_learner_environment
from actors.learner.metrics import rank_metrics, token_metrics
from actors.weights.buckets import VISION_PREFIX, fill_buckets, tensor_digests
from actors.weights.manifest import Manifest
from rex_rl.config.actors import LearnerConfig
from rex_rl.config.schema import GrpoConfig, OptimiserConfig
from rex_rl.data.images import open_image
from rex_rl.errors import BrokenWeightsError, CheckpointError, NonFiniteError, RunError
from rex_rl.language.tasks import chat_prompt
from rex_rl.language.vocabulary import load_vocabulary
from rex_rl.learning.batch import MicroBatch, Row, halves
from rex_rl.learning.loss import PolicyTerms, policy_terms
from rex_rl.policy.attention import kernel_on
from rex_rl.policy.lora import add_adapters
from rex_rl.policy.model import ForwardInputs, ImagePreparer, TokenStats, collate, load_policy, pack_questions
from rex_rl.policy.reference import Forward, adapterless_reference, copied_reference
from rex_rl.run.checkpoints import sync_folder, sync_to_disk
from rex_rl.types import Mean, ScoredAnswer, TrainGroup

STATE_WAIT_S = 0.05
"""How long one question whether the state is written may take; the rank does not train meanwhile."""
_SPLIT, _HOPELESS = 1, 2
"""A rank's verdict on a step in which it ran out of memory: begin anew in halves, or nothing left to halve. The worst
verdict of all ranks counts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """A rank's place in its group."""

    rank: int
    num_ranks: int
    address: str
    port: int
    on_gpu: bool
    backend: str
    """`gloo` or `nccl`."""
    threads: int


class LearnerRank:
    """A Ray actor around one DeepSpeed rank."""

    def __init__(self, config: LearnerConfig, *, bfloat16: bool, max_pixels: int | None = None) -> None:
        self._config, self._max_pixels = config, max_pixels
        self._dtype = torch.bfloat16 if bfloat16 else torch.float32
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] = Future()
        self._patience = timedelta(seconds=2 * config.hang_timeout_s)  # the driver gives up first

    def identity(self) -> Identity:
        """Process and node."""
        return own_identity()

    def meeting_point(self) -> tuple[str, int]:
        """(address, port) where the ranks meet if this is rank 0.

        The port is bound from here on: a port only looked up could be taken by the time DeepSpeed is imported.
        """
        address = ray.util.get_node_ip_address()
        self._store = TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=self._patience)
        return address, self._store.port

    def connect(self, seat: Seat) -> None:
        """Join the other ranks. DeepSpeed is imported only here, because it reads the environment set first."""
        set_learner_environment(rank=seat.rank, world_size=seat.num_ranks, on_gpu=seat.on_gpu, threads=seat.threads)
        import deepspeed

        if not seat.on_gpu:
            torch.set_num_threads(seat.threads)
            # Else DeepSpeed compiles its shared-memory collectives, a minute of two cores; gloo does not need them.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        if seat.rank > 0:
            self._store = TCPStore(seat.address, seat.port, is_master=False, timeout=self._patience)
        init_process_group(
            seat.backend, store=self._store, rank=seat.rank, world_size=seat.num_ranks, timeout=self._patience
        )
        deepspeed.init_distributed(dist_backend=seat.backend, verbose=False)  # takes over the existing group
        self._seat = seat
        self._device = torch.device("cuda" if seat.on_gpu else "cpu")
        self._kernel = kernel_on(self._device, self._config.attention)

    def begin_stage(self, model_folder: str, settings: OptimiserConfig) -> None:
        """Load a model folder and make a fresh optimizer for it; KL's reference is that folder's model.

        The settings decide the loss. SFT's: the negative log-likelihood. GRPO's: the policy loss of
        `rex_rl.learning.loss`, under their temperature and token mask.
        """
        self._grpo = settings if isinstance(settings, GrpoConfig) else None
        self._temperature = self._grpo.temperature if self._grpo else 1.0
        is_masked = self._grpo is not None and self._grpo.token_mask == "specials"
        policy = load_policy(model_folder, dtype=self._dtype, kernel=self._kernel).to(self._device)
        policy.config.use_cache = False
        policy.train()
        add_adapters(policy, self._config.lora, frozen=settings.frozen)
        if self._config.gradient_checkpointing:
            policy.gradient_checkpointing_enable()
        self._vocabulary = load_vocabulary(model_folder)
        self._prepare = ImagePreparer(model_folder, max_pixels=self._max_pixels)
        self._allowed_ids = torch.from_numpy(self._vocabulary.sampled_ids).to(self._device) if is_masked else None
        self._reference = self._make_reference(model_folder, policy)
        bfloat16 = self._dtype == torch.bfloat16
        self._engine = LearnerEngine(policy, learner=self._config, optimiser=settings, bfloat16=bfloat16)

    def _make_reference(self, model_folder: str, policy: torch.nn.Module) -> Forward | None:
        grpo = self._grpo
        if grpo is None or grpo.kl_beta == 0:
            return None
        if grpo.reference == "lora_off":
            return adapterless_reference(policy, self._forward)
        return copied_reference(
            model_folder,
            dtype=self._dtype,
            kernel=self._kernel,
            device=self._device,
            offloaded=grpo.reference == "offloaded",
            temperature=self._temperature,
            allowed_ids=self._allowed_ids,
        )

    def step(self, micro_batches: Sequence[MicroBatch], learning_rate_factor: float) -> Mapping[str, Mean]:
        """One optimizer step over this rank's micro-batches, halved where they do not fit in memory.

        Raises:
            NonFiniteError: on every rank, where one rank's loss or the joint gradient norm is not finite; no weight
                changed.
            BrokenWeightsError: on every rank, where one rank's weights are not finite before or after the step.
        """
        self._engine.set_learning_rate(learning_rate_factor)
        # For adapters' dropout, the only randomness in a step: a resumed run draws the same numbers.
        torch.manual_seed(self._engine.num_updates * self._seat.num_ranks + self._seat.rank)
        plan, num_splits = list(micro_batches), 0
        while (passed := self._pass_through(plan)) is None:
            plan, num_splits = [half for micro_batch in plan for half in halves(micro_batch)], num_splits + 1
        sums, fault = passed
        try:
            norm = self._engine.apply()
        except NonFiniteError as error:
            self._require_finite_weights()
            raise NonFiniteError(fault or str(error)) from error
        # Before any rollout worker gets them: one NaN in a cache of keys spoils later answers too.
        self._require_finite_weights()
        counts = {"grad_norm": norm, "guards/oom_splits": float(num_splits)}
        return {**sums, **{name: Mean(total=value, count=1.0) for name, value in counts.items()}}

    def _pass_through(self, plan: Sequence[MicroBatch]) -> tuple[dict[str, Mean], str] | None:
        """Forward and backward through all micro-batches: (metrics, what is wrong with the loss or "").

        None where a rank is out of memory and all have to begin anew with smaller micro-batches.
        """
        parts: list[Mapping[str, Mean]] = []
        fault, verdict = "", 0
        for number, micro_batch in enumerate(plan, start=1):
            self._engine.begin_backward(is_last=number == len(plan))
            try:
                loss, metrics = self._backward(micro_batch)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                verdict = self._out_of_memory(plan)
                break
            if not math.isfinite(loss):
                fault = fault or f"loss is {loss} in micro-batch {number} of {len(plan)}"
            parts.append(metrics)
        verdict = self._worst_of_ranks(verdict) if self._engine.reduces_late else verdict
        if verdict == 0:
            return rank_metrics(parts, num_ranks=self._seat.num_ranks), fault
        self._engine.discard()
        if self._seat.on_gpu:
            torch.cuda.empty_cache()
        if verdict == _HOPELESS:
            raise RunError("out of memory with a single answer at a time on a learner rank")
        return None

    def _backward(self, micro_batch: MicroBatch) -> tuple[float, dict[str, Mean]]:
        """Loss and metrics of a micro-batch; its gradients are added to those before.

        A loss that is not finite gives gradients that are not finite, on all ranks once they are joined: so no rank
        takes the step.
        """
        loss, metrics = self._loss(micro_batch)
        # DeepSpeed averages gradients over ranks; the token weights already sum to 1 over all of them.
        self._engine.engine.backward(loss * (self._seat.num_ranks if torch.isfinite(loss) else math.nan))
        return float(loss.detach()), metrics

    def _out_of_memory(self, plan: Sequence[MicroBatch]) -> int:
        if not self._engine.reduces_late:
            raise RunError(
                f"out of memory with learner.micro_batch_tokens = {self._config.micro_batch_tokens}: lower it, or let "
                "it be halved by need, which takes learner.deepspeed.zero_optimization.stage 0 or 1"
            )
        return _SPLIT if any(len(halves(micro_batch)) > 1 for micro_batch in plan) else _HOPELESS

    def _require_finite_weights(self) -> None:
        """Raises BrokenWeightsError on all ranks, where one rank holds weights that are not finite."""
        if self._worst_of_ranks(not self._engine.has_finite_weights()):
            raise BrokenWeightsError("weights are not numbers")

    def _worst_of_ranks(self, verdict: int) -> int:
        """The largest verdict of all ranks, so that all act on what one of them has seen."""
        worst = torch.tensor(float(verdict), device=self._device)
        torch.distributed.all_reduce(worst, op=torch.distributed.ReduceOp.MAX)
        return int(worst)

    def answer_logprobs(self, groups: Sequence[TrainGroup]) -> list[np.ndarray]:
        """[answers] of [T]: log-probabilities the current policy gives to given answers, under mask and temperature."""
        inputs = self._inputs([(group,) for group in groups])
        with torch.no_grad():
            logprobs_N = self._forward(inputs).logprobs_N.cpu().numpy()
        lengths = [scored.answer.tokens_T.size for group in groups for scored in group.answers]
        return np.split(logprobs_N, np.cumsum(lengths)[:-1])

    def export_weights(self, version: int) -> tuple[Manifest, list[ObjectRef]] | None:
        """Put the weights into the object store as buckets; rank 0 returns them, the others help to gather."""
        if self._seat.rank != 0:
            self._gather()
            return None
        refs: list[ObjectRef] = []
        digests, vision_digests, num_bytes = [], [], 0
        with ThreadPoolExecutor(max_workers=1) as beside:
            for bucket in fill_buckets(self._engine.named_tensors()):
                digesting = beside.submit(tensor_digests, bucket)  # it shares no lock with the copy into the store
                refs.append(ray.put(bucket))
                digests.append(digesting.result())
                named = zip(bucket, digests[-1], strict=True)
                vision_digests += [digest for packed, digest in named if packed.name.startswith(VISION_PREFIX)]
                num_bytes += sum(packed.data.size for packed in bucket)
        manifest = Manifest(
            version=version, digests=tuple(digests), vision_digest="".join(vision_digests), num_bytes=num_bytes
        )
        return manifest, refs

    def save_model(self, folder: str, *, like: str) -> None:
        """Write a Hugging Face folder that vLLM and transformers load; processor files come from the folder `like`.

        It is on disk when this returns, so that a stage which counts as done has its model.
        """
        from safetensors.torch import save_file

        from rex_rl.policy.model_folder import copy_model_files

        if self._seat.rank != 0:
            self._gather()
            return
        tensors = {name: tensor.cpu().contiguous() for name, tensor in self._engine.named_tensors()}
        copy_model_files(Path(like), Path(folder))
        if self._max_pixels is not None:
            self._prepare.save(folder)
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        sync_folder(Path(folder))
        sync_to_disk(Path(folder).parent)

    def _gather(self) -> None:
        """Help to gather whole weights for rank 0, and keep none."""
        for _ in self._engine.named_tensors():
            pass

    def save_state(self, file: str) -> None:
        """Copy master weights and Adam's state and begin to write them: rank 0 writes, the others help to gather.

        The copy takes as much host memory as they do until it is written.
        """
        state: dict[str, torch.Tensor] = {}
        for key, tensor in self._engine.named_state():
            if self._seat.rank == 0:
                state[key] = tensor.detach().to("cpu", copy=True).contiguous()
        if self._seat.rank == 0:
            self._writing = self._writer.submit(write_state, state, Path(file))

    def state_written(self) -> bool:
        """Whether what :meth:`save_state` began is on disk; raises CheckpointError where it cannot be."""
        if wait([self._writing], timeout=STATE_WAIT_S).not_done:
            return False
        self._writing.result()
        return True

    def load_state(self, file: str) -> None:
        """Load what :meth:`save_state` wrote."""
        from safetensors.torch import load_file

        self._engine.load_state(load_file(file))

    def _loss(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, dict[str, Mean]]:
        groups = micro_batch.groups
        inputs = self._inputs(micro_batch.rows)
        # Before the policy's own pass: so the two never hold memory together, and ZeRO-3 sees whole passes.
        reference_N = None if self._reference is None else self._reference(inputs).logprobs_N
        stats = self._forward(inputs)
        weights_N = self._per_token(groups, "weight")
        if self._grpo is None:
            loss_N = -stats.logprobs_N
            metrics = {"loss": loss_N, "entropy": stats.entropy_N}
        else:
            terms = self._policy_terms(groups, reference_N, stats)
            loss_N = terms.loss_N
            metrics = {
                "loss": loss_N,
                "entropy": stats.entropy_N,
                **({} if reference_N is None else {"kl": terms.kl_N}),
                "clip_ratio/low": terms.clipped_low_N,
                "clip_ratio/high": terms.clipped_high_N,
                "sampling/logp_difference": terms.log_ratio_N.abs(),
                "importance/weight": terms.importance_N,
            }
        return (loss_N * weights_N).sum(), token_metrics(metrics, weights_N)

    def _policy_terms(
        self, groups: Sequence[TrainGroup], reference_N: torch.Tensor | None, stats: TokenStats
    ) -> PolicyTerms:
        assert self._grpo is not None
        lengths = [scored.answer.tokens_T.size for group in groups for scored in group.answers]
        return policy_terms(
            stats.logprobs_N,
            behaviour_N=self._per_token(groups, "behaviour"),
            advantages_N=self._per_token(groups, "advantage"),
            reference_N=reference_N,
            lengths_B=torch.tensor(lengths, device=self._device),
            config=self._grpo,
        )

    def _per_token(self, groups: Sequence[TrainGroup], what: str) -> torch.Tensor:
        """[N] weights, behaviour log-probabilities or advantages of every answer token, in the inputs' order."""
        scored = [scored for group in groups for scored in group.answers]
        columns: dict[str, Callable[[ScoredAnswer], np.ndarray]] = {
            "weight": lambda one: np.full(one.answer.tokens_T.size, one.token_weight, dtype=np.float32),
            "behaviour": lambda one: one.answer.logprobs_T,
            "advantage": lambda one: one.advantages_T,
        }
        return torch.from_numpy(np.concatenate([columns[what](one) for one in scored])).float().to(self._device)

    def _inputs(self, rows: Sequence[Row]) -> ForwardInputs:
        layouts, pixels, grids = [], [], []
        for row in rows:
            record = row[0].prompt.record
            patches, grid_3 = self._prepare(open_image(record.image, size=record.size))
            prompts = [self._vocabulary.encode(chat_prompt(group.prompt.question)) for group in row]
            layouts.append(
                pack_questions(
                    [prompt for prompt, group in zip(prompts, row, strict=True) for _ in group.answers],
                    [scored.answer.tokens_T for group in row for scored in group.answers],
                    image_token_id=self._vocabulary.image_pad_id,
                    grid_3=grid_3,
                    merge_size=self._prepare.merge_size,
                )
            )
            pixels.append(patches.to(self._dtype))
            grids.append(grid_3)
        return collate(layouts, pixels, grids).to(self._device)

    def _forward(self, inputs: ForwardInputs) -> TokenStats:
        logprobs_N, entropy_N = self._engine.engine(
            inputs, temperature=self._temperature, allowed_ids=self._allowed_ids
        )
        return TokenStats(logprobs_N=logprobs_N, entropy_N=entropy_N)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; torch's CPU allocator has no error class for that."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def write_state(state: Mapping[str, torch.Tensor], file: Path) -> None:
    """Write tensors; they are on disk when this returns.

    Raises:
        CheckpointError: a tensor is not finite, or they cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for key, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{key} is not finite, and would be no state to go on from")
    try:
        save_file(dict(state), file)
        sync_to_disk(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: {error}") from None
