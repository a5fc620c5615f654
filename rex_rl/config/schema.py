"""Configuration of model, data and both stages; reward.py and actors.py hold the rest.

Frozen, unknown keys refused, each value in one place; numbers that follow from others are properties. The text under
a field is what `rex-rl config` prints. Defaults are the paper's settings where it gives them (arXiv 2510.12798,
sections 4.1 and 4.2.4), then the released training scripts', then those of one small machine.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from rex_rl.language.tasks import TASKS

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray's job supervisor for the entrypoint of a submitted job, and for nothing else (Ray 2.60)."""

RUN_ROOT_VARIABLE = "REX_RUN_ROOT"
TINY_MODEL = "tiny"
SHAPES_DATA = "shapes"
SHAPES_TASKS = ("detection", "pointing", "visual_prompting", "ocr_box")
"""Tasks of the synthetic world."""


@dataclass(frozen=True)
class ShownType:
    """How a type is written in the reference, where its Python name would say too little."""

    text: str


def absolute_path(path: Path) -> Path:
    """`path` made absolute from the current directory, `~` filled in.

    Raises ValueError for a relative path inside a submitted Ray job: its working directory is a temporary copy on
    one node, so files written there are lost and files looked for there are not found.
    """
    path = Path(os.path.expanduser(path))  # leaves the name of an unknown user as it is
    if not path.is_absolute() and JOB_VARIABLE in os.environ:
        raise ValueError(
            "a relative path; a submitted job's working directory is a temporary copy on one node, "
            "so give an absolute path on storage that every node sees"
        )
    return path.absolute()


def _path_or(keyword: str) -> Callable[[str], str]:
    return lambda text: text if text == keyword else str(absolute_path(Path(text)))


def _known_task(name: str) -> str:
    if name not in TASKS:
        raise ValueError(f"no such task; known are {', '.join(TASKS)}")
    return name


FROM_YAML = Field(strict=False)
"""For paths and tuples, which YAML writes as texts and lists; numbers are never converted."""

LocalPath = Annotated[Path, FROM_YAML, ShownType("path"), AfterValidator(absolute_path)]
ModelPath = Annotated[
    str, ShownType(f"path or {TINY_MODEL}"), Field(min_length=1), AfterValidator(_path_or(TINY_MODEL))
]
DataPath = Annotated[
    str, ShownType(f"path or {SHAPES_DATA}"), Field(min_length=1), AfterValidator(_path_or(SHAPES_DATA))
]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Period = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Weight = Annotated[float, Field(ge=0, le=10)]
TaskName = Annotated[str, ShownType("task"), AfterValidator(_known_task)]
Part = Literal["vision", "projector", "language"]


class Section(BaseModel):
    """What all sections share: no unknown key, no silent conversion, no change after loading."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class ModelConfig(Section):
    """The model both stages start from."""

    path: ModelPath
    """Hugging Face folder of a Qwen2.5-VL with coordinate tokens, or `tiny`, the small base shipped here."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the weights in engine and learner."""
    max_pixels: Annotated[int, Field(ge=28 * 28)] | None = None
    """Larger images are shrunk to so many pixels; null takes the model folder's own limit (released: 2,007,040)."""


class ShapesConfig(Section):
    """The synthetic data set, made on first use; read only when `data.train` is `shapes`."""

    num_train: Count = 3000
    """Training images of each of `data.tasks`."""
    num_heldout: Count = 200
    """Held-out images of each of `data.tasks`, drawn from seeds of their own."""
    seed: Seed = 0
    """Seed of the images; apart from `seed`, so that runs with other seeds see the same data."""


