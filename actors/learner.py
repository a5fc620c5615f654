"""One rank of the DeepSpeed learner. The same actors serve SFT and GRPO; only the objective differs.

Axes: N answer tokens of all groups of a micro-batch.
"""

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import ray
import torch
from ray import ObjectRef

from actors.deepspeed_engine import LearnerEngine, set_learner_environment
from actors.weights import VISION_PREFIX, Bucket, Manifest, digest_of, fill_buckets
from rex_rl.batch import MicroBatch
from rex_rl.config import LearnerConfig, OptimiserConfig
from rex_rl.errors import NonFiniteError
from rex_rl.images import open_image
from rex_rl.loss import PolicyTerms, policy_terms
from rex_rl.model import ForwardInputs, ImagePreparer, TokenStats, collate, load_policy, pack_group
from rex_rl.tasks import chat_prompt
from rex_rl.types import Mean, ScoredAnswer, TrainGroup
from rex_rl.vocabulary import load_vocabulary


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a step minimises. `name` is `sft` (negative log-likelihood) or `grpo` (clipped policy loss plus KL)."""

    name: str
    temperature: float = 1.0
    mask_tokens: bool = False
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_beta: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat:
    """Where a rank sits in its group."""

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

    def __init__(self, config: LearnerConfig, *, bfloat16: bool) -> None:
        self._config, self._bfloat16 = config, bfloat16

    def meeting_point(self) -> tuple[str, int]:
        """(address, free port) on this node, where the ranks can meet if this is rank 0."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), int(probe.getsockname()[1])

    def connect(self, seat: Seat) -> None:
        """Join the other ranks. Importing DeepSpeed waits until here: it reads the environment set first."""
        set_learner_environment(
            rank=seat.rank,
            world_size=seat.num_ranks,
            address=seat.address,
            port=seat.port,
            on_gpu=seat.on_gpu,
            threads=seat.threads,
        )
        import deepspeed

        if not seat.on_gpu:
            torch.set_num_threads(seat.threads)
            # DeepSpeed would compile its shared-memory collectives, a minute of two cores; gloo does without them.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend=seat.backend, verbose=False)
        self._seat = seat
        self._device = torch.device("cuda" if seat.on_gpu else "cpu")

    def begin_stage(self, model_folder: str, optimiser: OptimiserConfig, objective: Objective) -> None:
        """Load a model folder and make a fresh optimizer for it; KL's reference is that folder's model."""
        policy = load_policy(model_folder, dtype=torch.bfloat16 if self._bfloat16 else torch.float32).to(self._device)
        policy.config.use_cache = False
        policy.train()
        if self._config.gradient_checkpointing:
            policy.gradient_checkpointing_enable()
        self._reference = None
        if objective.kl_beta > 0:
            self._reference = (
                load_policy(model_folder, dtype=policy.dtype).to(self._device).eval().requires_grad_(False)
            )
        self._objective = objective
        self._vocabulary, self._prepare = load_vocabulary(model_folder), ImagePreparer(model_folder)
        self._allowed_ids = (
            torch.from_numpy(self._vocabulary.sampled_ids).to(self._device) if objective.mask_tokens else None
        )
        self._engine = LearnerEngine(policy, learner=self._config, optimiser=optimiser, bfloat16=self._bfloat16)

    def step(self, micro_batches: Sequence[MicroBatch], learning_rate_factor: float) -> Mapping[str, Mean]:
        """One optimizer step over this rank's micro-batches; raises NonFiniteError before any weight changes."""
        self._engine.set_learning_rate(learning_rate_factor)
        sums: dict[str, Mean] = {}
        for number, micro_batch in enumerate(micro_batches, start=1):
            self._engine.engine.set_gradient_accumulation_boundary(number == len(micro_batches))
            loss, metrics = self._loss(micro_batch)
            if not torch.isfinite(loss):
                raise NonFiniteError(f"loss is {loss.item()} in micro-batch {number} of {len(micro_batches)}")
            # DeepSpeed averages gradients over ranks; the token weights already sum to 1 over all of them.
            self._engine.engine.backward(loss * self._seat.num_ranks)
            for name, mean in metrics.items():
                sums[name] = sums.get(name, Mean(total=0.0, count=0.0)) + mean
        return {**sums, "grad_norm": Mean(total=self._engine.apply(), count=1.0)}

    def answer_logprobs(self, groups: Sequence[TrainGroup]) -> list[np.ndarray]:
        """[answers] of [T]: log-probabilities the current policy gives to given answers, under mask and temperature."""
        inputs = self._inputs(groups)
        with torch.no_grad():
            logprobs_N = self._forward(inputs).logprobs_N.cpu().numpy()
        lengths = [scored.answer.tokens_T.size for group in groups for scored in group.answers]
        return np.split(logprobs_N, np.cumsum(lengths)[:-1])

    def export_weights(self, version: int) -> tuple[Manifest, list[ObjectRef]] | None:
        """Put the weights into the object store as buckets; rank 0 returns them, the others take part in gathering."""
        refs: list[ObjectRef] = []
        buckets: list[Bucket] = []
        num_bytes, vision = 0, []
        for bucket in fill_buckets(self._engine.named_tensors()):
            if self._seat.rank != 0:
                continue
            refs.append(ray.put(bucket))
            buckets.append(bucket)
            num_bytes += bucket.data.size
            vision += [
                digest_of(bucket.data[spec.start : spec.end])
                for spec in bucket.specs
                if spec.name.startswith(VISION_PREFIX)
            ]
        if self._seat.rank != 0:
            return None
        manifest = Manifest(
            version=version,
            digests=tuple(bucket.digest for bucket in buckets),
            vision_digest="".join(vision),
            num_bytes=num_bytes,
        )
        return manifest, refs

    def save_model(self, folder: str, *, like: str) -> None:
        """Write a Hugging Face folder that vLLM and transformers load; processor files come from the folder `like`."""
        from safetensors.torch import save_file

        from rex_rl.model_folder import copy_model_files

        tensors = {name: tensor.cpu().contiguous() for name, tensor in self._engine.named_tensors()}
        if self._seat.rank == 0:
            copy_model_files(Path(like), Path(folder))
            save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})

    def save_state(self, file: str) -> None:
        """Write master weights and Adam moments; rank 0 writes, the others take part in gathering."""
        from safetensors.torch import save_file

        state = {key: tensor.cpu().contiguous() for key, tensor in self._engine.named_state()}
        if self._seat.rank == 0:
            save_file(state, file)

    def load_state(self, file: str, num_steps: int) -> None:
        """Put back what :meth:`save_state` wrote."""
        from safetensors.torch import load_file

        self._engine.load_state(load_file(file), num_steps=num_steps)

    def _loss(self, micro_batch: MicroBatch) -> tuple[torch.Tensor, dict[str, Mean]]:
        groups = micro_batch.groups
        inputs = self._inputs(groups)
        stats = self._forward(inputs)
        weights_N = self._per_token(groups, "weight")
        if self._objective.name == "sft":
            loss_N = -stats.logprobs_N
            metrics = {"loss": (loss_N, weights_N > 0), "entropy": (stats.entropy_N, weights_N > 0)}
        else:
            terms = self._policy_terms(groups, inputs, stats)
            loss_N = terms.loss_N
            counted_N = weights_N > 0
            metrics = {
                "loss": (loss_N, counted_N),
                "entropy": (stats.entropy_N, counted_N),
                "kl": (terms.kl_N, counted_N),
                "clip_ratio/low": (terms.clipped_low_N, counted_N),
                "clip_ratio/high": (terms.clipped_high_N, counted_N),
                "sampling/logp_difference": (terms.log_ratio_N.abs(), counted_N),
            }
        reduced = {
            name: Mean(total=float((value_N.detach() * counted_N).sum()), count=float(counted_N.sum()))
            for name, (value_N, counted_N) in metrics.items()
        }
        return (loss_N * weights_N).sum(), reduced

    def _policy_terms(self, groups: Sequence[TrainGroup], inputs: ForwardInputs, stats: TokenStats) -> PolicyTerms:
        reference_N = None
        if self._reference is not None:
            with torch.no_grad():
                reference_N = self._stats_of(self._reference, inputs).logprobs_N
        return policy_terms(
            stats.logprobs_N,
            behaviour_N=self._per_token(groups, "behaviour"),
            advantages_N=self._per_token(groups, "advantage"),
            reference_N=reference_N,
            clip_low=self._objective.clip_low,
            clip_high=self._objective.clip_high,
            kl_beta=self._objective.kl_beta,
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

    def _inputs(self, groups: Sequence[TrainGroup]) -> ForwardInputs:
        layouts, pixels, grids = [], [], []
        for group in groups:
            patches, grid_3 = self._prepare(open_image(group.prompt.record.image, size=group.prompt.record.size))
            layouts.append(
                pack_group(
                    self._vocabulary.encode(chat_prompt(group.prompt.question)),
                    [scored.answer.tokens_T for scored in group.answers],
                    image_token_id=self._vocabulary.image_pad_id,
                    grid_3=grid_3,
                    merge_size=self._prepare.merge_size,
                )
            )
            pixels.append(patches.to(torch.bfloat16 if self._bfloat16 else torch.float32))
            grids.append(grid_3)
        return collate(layouts, pixels, grids).to(self._device)

    def _forward(self, inputs: ForwardInputs) -> TokenStats:
        logprobs_N, entropy_N = self._engine.engine(
            inputs, temperature=self._objective.temperature, allowed_ids=self._allowed_ids
        )
        return TokenStats(logprobs_N=logprobs_N, entropy_N=entropy_N)

    def _stats_of(self, network: torch.nn.Module, inputs: ForwardInputs) -> TokenStats:
        from rex_rl.model import answer_stats

        return answer_stats(network, inputs, temperature=self._objective.temperature, allowed_ids=self._allowed_ids)
