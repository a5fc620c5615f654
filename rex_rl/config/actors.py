"""Configuration of engines, reward workers, learner, cluster, logging, checkpoints, guards and evaluation."""

from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from rex_rl.config.schema import FROM_YAML, Count, Part, Section, ShownType

Cores = Annotated[float, Field(gt=0, le=1024)]
Gpus = Annotated[float, Field(ge=0, le=1024)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


DEEPSPEED_KEYS_WITH_A_HOME = {
    "optimizer": "sft.learning_rate, grpo.learning_rate and weight_decay",
    "scheduler": "sft.schedule and grpo.schedule",
    "gradient_clipping": "sft.max_grad_norm and grpo.max_grad_norm",
    "gradient_accumulation_steps": "sft.gradient_accumulation and grpo.gradient_accumulation",
    "train_batch_size": "sft.batch_size and grpo.prompts_per_step",
    "train_micro_batch_size_per_gpu": "learner.micro_batch_tokens",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
}
"""DeepSpeed key -> where the project keeps that value; two places could disagree."""


class RolloutConfig(Section):
    """The vLLM engines that write answers; these settings hold for each worker."""

    num_workers: Count = 1
    """Rollout workers at the start, each with an engine of its own; `rex-rl scale` changes them on a running job."""
    num_cpus: Cores = 1.0
    """CPU cores a worker reserves on the cluster."""
    num_gpus: Gpus = 0.0
    """GPUs a worker reserves; 0 runs the CPU build."""
    threads: Count = 1
    """OpenMP threads of a worker's forward pass."""
    max_sequences: Count = 64
    """Answers an engine decodes side by side (vLLM: max_num_seqs)."""
    max_model_len: Annotated[int, Field(ge=64)] = 8192
    """Tokens of prompt, image and answer together (vLLM: max_model_len; released script: 8192)."""
    block_size: Annotated[int, Field(ge=32, le=256, multiple_of=32)] = 32
    """Tokens in a block of the key-value cache; a prompt is shared in whole blocks, so small ones share more."""
    kv_cache_gib: Annotated[float, Field(gt=0)] = 1.0
    """Key-value cache of a CPU worker, in GiB."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of a GPU's memory that vLLM may take (released script: 0.6)."""
    start_timeout_s: Seconds = 600.0
    """A worker not ready by then is dead; the first start on a machine compiles for a while."""
    sync_timeout_s: Seconds = 60.0
    """A worker that has not confirmed new weights by then is dropped; the sync goes on."""
    hang_timeout_s: Annotated[float, Field(ge=2, le=86_400)] = 12.0
    """A worker that gives no sign of life for so long, or whose engine stands still with work to do, is dropped."""
    max_deaths_in_row: Count = 3
    """A worker's place is given up after so many deaths without a served answer between them."""
    on_sync: Literal["keep", "abort"] = "keep"
    """Answers in flight when weights change: `keep` lets them go on under the new ones, `abort` requests them again."""


class RewardWorkersConfig(Section):
    """The actors that score answers."""

    num_workers: Count = 1
    """Reward workers."""
    num_cpus: Cores = 0.5
    """CPU cores a worker reserves on the cluster."""
    timeout_s: Seconds = 600.0
    """The run ends if a step's rewards are missing by then: a term of the user's own hangs."""


LanguageMatrix = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
VisionMatrix = Literal["qkv", "proj", "gate_proj", "up_proj", "down_proj"]
ProjectorMatrix = Literal["mlp.0", "mlp.2"]


class LoraConfig(Section):
    """Low-rank adapters: they alone are trained, and merged into the weights that engines and model folders get."""

    rank: Annotated[int, Field(ge=0, le=1024)] = 0
    """Rank of an adapter; 0 trains the weights themselves. Adapters need about ten times the learning rates."""
    alpha: Annotated[float, Field(gt=0, le=4096)] = 32.0
    """An adapter's output is scaled by alpha / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of an adapter's inputs dropped while learning: above 0, learner and engines differ in log-probabilities."""
    language: Annotated[tuple[LanguageMatrix, ...], FROM_YAML] = get_args(LanguageMatrix)
    """Matrices of each language layer that get an adapter."""
    vision: Annotated[tuple[VisionMatrix, ...], FROM_YAML] = ()
    """Matrices of each layer of the vision tower that get an adapter."""
    projector: Annotated[tuple[ProjectorMatrix, ...], FROM_YAML] = ()
    """Matrices of the merger that get one; with none here and in `vision`, engines keep encoded images at a sync."""

    @property
    def targets(self) -> dict[str, tuple[str, ...]]:
        """Matrices by part, without parts that have none."""
        named = {"language": self.language, "vision": self.vision, "projector": self.projector}
        return {part: names for part, names in named.items() if names}


class LearnerConfig(Section):
    """The DeepSpeed learner: one actor a rank, the same for SFT and GRPO."""

    num_ranks: Count = 1
    """Ranks; a step's batch is shared out over them."""
    num_cpus: Cores = 1.0
    """CPU cores a rank reserves on the cluster."""
    num_gpus: Gpus = 0.0
    """GPUs a rank reserves; 0 trains on CPU."""
    threads: Count = 1
    """Threads of a rank's tensor operations."""
    micro_batch_tokens: Count = 16_384
    """Tokens of one forward pass, padding included; a single group may be larger."""
    hang_timeout_s: Annotated[float, Field(ge=2, le=86_400)] = 1800.0
    """A rank that has not answered by then counts as dead; the limit must cover the longest step and model loading."""
    max_losses_in_row: Annotated[int, Field(ge=0)] = 3
    """Deaths of a rank that the run survives without a new checkpoint between them."""
    prefix_sharing: bool = True
    """Forward a prompt and its image once per group (SFT: an image once for all its records in a micro-batch); false
    does it once per answer, as a check and a baseline."""
    attention: Literal["auto", "sdpa", "flex"] = "auto"
    """Kernel: `sdpa` with an explicit mask, or `flex` (FlexAttention), which skips masked blocks and needs a GPU;
    `auto` is flex with GPUs, sdpa without."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, much less memory."""
    lora: LoraConfig = LoraConfig()
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Collectives between ranks; `auto` is nccl with GPUs, gloo without."""
    deepspeed: Annotated[dict[str, Any], ShownType("DeepSpeed JSON")] = Field(default={})
    """DeepSpeed's own settings, laid over the project's; keys that this file has elsewhere are refused. Without
    `zero_optimization.stage` the stage is 0, and 1 in bfloat16."""

    @field_validator("deepspeed")
    @classmethod
    def _check_deepspeed(cls, block: dict[str, Any]) -> dict[str, Any]:
        for key, home in DEEPSPEED_KEYS_WITH_A_HOME.items():
            if key in block:
                raise ValueError(f"{key} is set by {home}")
        zero = block.get("zero_optimization", {})
        if not isinstance(zero, Mapping) or zero.get("stage", 0) not in (0, 1, 2, 3):
            raise ValueError("zero_optimization.stage should be 0, 1, 2 or 3")
        return block

    def zero_stage(self, *, bfloat16: bool) -> int:
        """ZeRO's stage. In bfloat16 at least 1: DeepSpeed 0.19's plain wrapper hides its float32 weights, which a
        checkpoint needs.
        """
        return int(self.deepspeed.get("zero_optimization", {}).get("stage", int(bfloat16)))

    def trained_parts(self, frozen: Collection[str]) -> set[str]:
        """Parts of the model that have something to train."""
        parts: Collection[str] = self.lora.targets if self.lora.rank else get_args(Part)
        return set(parts) - set(frozen)


class ClusterConfig(Section):
    """The Ray cluster."""

    address: str | None = None
    """Address of a running cluster; null joins the one a job runs in, else starts one on this machine."""
    num_cpus: Count | None = None
    """CPU cores of a cluster started here; null takes the machine's. Not for a running cluster."""
    wait_s: Annotated[float, Field(ge=0, le=86_400)] = 0.0
    """Seconds to wait until the cluster can place every actor, as an autoscaler may add nodes."""


class WandbConfig(Section):
    """Weights & Biases; prompts are never sent. The key comes from the environment, not from here."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online where a key is found, else offline."""
    project: Annotated[str, Field(min_length=1)] = "rex_rl"
    """Project the run is logged to."""
    entity: str | None = None
    """User or team; null takes the key's default."""
    group: str | None = None
    """Name that runs share to be shown together."""


class CheckpointConfig(Section):
    """Checkpoints of the learner."""

    keep: Annotated[int, Field(ge=2, le=1000)] = 2
    """Newest checkpoints kept; older ones are removed once a new one is complete, so one more needs room on disk."""
    stop_wait_s: Seconds = 30.0
    """Time on SIGTERM for the current step and a checkpoint; then the run ends at once with what is on disk."""


class GuardsConfig(Section):
    """Limits at which a run gives up."""

    max_skipped_in_a_row: Count = 3
    """Steps in a row without a finite loss, gradient norm or reward; each is skipped, and so many end the run."""


class EvaluationConfig(Section):
    """Held-out evaluation: greedy decoding."""

    num_images: Count = 200
    """Held-out records of each task used, at most; of more, so many are drawn by `seed`."""
    max_answer_tokens: Count = 4096
    """Longer answers are cut (official inference: 4096)."""