class DataConfig(Section):
    """Where the records come from."""

    train: DataPath
    """Training records: COCO JSON (.json), record JSONL (.jsonl), or `shapes`, the synthetic world."""
    images: LocalPath | None = None
    """Folder the image names are relative to; null takes the folder of the records' file."""
    heldout: LocalPath | None = None
    """Held-out records; null holds back a share of `data.train`."""
    heldout_images: LocalPath | None = None
    """Image folder of `data.heldout`; null takes `data.images`."""
    heldout_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of `data.train` held back by seed; used only where `data.heldout` is null and the data is a file."""
    tasks: Annotated[tuple[TaskName, ...], FROM_YAML, Field(min_length=1)] = ("detection",)
    """Tasks that records may name by their `task`; a file with another is refused. A record that names none has the
    only one here, or detection. Held-out figures are given for each."""
    max_bad_fraction: Share = 0.01
    """Bad records are skipped and counted up to this share of a file; more stop the run."""
    shapes: ShapesConfig = ShapesConfig()


class LearningRates(Section):
    """AdamW learning rates by part of the model, at their peak."""

    vision: Rate
    """Vision tower."""
    projector: Rate
    """Merger between vision tower and language model."""
    language: Rate
    """Language model with its embedding and output matrix."""


class SftRates(LearningRates):
    """The paper's rates of SFT."""

    vision: Rate = 2e-6
    """Vision tower (paper: 2e-6)."""
    projector: Rate = 2e-5
    """Merger between vision tower and language model (paper: 2e-5)."""
    language: Rate = 2e-5
    """Language model with its embedding and output matrix (paper: 2e-5)."""


class GrpoRates(LearningRates):
    """The released script's rates of GRPO; the paper gives none."""

    vision: Rate = 1e-6
    """Vision tower (released script: 1e-6)."""
    projector: Rate = 1e-6
    """Merger between vision tower and language model (released script: 1e-6)."""
    language: Rate = 1e-6
    """Language model with its embedding and output matrix (released script: 1e-6)."""


class OptimiserConfig(Section):
    """What SFT and GRPO share: one AdamW update a step."""

    num_steps: Count = 1000
    """Optimiser updates of the stage."""
    learning_rate: LearningRates
    warmup_fraction: Share = 0.0
    """Share of the steps in which the learning rate rises linearly from 0."""
    schedule: Literal["cosine", "constant", "linear"] = "constant"
    """Course of the learning rate after the warm-up; cosine and linear end at 0."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """AdamW's decoupled weight decay (paper: 0.01)."""
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """AdamW's decay of the mean gradient (released script: 0.9)."""
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """AdamW's decay of the mean squared gradient (released script: 0.999)."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are scaled down to this global L2 norm."""
    gradient_accumulation: Count = 1
    """Least number of pieces that a step's batch is cut into before its one update; more lower the peak memory."""
    frozen: Annotated[tuple[Part, ...], FROM_YAML] = ()
    """Parts of the model that are not trained."""
    eval_every: Period = 100
    """Steps between held-out evaluations; 0: only at the end of the stage."""
    save_every: Period = 100
    """Steps between checkpoints; 0: only at the end of the stage."""

    @property
    def num_warmup_steps(self) -> int:
        """Steps of the linear warm-up."""
        return round(self.warmup_fraction * self.num_steps)

    @property
    def batch_items(self) -> int:
        """Records (SFT) or groups (GRPO) of one step, which the learner's ranks share."""
        raise NotImplementedError


class SftConfig(OptimiserConfig):
    """Supervised fine-tuning."""

    batch_size: Count = 128
    """Records a step (released script: 4 x 4 accumulated x 8 GPUs)."""
    learning_rate: SftRates = SftRates()
    warmup_fraction: Share = 0.03
    """Share of the steps in which the learning rate rises linearly from 0 (paper: 3 %)."""
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    """Course of the learning rate after the warm-up; cosine and linear end at 0."""
    paraphrase: bool = True
    """Ask in several wordings; false asks in the official one only."""

    @property
    def batch_items(self) -> int:
        """Records of one step."""
        return self.batch_size


