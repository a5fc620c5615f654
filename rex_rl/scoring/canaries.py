"""Canaries: before a run learns to cheat, cheats are tried on its own reward.

On some training records every cheat of cheats.py is scored beside the imperfect answer it was made from. Where its
mean over the records of a task is higher, the reward pays for cheating, and sooner or later a policy finds out.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rex_rl.config.reward import CanaryConfig
from rex_rl.errors import ConfigError
from rex_rl.language.codec import truth_on_grid
from rex_rl.scoring.cheats import CHEATS, imperfect_answer
from rex_rl.scoring.reward_rule import RewardRule
from rex_rl.types import Record

IMPERFECT = "imperfect"
TOLERANCE = 1e-9
"""Totals this near are equal: the same sum in another order."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CanaryReport:
    """What cheating earns under one reward."""

    reward: str
    totals: Mapping[str, Mapping[str, float]]
    """Task -> `imperfect` or a cheat's name -> mean total over the task's records; a cheat that makes no sense in a
    task is not there."""
    num_records: int

    @property
    def winners(self) -> tuple[tuple[str, str], ...]:
        """(task, cheat) of every cheat that scores above the imperfect answer."""
        return tuple(
            (task, name)
            for task, totals in self.totals.items()
            for name, total in totals.items()
            if total > totals[IMPERFECT] + TOLERANCE
        )

    @property
    def metrics(self) -> dict[str, float]:
        """`canary/NAME`: mean over the tasks of the imperfect answer and of every cheat; `canary/winners`: a count."""
        values = defaultdict(list)
        for totals in self.totals.values():
            for name, total in totals.items():
                values[f"canary/{name}"].append(total)
        means = {name: float(np.mean(found)) for name, found in values.items()}
        return means | {"canary/winners": float(len(self.winners))} if means else {}

    @property
    def text(self) -> str:
        """One line: which cheats pay, or that none does."""
        if not self.totals:
            return "canaries: no record with objects to try them on"
        worked = f"tried on {self.num_records} records of {', '.join(self.totals)}"
        if not self.winners:
            return f"canaries: no cheat pays under reward `{self.reward}`, {worked}"
        found = "; ".join(
            f"{task}: {name} {self.totals[task][name]:.3f}, imperfect answer {self.totals[task][IMPERFECT]:.3f}"
            for task, name in self.winners
        )
        return f"canaries: CHEATING PAYS under reward `{self.reward}`, {worked}: {found}"


def run_canaries(records: Sequence[Record], rule: RewardRule) -> CanaryReport:
    """Score the imperfect answer and every cheat on records; those without an object have nothing to cheat about."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    usable = [record for record in records if record.objects]
    for record in usable:
        for name, total in _totals(record, rule).items():
            found[record.task][name].append(total)
    return CanaryReport(
        reward=rule.name,
        totals={task: {name: float(np.mean(of)) for name, of in totals.items()} for task, totals in found.items()},
        num_records=len(usable),
    )


def _totals(record: Record, rule: RewardRule) -> dict[str, float]:
    truth = truth_on_grid(record)
    honest = imperfect_answer(truth)
    cheated = {name: cheat(honest, truth) for name, cheat in CHEATS.items()}
    answers = {IMPERFECT: honest} | {name: shapes for name, shapes in cheated.items() if shapes is not None}
    total_G = rule.score([list(answers.values())], [truth], task=record.task)[0].total_G
    return dict(zip(answers, total_G.tolist(), strict=True))


class EventLog(Protocol):
    """What a watch needs of the run log."""

    def event(self, name: str, **facts: object) -> None:
        """Something that happened."""


class CanaryWatch:
    """Runs the canaries at the start of a stage and every so many steps, each time on the next records."""

    def __init__(self, records: Sequence[Record], rule: RewardRule, config: CanaryConfig, log: EventLog) -> None:
        self._rule, self._config, self._log = rule, config, log
        self._records_of: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record.objects:
                self._records_of[record.task].append(record)

    def start(self) -> None:
        """The first check, always; raises ConfigError where cheating pays and `reward.canaries.strict` is set."""
        self._check(0)

    def metrics(self, step: int) -> dict[str, float]:
        """The figures of a step at which a check is due, else nothing; a check raises as `start` does."""
        every = self._config.every
        return self._check(step // every) if every and step % every == 0 else {}

    def _check(self, turn: int) -> dict[str, float]:
        report = run_canaries(self._records(turn), self._rule)
        if report.winners and self._config.strict:
            raise ConfigError(f"reward.canaries.strict = true: {report.text}")
        if report.winners or turn == 0:
            winners = [f"{task}/{name}" for task, name in report.winners]
            self._log.event("canaries", winners=", ".join(winners), message=report.text)
        return report.metrics

    def _records(self, turn: int) -> list[Record]:
        """An even share of every task, from where the check before it stopped."""
        share = -(-self._config.num_records // max(1, len(self._records_of)))
        return [
            records[(turn * share + i) % len(records)]
            for records in self._records_of.values()
            for i in range(min(share, len(records)))
        ]
