"""Memory of a learner rank: what ZeRO's stage leaves whole, and what a micro-batch keeps for its backward pass."""

import math
from dataclasses import asdict, dataclass

from rex_rl.config.load import Config, Stage
from rex_rl.plan.model_costs import PATCHES_PER_TOKEN, ModelShape, adapter_parameters, parameters_by_part

GIB = 2**30
LOGIT_CHUNK_TOKENS = 4096
"""As in rex_rl/policy/model.py, which a plan does not import; a test checks that they are equal."""
LOGIT_COPIES = 4
"""Float32 arrays of a chunk at a time: logits, log-softmax, its exponential, the gradient."""
RESERVED_GIB = 2.0
"""CUDA's context, the collectives' buffers, fragmentation."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Lengths:
    """Tokens of an average group."""

    image: int
    text: int
    answer: int

    @property
    def prompt(self) -> int:
        """Image and text."""
        return self.image + self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class LearnerMemory:
    """GiB of one learner rank."""

    weights: float
    gradients: float
    optimiser: float
    gathered: float
    """ZeRO-3: the largest layer or table, whole while it is used."""
    reference: float
    activations: float
    logits: float
    reserved: float = RESERVED_GIB

    @property
    def total(self) -> float:
        """Sum of all parts."""
        return sum(asdict(self).values())


def learner_memory(config: Config, shape: ModelShape, lengths: Lengths) -> LearnerMemory:
    """GiB of one rank: what ZeRO's stage leaves whole, and what one micro-batch keeps for its backward pass."""
    learner, width = config.learner, weight_bytes(config)
    zero = learner.zero_stage(bfloat16=config.model.dtype == "bfloat16")
    trained = max(_trained_parameters(config, stage, shape) for stage in config.stages)
    held = all_parameters(shape) + (trained if learner.lora.rank else 0)
    weights, gradients, optimiser = state_bytes(
        held, trained, width=width, zero_stage=zero, num_ranks=learner.num_ranks
    )
    table = shape.vocabulary * shape.hidden
    micro = max((_micro_batch(config, stage, lengths) for stage in config.stages), key=lambda size: size.tokens)
    logits = min(micro.answer_tokens, LOGIT_CHUNK_TOKENS) * shape.vocabulary * 4 * LOGIT_COPIES
    activations = activation_bytes(
        shape,
        num_tokens=micro.tokens,
        image_tokens=micro.images * lengths.image,
        width=width,
        checkpointing=learner.gradient_checkpointing,
    )
    return LearnerMemory(
        weights=weights / GIB,
        gradients=gradients / GIB,
        optimiser=optimiser / GIB,
        gathered=table * width / GIB if zero == 3 else 0.0,
        reference=_reference_bytes(config, shape, activations) / GIB,
        activations=activations / GIB,
        logits=logits / GIB,
    )


def state_bytes(num_all: int, num_trained: int, *, width: int, zero_stage: int, num_ranks: int) -> tuple[int, int, int]:
    """(weights, gradients, optimizer) bytes of a rank: ZeRO 1 shares out the optimizer, 2 gradients, 3 weights too.

    Adam keeps two float32 numbers a trained parameter, and a float32 copy of the weights where they are bfloat16 or
    ZeRO cuts them. 3.75 billion in bfloat16 over 8 ranks: 2 + 2 + 12 bytes each, of which ZeRO-2 shares 14 out.

    >>> [round(part / 1e9, 2) for part in state_bytes(3_750_000_000, 3_750_000_000, width=2, zero_stage=2, num_ranks=8)]
    [7.5, 0.94, 5.62]
    >>> state_bytes(100, 100, width=4, zero_stage=0, num_ranks=8)
    (400, 400, 800)
    >>> state_bytes(100, 60, width=2, zero_stage=3, num_ranks=2)
    (100, 60, 360)
    """
    master = 4 if width == 2 or zero_stage > 0 else 0
    shares = [num_ranks if zero_stage >= stage else 1 for stage in (3, 2, 1)]
    whole = (num_all * width, num_trained * width, num_trained * (8 + master))
    weights, gradients, optimiser = (math.ceil(part / share) for part, share in zip(whole, shares, strict=True))
    return weights, gradients, optimiser


