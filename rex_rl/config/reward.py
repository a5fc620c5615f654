"""Configuration of the reward, of a user's own terms, and of the canaries.

The allow-list is checked here, when a configuration is loaded, and again before a function is imported
(rex_rl/scoring/custom_terms.py), which is what it protects.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from rex_rl.config.schema import FROM_YAML, Count, Period, Section, ShownType, Weight
from rex_rl.language.tasks import TASKS

OwnWeight = Annotated[float, Field(ge=-10, le=10)]
TermName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]

_FUNCTION = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*")
_OTHER_TERMS = ("matched", "paper", "official", "count_error", "text_similarity", "exact_text")
"""Further names that are logged beside the weighted terms."""
_ENTRY_POINT = re.compile(r"[A-Za-z_][\w.-]*")


class RewardWeights(Section):
    """Factors of the terms of the `matched` reward; every term is logged by name whatever its factor."""

    f1: Weight = 1.0
    """One-to-one IoU F1 of the answer."""
    duplicates: Weight = 0.5
    """Penalty: predictions beyond the first of their group of duplicates, per true object."""
    surplus: Weight = 0.25
    """Penalty: predictions beyond the number of true objects, per true object."""
    large: Weight = 0.25
    """Penalty: unmatched boxes over 95 % of the image, per true object."""
    rejection: Weight = 0.25
    """Penalty: share of the absent categories that were not answered `None`."""
    format: Weight = 0.25
    """Penalty: an answer with any fault of grammar."""
    truncated: Weight = 0.25
    """Penalty: an answer cut by the token limit."""
    giou: Weight = 0.0
    """Share of generalised IoU in the value of a pair of boxes, where plain IoU counts 1: rewards nearness."""
    centre: Weight = 0.0
    """Share of the closeness of centres in the value of a pair of boxes, where plain IoU counts 1."""


class CustomTermConfig(Section):
    """A term of the user's own."""

    function: str
    """`package.module:function`, or the name of an entry point of the group `rex_rl.reward_terms`."""
    weight: OwnWeight = 1.0
    """Factor in the total; below 0 for a penalty."""
    low: float = 0.0
    """Least value of the function."""
    high: float = 1.0
    """Greatest value of the function."""


class CanaryConfig(Section):
    """Cheats that the reward must not prefer to an honest, imperfect answer."""

    every: Period = 100
    """GRPO steps between checks; 0: only at the start of the stage."""
    num_records: Count = 32
    """Training records of one check, shared out over the tasks; each check takes the next ones."""
    strict: bool = False
    """End the run where a cheat scores above the imperfect answer; false warns and logs it."""


def _as_section(value: Any) -> Any:
    """A function alone stands for the section with its defaults."""
    return {"function": value} if isinstance(value, str) else value


class RewardConfig(Section):
    """How answers are scored."""

    name: Literal["matched", "paper", "official"] = "matched"
    """`matched`: one-to-one IoU F1 with penalties; `paper`, `official`: the formulas of paper and released code."""
    weights: RewardWeights = RewardWeights()
    task_weights: Annotated[dict[str, dict[str, OwnWeight]], ShownType("task: {term: weight}")] = Field(default={})
    """Weights of single tasks, laid over `reward.weights` and the weights of `reward.custom`."""
    custom: Annotated[
        dict[TermName, Annotated[CustomTermConfig, BeforeValidator(_as_section)]],
        ShownType("name: package.module:function, or name: {function, weight, low, high}"),
    ] = Field(default={})
    """Terms of your own, added to `matched`: `function(predicted, truth)` gives a finite number from `low` to `high` (0
    and 1), which counts `weight` times (1); or the name of an entry point of the group `rex_rl.reward_terms`."""
    allow: Annotated[tuple[str, ...], FROM_YAML] = ()
    """Packages, modules or `module:function`s that `reward.custom` may import; nothing else is imported."""
    canaries: CanaryConfig = CanaryConfig()

    def weights_of(self, task: str) -> dict[str, float]:
        """Weight of every term of `matched` in a task, by name."""
        return self._of_task(task, self.weights.model_dump())

    def custom_weights_of(self, task: str) -> dict[str, float]:
        """Weight of every term of the user's own in a task, by name."""
        return self._of_task(task, {name: term.weight for name, term in self.custom.items()})

    def _of_task(self, task: str, weights: Mapping[str, float]) -> dict[str, float]:
        own = self.task_weights.get(task, {})
        return {name: own.get(name, weight) for name, weight in weights.items()}


def is_allowed(function: str, allow: Iterable[str]) -> bool:
    """Whether a `package.module:function` is covered by an allow-list of packages, modules and functions.

    >>> [is_allowed("team.rewards:size", [entry]) for entry in ("team", "team.rewards", "team.rewards:size", "te")]
    [True, True, True, False]
    >>> is_allowed("team.rewards:os.system", ["team"])  # a function stands in its own module, not behind another name
    False
    """
    match = _FUNCTION.fullmatch(function)
    if match is None:
        return False
    module = match.group(1)
    return any(entry == function or f"{module}.".startswith(f"{entry}.") for entry in allow)


def check_reward(reward: RewardConfig) -> None:
    """Cross-checks of `reward`; raises ValueError that begins with the key."""
    known = {*RewardWeights.model_fields, *_OTHER_TERMS}
    for name, term in reward.custom.items():
        key = f"reward.custom.{name}"
        if name in known:
            raise ValueError(f"{key}: a term of that name exists")
        if not term.low < term.high:
            raise ValueError(f"{key}.low = {term.low:g}: not below {key}.high = {term.high:g}")
        if not (_FUNCTION.fullmatch(term.function) or _ENTRY_POINT.fullmatch(term.function)):
            raise ValueError(f"{key}.function = {term.function}: should be package.module:function or an entry point")
        if ":" in term.function and not is_allowed(term.function, reward.allow):
            raise ValueError(f"{key}.function = {term.function}: not on the list reward.allow")
    if reward.name != "matched" and (reward.custom or reward.task_weights):
        key = "custom" if reward.custom else "task_weights"
        raise ValueError(f"reward.{key}: reward.name = {reward.name} is a formula alone; only matched has weights")
    for task, weights in reward.task_weights.items():
        _check_task_weights(f"reward.task_weights.{task}", task, weights, reward.custom)


def _check_task_weights(key: str, task: str, weights: Mapping[str, float], custom: Iterable[str]) -> None:
    if task not in TASKS:
        raise ValueError(f"{key}: no such task; known are {', '.join(TASKS)}")
    terms = [*RewardWeights.model_fields, *custom]
    for name, weight in weights.items():
        if name not in terms:
            raise ValueError(f"{key}.{name}: no such term; known are {', '.join(terms)}")
        if weight < 0 and name in RewardWeights.model_fields:
            raise ValueError(f"{key}.{name} = {weight:g}: should be 0 to 10; a penalty is subtracted already")
