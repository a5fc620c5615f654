"""A run's configuration: a YAML file, dotted overrides, one frozen and checked object.

    config = load_config(Path("configs/quickstart.yaml"), ["grpo.num_steps=10"])

Every fault becomes one `ConfigError` line that names key, value, limit and where the value was given.
"""

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from rex_rl.config.actors import (
    CheckpointConfig,
    ClusterConfig,
    EvaluationConfig,
    GuardsConfig,
    LearnerConfig,
    RewardWorkersConfig,
    RolloutConfig,
    WandbConfig,
)
from rex_rl.config.reference import KeyDoc, key_docs, yaml_text
from rex_rl.config.reward import RewardConfig, check_reward
from rex_rl.config.schema import (
    FROM_YAML,
    RUN_ROOT_VARIABLE,
    SHAPES_DATA,
    SHAPES_TASKS,
    DataConfig,
    GrpoConfig,
    LocalPath,
    ModelConfig,
    OptimiserConfig,
    Section,
    Seed,
    SftConfig,
    check_grpo,
)
from rex_rl.errors import ConfigError

Stage = Literal["sft", "grpo"]

STAGE_ORDERS = (("sft",), ("grpo",), ("sft", "grpo"))

UNKNOWN = "unknown key "

PLAIN_REASONS = {
    "model_type": "should be a section, with keys below it",
    "dict_type": "should be a section, with keys below it",
    "tuple_type": "should be a list, such as [a, b]",
    "string_pattern_mismatch": "should be letters, digits, `.`, `_` and `-`, 100 at most, the first a letter or digit",
}
"""Pydantic's kind of fault -> its reason in the words of a YAML file; `name` is the only key with a pattern."""