class AdvantageConfig(Section):
    """How rewards become advantages."""

    normalise_std: bool = True
    """Divide by the group's standard deviation (paper); false only subtracts the mean."""
    normalise_by_task: bool = False
    """First divide all rewards of a task by the spread of its rewards within their groups, over the step, so that no
    task of a mix drowns another; with normalise_std it changes only how much the credit of a task counts."""
    credit: Literal["none", "to_go"] = "none"
    """`none` (paper): all tokens of an answer share its reward. `to_go`: an answer is a sequence of decisions (a shape,
    to go on or stop, a label, `None`), and each is credited with what the reward gained from there on, against what was
    to be expected there."""
    credit_lambda: Share = 1.0
    """With `to_go`: weight of a decision's consequence, to the power of how many decisions later it comes; 1 is
    unbiased, less is less noisy."""


PRESETS: dict[tuple[str, str], dict[str, Any]] = {
    ("algorithm", "dr_grpo"): {"token_weighting": "constant", "advantage": {"normalise_std": False}},
    ("algorithm", "dapo"): {"token_weighting": "token_mean", "clip_low": 0.2, "clip_high": 0.28},
    ("algorithm", "gspo"): {"clip_low": 3e-4, "clip_high": 4e-4},
    ("algorithm", "cispo"): {"token_weighting": "token_mean", "clip_low": 1.0, "clip_high": 4.0},
    ("kl_in", "reward"): {"kl_estimator": "k1"},
    ("importance", "tis"): {"importance_high": 2.0},
}
"""(key of `grpo`, value) -> what that choice sets where the keys themselves are not given.

DAPO: arXiv 2503.14476, section 4.1. GSPO: arXiv 2507.18071, section 5.1. CISPO: weights from 0 to 5, no lower bound as
in arXiv 2506.13585, the upper one of arXiv 2510.13786. TIS: verl's bound.
"""


