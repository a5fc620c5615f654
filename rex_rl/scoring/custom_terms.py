"""Reward terms of the user's own: plain functions of prediction and truth, imported from an allow-list.

    def short_labels(predicted: rex_rl.types.Shapes, truth: rewards.Truth) -> float: ..

Every value a function gives is checked: one that is not a finite number within its range ends the run, as an error is
never turned into a reward.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from numbers import Real

import numpy as np

from rewards import Predictions, Truth
from rex_rl.config.reward import RewardConfig, is_allowed
from rex_rl.errors import ConfigError, RunError

ENTRY_POINTS = "rex_rl.reward_terms"
"""Group under which an installed package can offer a term by a short name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomTerm:
    """A user's function with the range it promises."""

    name: str
    function: Callable[[Predictions, Truth], float]
    low: float
    high: float

    def values(self, predicted_G: Sequence[Predictions], truth: Truth) -> np.ndarray:
        """[G] float64 in [low, high]. Raises RunError for anything else; what the function raises goes through.

        >>> term = CustomTerm(name="short", function=lambda predicted, truth: 0.5, low=0.0, high=1.0)
        >>> term.values([None, None], None)
        array([0.5, 0.5])
        """
        return np.array([self._checked(self.function(predicted, truth)) for predicted in predicted_G], dtype=np.float64)

    def _checked(self, value: object) -> float:
        number = float(value) if isinstance(value, Real) else math.nan
        if self.low <= number <= self.high:  # NaN is not
            return number
        raise RunError(
            f"reward.custom.{self.name}: gave {value!r:.60}, not a number from {self.low:g} to {self.high:g}"
        )


def load_terms(reward: RewardConfig) -> tuple[CustomTerm, ...]:
    """The configured functions, imported; they must be importable wherever rewards are computed.

    Raises ConfigError for what is not on the allow-list, cannot be found, or is no function.
    """
    return tuple(
        CustomTerm(
            name=name,
            function=_import(f"reward.custom.{name}.function", term.function, reward.allow),
            low=term.low,
            high=term.high,
        )
        for name, term in reward.custom.items()
    )


def _import(key: str, named: str, allow: Sequence[str]) -> Callable[[Predictions, Truth], float]:
    target = named if ":" in named else _entry_point(key, named)
    if not is_allowed(target, allow):
        raise ConfigError(f"{key} = {named}: {target} is not on the list reward.allow")
    module, _, attribute = target.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ConfigError(f"{key} = {named}: {module} cannot be imported: {error}") from error
    if not callable(function):
        raise ConfigError(f"{key} = {named}: {module} has no function {attribute}")
    return function


def _entry_point(key: str, name: str) -> str:
    """The `module:function` that an installed entry point stands for; it is read, not loaded."""
    found = sorted({point.value for point in entry_points(group=ENTRY_POINTS, name=name)})
    if len(found) != 1:
        many = f"{len(found)} entry points ({', '.join(found)})" if found else "no entry point"
        raise ConfigError(f"{key} = {name}: {many} of that name in the group {ENTRY_POINTS}")
    return found[0]