class Config(Section):
    """Everything that decides a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    """Name of the run and of its folder."""
    stages: Annotated[tuple[Stage, ...], FROM_YAML] = ("sft", "grpo")
    """Stages to run, in this order."""
    seed: Seed = 0
    """Seed of data order, sampling and evaluation split."""
    deterministic: bool = False
    """Fix which worker gets which prompt, so that a run on CPU repeats to the bit with `grpo.max_staleness` 0."""
    run_root: LocalPath = Field(default_factory=lambda: Path(os.environ.get(RUN_ROOT_VARIABLE) or "runs"))
    """Folder of the run folders; the default is the variable REX_RUN_ROOT, or `runs`."""
    model: ModelConfig
    data: DataConfig
    sft: SftConfig = SftConfig()
    grpo: GrpoConfig = GrpoConfig()
    reward: RewardConfig = RewardConfig()
    rollout: RolloutConfig = RolloutConfig()
    reward_workers: RewardWorkersConfig = RewardWorkersConfig()
    learner: LearnerConfig = LearnerConfig()
    cluster: ClusterConfig = ClusterConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    guards: GuardsConfig = GuardsConfig()
    wandb: WandbConfig = WandbConfig()

    @property
    def run_folder(self) -> Path:
        """Where everything of this run is written (absolute)."""
        return self.run_root / self.name

    def optimiser(self, stage: Stage) -> OptimiserConfig:
        """The settings of a stage that both stages share."""
        return self.sft if stage == "sft" else self.grpo

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if self.stages not in STAGE_ORDERS:
            allowed = ", ".join(yaml_text(order) for order in STAGE_ORDERS)
            raise ValueError(f"stages = {yaml_text(self.stages)}: should be one of {allowed}")
        for stage in self.stages:
            self._check_stage(stage)
        return self

    def _check_stage(self, stage: Stage) -> None:
        settings = self.optimiser(stage)
        items_key = {"sft": "sft.batch_size", "grpo": "grpo.prompts_per_step"}[stage]
        if not self.learner.trained_parts(settings.frozen):
            adapted = (
                f", as learner.lora adapts {yaml_text(tuple(lora.targets))}" if (lora := self.learner.lora).rank else ""
            )
            raise ValueError(f"{stage}.frozen = {yaml_text(settings.frozen)}: leaves nothing to train{adapted}")
        if len(set(settings.frozen)) != len(settings.frozen):
            raise ValueError(f"{stage}.frozen = {yaml_text(settings.frozen)}: names a part twice")
        if settings.batch_items < self.learner.num_ranks:
            raise ValueError(
                f"learner.num_ranks = {self.learner.num_ranks}: "
                f"more than {items_key} = {settings.batch_items}, so a rank would have nothing to do"
            )
        if settings.gradient_accumulation > settings.batch_items:
            raise ValueError(
                f"{stage}.gradient_accumulation = {settings.gradient_accumulation}: "
                f"more pieces than {items_key} = {settings.batch_items}"
            )

    @model_validator(mode="after")
    def _check_learner(self) -> Self:
        if self.model.dtype == "bfloat16" and self.learner.zero_stage(bfloat16=True) == 0:
            raise ValueError(
                "learner.deepspeed.zero_optimization.stage = 0: keeps no float32 weights that a checkpoint could hold "
                "with model.dtype = bfloat16; should be 1 or more"
            )
        if self.learner.attention == "flex" and self.learner.num_gpus == 0:
            raise ValueError("learner.attention = flex: cannot train on CPUs; needs learner.num_gpus above 0")
        return self

    @model_validator(mode="after")
    def _check_answers(self) -> Self:
        check_grpo(self.grpo)
        if self.grpo.reference == "lora_off" and self.learner.lora.rank == 0:
            raise ValueError("grpo.reference = lora_off: needs adapters to switch off, so learner.lora.rank above 0")
        limits = {"evaluation.max_answer_tokens": self.evaluation.max_answer_tokens}
        if "grpo" in self.stages:
            limits["grpo.max_answer_tokens"] = self.grpo.max_answer_tokens
        for key, tokens in limits.items():
            if tokens >= self.rollout.max_model_len:
                raise ValueError(
                    f"{key} = {tokens}: leaves no room for a prompt within "
                    f"rollout.max_model_len = {self.rollout.max_model_len}"
                )
        return self

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if self.data.train == SHAPES_DATA:
            for key in ("images", "heldout", "heldout_images"):
                if (value := getattr(self.data, key)) is not None:
                    raise ValueError(f"data.{key} = {value}: `data.train: {SHAPES_DATA}` brings its own")
            if foreign := set(self.data.tasks) - set(SHAPES_TASKS):
                raise ValueError(
                    f"data.tasks = {yaml_text(self.data.tasks)}: `data.train: {SHAPES_DATA}` "
                    f"has no {', '.join(sorted(foreign))}; it has {', '.join(SHAPES_TASKS)}"
                )
        if len(set(self.data.tasks)) != len(self.data.tasks):
            raise ValueError(f"data.tasks = {yaml_text(self.data.tasks)}: names a task twice")
        if self.data.heldout_images is not None and self.data.heldout is None:
            raise ValueError(f"data.heldout_images = {self.data.heldout_images}: needs data.heldout")
        return self

    @model_validator(mode="after")
    def _check_reward(self) -> Self:
        check_reward(self.reward)
        return self

    @model_validator(mode="after")
    def _check_cluster(self) -> Self:
        if self.cluster.address is not None and self.cluster.num_cpus is not None:
            raise ValueError(
                f"cluster.num_cpus = {self.cluster.num_cpus}: "
                f"the running cluster cluster.address = {self.cluster.address} has its own"
            )
        return self


def load_config(file: Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file, apply `key=value` overrides in their order, check everything.

    A value of an override is read as YAML: `stages=[sft]`, `grpo.learning_rate.language=1e-6`, `wandb.group=null`.
    Raises ConfigError (exit status 2).
    """
    merged = _read_yaml(file)
    for override in overrides:
        merged = _laid_over(merged, override, file)
    try:
        return Config.model_validate(OmegaConf.to_container(merged, resolve=False))
    except ValidationError as error:
        raise ConfigError(_one_line(error, file, overrides)) from None


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; loading it gives an equal one. It holds no secrets, as no key takes one."""
    return str(OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json"))))


def config_reference() -> list[KeyDoc]:
    """Every key with type, default, bounds and meaning."""
    return list(key_docs(Config))


def _read_yaml(file: Path) -> DictConfig:
    """OmegaConf's reader: it takes `1e-6` for a number, which plain PyYAML does not, and refuses a doubled key."""
    try:
        loaded = OmegaConf.load(file)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, DictConfig):
        raise ConfigError(f"{file}: should hold `key: value` lines at its top level")
    return loaded