class GrpoConfig(OptimiserConfig):
    """Group-relative policy optimisation."""

    num_steps: Count = 1031
    """Optimiser updates of the stage (paper: 66,000 prompts at 64 a step)."""
    learning_rate: GrpoRates = GrpoRates()
    prompts_per_step: Count = 64
    """Groups a step (paper: 64)."""
    group_size: Annotated[int, Field(ge=2, le=1024)] = 8
    """Answers a prompt (paper: 8); advantages compare them with each other."""
    algorithm: Literal["grpo", "dr_grpo", "dapo", "gspo", "cispo"] = "grpo"
    """`grpo` (paper); `dr_grpo`, `dapo`: other token weights; `gspo` clips answers as a whole; `cispo` bounds the ratio
    as a weight. Sets token_weighting, clip_low, clip_high, advantage.normalise_std where they are not given."""
    token_weighting: Literal["sequence_mean", "token_mean", "constant"] = "sequence_mean"
    """Equal weight for all answers of a step (paper; gspo), for all its tokens (dapo, cispo), or for each token
    1 / (answers * max_answer_tokens), so that no answer's length changes another's weight (dr_grpo)."""
    kl_beta: Annotated[float, Field(ge=0, le=10)] = 0.01
    """Weight of the KL term against the model GRPO started from (paper: 0.01); 0 keeps no reference."""
    reference: Literal["copy", "offloaded", "lora_off"] = "copy"
    """The model GRPO started from, for the KL: a `copy` beside the policy; the same `offloaded` to host memory except
    during its pass; or the policy without its adapters (`lora_off`, with learner.lora), which takes no memory."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """Schulman's: the log ratio, half its square, exp(-k1) + k1 - 1 (paper). In the loss only k2 has the KL's own
    gradient (k1's averages to zero); in the reward k1 has it, so `kl_in: reward` sets k1."""
    kl_in: Literal["loss", "reward"] = "loss"
    """`reward`: the KL of engine's and reference's log-probabilities, times kl_beta, is subtracted from each token's
    advantage in the learner, after all normalisation; the logged `reward` leaves it out."""
    clip_low: Share = 0.2
    """The policy ratio is clipped at 1 minus this (released script: 0.2; dapo 0.2, gspo 0.0003, cispo 1)."""
    clip_high: Annotated[float, Field(ge=0, le=10)] = 0.3
    """The policy ratio is clipped at 1 plus this (released script: 0.3; dapo 0.28, gspo 0.0004, cispo 4)."""
    old_logprobs: Literal["behaviour", "recompute"] = "behaviour"
    """Denominator of the policy ratio: the engine's log-probabilities, so that it covers staleness and numerical gaps;
    or the learner's own before the update. At one update a step those are the current ones: no forward pass is added,
    the ratio is 1, clipping never acts, and the gap to the engine is left to `importance`."""
    importance: Literal["none", "tis", "icepop", "sequence_mask"] = "none"
    """Factor on the policy term for w = learner's old / engine's probability, with `old_logprobs: recompute` only:
    min(w, high); w within [low, high], else 0; or min(w, high) on answers whose geometric mean is within, else 0."""
    importance_low: Share = 0.5
    """Lower bound of `icepop` and `sequence_mask`."""
    importance_high: Annotated[float, Field(ge=1, le=1000)] = 5.0
    """Upper bound (icepop, sequence_mask: 5; tis: 2)."""
    temperature: Annotated[float, Field(gt=0, le=2)] = 1.0
    """Sampling temperature, applied in the engine and, alike, in the learner."""
    max_answer_tokens: Count = 4096
    """Longer answers are cut and count as truncated (released script: 4096)."""
    overlong_buffer: Period = 0
    """The last so many tokens of max_answer_tokens cost reward, linearly from 0 to 1 at the limit (DAPO: a fifth of
    it); the advantage counts it, the logged `reward` does not; 0: off."""
    max_repeats: Period = 0
    """An answer is stopped while it is written, and counts as truncated, after so many shapes in a row that are each a
    near-repeat of an earlier one of their label; 0: off."""
    token_mask: Literal["specials", "none"] = "specials"
    """Ids kept out of sampling in engine and learner: `specials` bars undefined ids and foreign special tokens."""
    max_staleness: Annotated[int, Field(ge=0, le=16)] = 0
    """Weight versions an answer may be behind the learner: 0 is on-policy, 1 overlaps rollout with learning."""
    max_failed_fraction: Share = 0.1
    """Groups that could not be generated, as a share of those dispatched; more stop the run."""
    max_replaced_groups: Period = 0
    """Most groups a step that further prompts replace because they teach nothing: all answers earned the same reward
    (DAPO's dynamic sampling, arXiv 2503.14476); 0: off."""
    advantage: AdvantageConfig = AdvantageConfig()

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Add presets of the choices made, below what was given: the resolved configuration shows what runs."""
        if isinstance(given, dict):
            for (key, value), preset in PRESETS.items():
                given = _over(preset, given) if given.get(key) == value else given
        return given

    @property
    def batch_items(self) -> int:
        """Groups of one step."""
        return self.prompts_per_step


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Nested keys of `above` laid over those of `below`.

    >>> _over({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    nested = {
        key: _over(below[key], value)
        for key, value in above.items()
        if isinstance(value, dict) and isinstance(below.get(key), dict)
    }
    return below | above | nested


def check_grpo(settings: GrpoConfig) -> None:
    """Cross-checks of `grpo`; raises ValueError."""
    if settings.clip_low > settings.clip_high:
        raise ValueError(f"grpo.clip_low = {settings.clip_low}: above grpo.clip_high = {settings.clip_high}")
    if settings.importance != "none" and settings.old_logprobs != "recompute":
        raise ValueError(
            f"grpo.importance = {settings.importance}: needs grpo.old_logprobs = recompute; "
            f"with {settings.old_logprobs} the policy ratio corrects already"
        )
    if settings.overlong_buffer > settings.max_answer_tokens:
        raise ValueError(
            f"grpo.overlong_buffer = {settings.overlong_buffer}: "
            f"above grpo.max_answer_tokens = {settings.max_answer_tokens}"
        )
