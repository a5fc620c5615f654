"""`rex-rl plan CONFIG`: memory of each role and seconds of a step on named GPUs, from a model of bytes and operations.

A calculation, not a measurement: what it assumes is printed with it. Pure: needs the model's config.json and nothing
else, no weights, no torch, no GPU.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

from rex_rl.config.load import Config, Stage
from rex_rl.config.schema import TINY_MODEL
from rex_rl.errors import UserError
from rex_rl.plan.gpus import GPUS, Gpu
from rex_rl.plan.memory import (
    GIB,
    LOGIT_CHUNK_TOKENS,
    RESERVED_GIB,
    LearnerMemory,
    Lengths,
    all_parameters,
    learner_memory,
    row_answers,
    rows_of_step,
    weight_bytes,
)
from rex_rl.plan.model_costs import (
    QWEN2_5_VL_3B,
    ModelShape,
    Work,
    group_work,
    layers_flops,
    parameters_by_part,
    read_shape,
    shape_from_json,
)
from rex_rl.policy.model_folder import SHIPPED_BASE

TEXT_TOKENS = 100
"""Text tokens of a prompt: chat frame, question and categories."""
ANSWER_TOKENS = 128
"""Between COCO's 45 tokens an image and Dense200's 439 (paper, table 17)."""
IMAGE_TOKEN_PIXELS = 28 * 28
LEARNER_MFU = 0.35
"""Share of the peak that training reaches (text models of 3B: 0.29 to 0.5; EasyR1's Qwen2.5-VL-7B: 0.23)."""
PREFILL_MFU = 0.4
DECODE_BANDWIDTH_SHARE = 0.6
ENGINE_STEP_S = 0.005
"""Time of an engine step beside its arithmetic: scheduling, sampling, launching."""
SYNC_BYTES_PER_S = 5e9
"""Speed of weights through the object store: gathered, copied to the host, hashed, copied to every engine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTime:
    """Seconds of one step on one kind of GPU; a stage without rollout has none."""

    rollout: float
    learn: float
    sync: float
    overlapped: bool

    @property
    def step(self) -> float:
        """Rollout during learning where answers may be a version old, else one after the other; then the sync."""
        both = max(self.rollout, self.learn) if self.overlapped else self.rollout + self.learn
        return both + self.sync


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuPlan:
    """A run on one kind of GPU."""

    gpu: Gpu
    learner_fits: bool
    rollout_fits: bool
    kv_cache_gib: float
    """Memory that vLLM has left for keys and values."""
    kv_cache_answers: int
    """Average answers it holds side by side, each group's prompt kept once."""
    times: dict[Stage, StageTime]

    def as_json(self) -> dict[str, object]:
        """One GPU's entry."""
        fields = {name: getattr(self, name) for name in ("learner_fits", "rollout_fits", "kv_cache_gib")}
        times = {stage: {**asdict(time), "step": time.step} for stage, time in self.times.items()}
        return {"gpu": self.gpu.name, **fields, "kv_cache_answers": self.kv_cache_answers, "seconds": times}


@dataclass(frozen=True, kw_only=True, slots=True)
class RunPlan:
    """What `rex-rl plan` prints."""

    parameters: dict[str, int]
    learner_gib: LearnerMemory
    rollout_weights_gib: float
    kv_bytes_per_token: int
    flops: dict[str, float]
    """Operations of one step's learning on all ranks, by stage."""
    gpus: tuple[GpuPlan, ...]
    assumptions: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The same as one JSON object."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        learner = {**asdict(self.learner_gib), "total": self.learner_gib.total}
        return {**fields, "learner_gib": learner, "gpus": [plan.as_json() for plan in self.gpus]}


def plan_run(config: Config, *, shapes: str, image_tokens: int | None, answer_tokens: int | None) -> RunPlan:
    """The plan of a run's own model, or of the shapes that `shapes` names."""
    if shapes not in ("", "3b"):
        raise UserError(f"plan --shapes {shapes}: should be 3b, or be left out for the model folder's")
    path = config.model.path
    folder = SHIPPED_BASE if path == TINY_MODEL else Path(path)
    return make_plan(config, None if shapes else folder, image_tokens=image_tokens, answer_tokens=answer_tokens)


def make_plan(
    config: Config, folder: Path | None, *, image_tokens: int | None = None, answer_tokens: int | None = None
) -> RunPlan:
    """The plan of a run; without a folder, that of Qwen2.5-VL-3B under this configuration."""
    shape = shape_from_json(QWEN2_5_VL_3B) if folder is None else read_shape(folder)
    lengths = Lengths(
        image=image_tokens or largest_image_tokens(config, folder),
        text=TEXT_TOKENS,
        answer=answer_tokens or min(ANSWER_TOKENS, config.grpo.max_answer_tokens),
    )
    learner = learner_memory(config, shape, lengths)
    return RunPlan(
        parameters=parameters_by_part(shape),
        learner_gib=learner,
        rollout_weights_gib=all_parameters(shape) * weight_bytes(config) / GIB,
        kv_bytes_per_token=shape.key_value_numbers * weight_bytes(config),
        flops={stage: learn_flops(config, stage, shape, lengths) for stage in config.stages},
        gpus=tuple(_on(gpu, config, shape, lengths, learner) for gpu in GPUS),
        assumptions=_assumptions(config, lengths),
    )


def largest_image_tokens(config: Config, folder: Path | None) -> int:
    """Tokens of the largest image that is not shrunk: `model.max_pixels`, or the folder's own limit."""
    limit = config.model.max_pixels
    if limit is None and folder is not None and (file := folder / "preprocessor_config.json").is_file():
        fields = json.loads(file.read_text())
        limit = fields.get("max_pixels") or fields.get("size", {}).get("longest_edge")
    return (limit or 2560 * IMAGE_TOKEN_PIXELS) // IMAGE_TOKEN_PIXELS


def learn_flops(config: Config, stage: Stage, shape: ModelShape, lengths: Lengths) -> float:
    """Operations of one step's learning: forward and backward of every group, the reference's forward."""
    work, times = _step_work(config, stage, shape, lengths)
    trained = work.trained(
        checkpointing=config.learner.gradient_checkpointing,
        train_vision="vision" in config.learner.trained_parts(config.optimiser(stage).frozen),
        adapters=config.learner.lora.rank > 0,
    )
    has_reference = stage == "grpo" and config.grpo.kl_beta > 0
    return times * (trained + (work.forward if has_reference else 0.0))


def rollout_seconds(config: Config, gpu: Gpu, shape: ModelShape, lengths: Lengths) -> float:
    """One worker's share of a step: image and prompt once a group, then decoding, bound by bytes or operations."""
    width = weight_bytes(config)
    num_groups = math.ceil(config.grpo.prompts_per_step / config.rollout.num_workers)
    num_answers = num_groups * config.grpo.group_size
    prompt = group_work(shape, image_tokens=lengths.image, prompt_tokens=lengths.prompt, answers=[1], shared=True)
    prefill_s = num_groups * prompt.forward / (gpu.flops(width) * PREFILL_MFU)
    active = min(num_answers, config.rollout.max_sequences)
    context = lengths.prompt + lengths.answer // 2
    weights = parameters_by_part(shape)["language"] * width
    step_bytes = weights + active * context * shape.key_value_numbers * width
    step_flops = layers_flops(shape, num_tokens=active, num_pairs=active * context)
    step_s = max(step_bytes / (gpu.bytes_per_s * DECODE_BANDWIDTH_SHARE), step_flops / (gpu.flops(width) * PREFILL_MFU))
    return prefill_s + math.ceil(num_answers / active) * lengths.answer * (step_s + ENGINE_STEP_S)


def _on(gpu: Gpu, config: Config, shape: ModelShape, lengths: Lengths, learner: LearnerMemory) -> GpuPlan:
    width = weight_bytes(config)
    budget = config.rollout.gpu_memory_utilization * gpu.memory_gib
    weights = all_parameters(shape) * width / GIB
    kv_gib = max(0.0, budget - weights - RESERVED_GIB)
    kv_tokens = kv_gib * GIB / (shape.key_value_numbers * width)
    per_answer = lengths.prompt / config.grpo.group_size + lengths.answer
    times: dict[Stage, StageTime] = {}
    for stage in config.stages:
        learn = learn_flops(config, stage, shape, lengths) / config.learner.num_ranks
        is_grpo = stage == "grpo"
        times[stage] = StageTime(
            rollout=rollout_seconds(config, gpu, shape, lengths) if is_grpo else 0.0,
            learn=learn / (gpu.flops(width) * LEARNER_MFU),
            sync=all_parameters(shape) * width / SYNC_BYTES_PER_S if is_grpo else 0.0,
            overlapped=is_grpo and config.grpo.max_staleness > 0,
        )
    return GpuPlan(
        gpu=gpu,
        learner_fits=learner.total <= gpu.memory_gib * _gpu_share(config.learner.num_gpus),
        rollout_fits=kv_tokens >= config.rollout.max_model_len,
        kv_cache_gib=kv_gib,
        kv_cache_answers=int(kv_tokens / per_answer),
        times=times,
    )


def _step_work(config: Config, stage: Stage, shape: ModelShape, lengths: Lengths) -> tuple[Work, int]:
    """(a forward pass of one packed sequence, how many of them a step has)."""
    group_size = row_answers(config, stage)
    room = max(lengths.answer, config.learner.micro_batch_tokens - lengths.prompt)
    in_part = min(group_size, room // lengths.answer)
    num_parts = math.ceil(group_size / in_part)
    work = group_work(
        shape,
        image_tokens=lengths.image,
        prompt_tokens=lengths.prompt,
        answers=[lengths.answer] * math.ceil(group_size / num_parts),
        shared=True,
    )
    return work, num_parts * rows_of_step(config, stage)


def _gpu_share(num_gpus: float) -> float:
    """Part of a GPU that an actor has; configurations for CPU are planned as if each had one of its own."""
    return num_gpus if 0 < num_gpus < 1 else 1.0


def _assumptions(config: Config, lengths: Lengths) -> tuple[str, ...]:
    shared_by = "a group" if config.learner.prefix_sharing else "an answer"
    return (
        f"a group: {lengths.image} image tokens, {lengths.text} of text, answers of {lengths.answer} tokens; "
        f"prompt and image computed once a group in the engine, once {shared_by} in the learner",
        "operations: 2 a weight and token, 4 a (query, key) pair and channel, the vision tower counted; backward twice "
        "the forward (once with adapters), one more forward of the layers under gradient checkpointing",
        f"learner {LEARNER_MFU:.0%} of the GPU's {config.model.dtype} peak, prefill {PREFILL_MFU:.0%}; decoding "
        f"{DECODE_BANDWIDTH_SHARE:.0%} of memory bandwidth (weights once and keys and values of every answer a step), "
        f"plus {ENGINE_STEP_S * 1e3:g} ms a step",
        f"weights to the engines at {SYNC_BYTES_PER_S / 1e9:g} GB/s; rewards, held-out evaluation and checkpoints not "
        f"counted",
        "activations: 10 H + 4 I numbers a token and layer, or layer inputs alone under gradient checkpointing; "
        f"logits in chunks of {LOGIT_CHUNK_TOKENS} tokens; {RESERVED_GIB:g} GiB reserved in each process",
    )


def lines(plan: RunPlan) -> list[str]:
    """The plan as text."""
    total = sum(plan.parameters.values())
    parts = ", ".join(f"{part} {count / 1e6:.1f} M" for part, count in plan.parameters.items())
    memory = plan.learner_gib
    shown = ", ".join(f"{name} {gib:.2f}" for name, gib in asdict(memory).items() if gib > 0)
    rows = [
        f"model: {total / 1e6:,.1f} M parameters ({parts})",
        f"learner rank: {memory.total:.2f} GiB ({shown})",
        f"rollout worker: weights {plan.rollout_weights_gib:.2f} GiB, "
        f"keys and values {plan.kv_bytes_per_token / 1024:.1f} KiB a token",
        *(f"{stage}: {flops / 1e15:.3g} PFLOP of learning a step" for stage, flops in plan.flops.items()),
        "",
        "| GPU | stage | rollout s | learn s | sync s | step s | learner fits | rollout fits | answers in cache |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in plan.gpus:
        fits = " | ".join("yes" if does else "NO" for does in (one.learner_fits, one.rollout_fits))
        for stage, time in one.times.items():
            seconds = " | ".join(f"{value:.3g}" for value in (time.rollout, time.learn, time.sync, time.step))
            rows.append(f"| {one.gpu.name} | {stage} | {seconds} | {fits} | {one.kv_cache_answers} |")
    return [*rows, "", "assumed:", *(f"- {line}" for line in plan.assumptions)]