def _laid_over(config: DictConfig, override: str, file: Path) -> DictConfig:
    if not re.match(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*=", override):
        raise ConfigError(f"override {override!r}: should be key=value, such as grpo.num_steps=10 (over {file})")
    try:
        merged = OmegaConf.merge(config, OmegaConf.from_dotlist([override]))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"override {override!r}: {' '.join(str(error).split())} (over {file})") from None
    assert isinstance(merged, DictConfig)
    return merged


def _one_line(error: ValidationError, file: Path, overrides: Sequence[str]) -> str:
    """The first fault in full, an unknown key before others, and how many more there are."""
    first, *others = sorted(error.errors(), key=lambda fault: fault["type"] != "extra_forbidden")
    text = _fault(first)
    by_override = any(_is_about(text, override.partition("=")[0]) for override in overrides)
    more = f" (and {len(others)} more)" if others else ""
    return f"{file}{', override' if by_override else ''}: {' '.join(text.split())}{more}"


def _is_about(text: str, key: str) -> bool:
    """Whether a fault names this key, one in it, or (a cross-check) sets it against another.

    >>> [_is_about("unknown key grop; did you mean grpo?", key) for key in ("grop.num_steps", "grpo.num_steps")]
    [True, False]
    """
    named = re.split(r"[\s:;\[]", text.removeprefix(UNKNOWN))[0]  # every text begins with its key
    return f"{named}.".startswith(f"{key}.") or key.startswith(f"{named}.") or f" {key} = " in text


def _fault(fault: ErrorDetails) -> str:
    key, reason = _dotted(fault["loc"]), fault["msg"].removeprefix("Value error, ")
    match fault["type"]:
        case "extra_forbidden":
            return f"{UNKNOWN}{key}{_hint(key)}"
        case "missing":
            return f"{_first_required(key)} is missing"
        case "value_error" if not key:
            return reason
        case kind:
            return f"{key} = {_short(fault['input'])}: {PLAIN_REASONS.get(kind, reason.removeprefix('Input '))}"


def _hint(key: str) -> str:
    keys = [doc.key for doc in config_reference()]
    if key in keys:
        return f"; write it nested, `{key.replace('.', ': {')}: ..{'}' * key.count('.')}`"
    sections = {known.rpartition(".")[0]: None for known in keys if "." in known}  # in the order of the code
    return f"; did you mean {difflib.get_close_matches(key, [*keys, *sections], n=1, cutoff=0.0)[0]}?"


def _first_required(key: str) -> str:
    """The first key without a default inside a missing section, or the missing key itself."""
    inside = (doc.key for doc in config_reference() if doc.default == "required" and doc.key.startswith(f"{key}."))
    return next(inside, key)


def _dotted(location: tuple[int | str, ...]) -> str:
    """Pydantic's place of a fault as the key a user writes.

    >>> _dotted(("stages", 1)), _dotted(("grpo", "num_steps"))
    ('stages[1]', 'grpo.num_steps')
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).removeprefix(".")


def _short(value: Any, limit: int = 80) -> str:
    text = yaml_text(value)
    return text if len(text) <= limit else f"{text[:limit]}.."