def activation_bytes(shape: ModelShape, *, num_tokens: int, image_tokens: int, width: int, checkpointing: bool) -> int:
    """Bytes a micro-batch keeps for its backward pass; with checkpointing, the layers' inputs and all of one layer.

    A layer of width H and MLP width I keeps 10H + 4I numbers a token: input, normalised input and output of both norms
    (the inputs in float32), query, key, value and output of attention, gate, its activation, up and their product.
    """

    def of_layer(hidden: int, intermediate: int) -> int:
        return 2 * hidden * 4 + (8 * hidden + 4 * intermediate) * width

    patches = PATCHES_PER_TOKEN * image_tokens
    language = num_tokens * of_layer(shape.hidden, shape.intermediate)
    vision = patches * of_layer(shape.vision_hidden, shape.vision_intermediate)
    if not checkpointing:
        return shape.layers * language + shape.vision_layers * vision
    inputs = num_tokens * shape.layers * shape.hidden + patches * shape.vision_layers * shape.vision_hidden
    return inputs * width + max(language, vision)


def _reference_bytes(config: Config, shape: ModelShape, activations: int) -> int:
    """Bytes of KL's reference; an offloaded one is on the GPU only while the policy keeps no activations."""
    if "grpo" not in config.stages or config.grpo.kl_beta == 0:
        return 0
    whole = all_parameters(shape) * weight_bytes(config)
    return {"copy": whole, "offloaded": max(0, whole - activations), "lora_off": 0}[config.grpo.reference]


def row_answers(config: Config, stage: Stage) -> int:
    """Answers behind one prompt and image in the learner: a group's, or one where the prefix is not shared.

    Records of SFT are taken to have an image each.
    """
    return config.grpo.group_size if stage == "grpo" and config.learner.prefix_sharing else 1


def rows_of_step(config: Config, stage: Stage) -> int:
    """Prompts that the learner forwards in a step, before the token budget cuts any group."""
    answers = config.grpo.group_size if stage == "grpo" else 1
    return config.optimiser(stage).batch_items * answers // row_answers(config, stage)


def _micro_batch(config: Config, stage: Stage, lengths: Lengths) -> "_MicroSize":
    """A full micro-batch: as many groups side by side as fit the budget, or a part of one that does not."""
    packed = lengths.prompt + row_answers(config, stage) * lengths.answer
    items = math.ceil(rows_of_step(config, stage) / config.learner.num_ranks)
    rows = min(items, max(1, config.learner.micro_batch_tokens // packed))
    largest = max(config.learner.micro_batch_tokens, lengths.prompt + lengths.answer)
    tokens = min(rows * packed, largest)
    return _MicroSize(tokens=tokens, images=rows, answer_tokens=tokens - rows * lengths.prompt)


@dataclass(frozen=True, kw_only=True, slots=True)
class _MicroSize:
    tokens: int
    images: int
    answer_tokens: int


def all_parameters(shape: ModelShape) -> int:
    """Parameters of all parts."""
    return sum(parameters_by_part(shape).values())


def _trained_parameters(config: Config, stage: Stage, shape: ModelShape) -> int:
    lora, trained = config.learner.lora, config.learner.trained_parts(config.optimiser(stage).frozen)
    counts = adapter_parameters(shape, lora.targets, rank=lora.rank) if lora.rank else parameters_by_part(shape)
    return sum(count for part, count in counts.items() if part in trained)


def weight_bytes(config: Config) -> int:
    """Bytes of a weight."""
    return 2 if config.model.dtype == "bfloat16" else 4
