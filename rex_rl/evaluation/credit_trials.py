"""Finds the form of credit GRPO learns best with: it starts from the SFT model of each run, once with each form.

A trial is a run of its own, `NAME-credit-FORM`, which differs from its run in nothing but the keys of its form and its
number of steps. Trials that are done are not run again, so an interrupted comparison goes on when it is repeated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from rex_rl.config.load import Config, load_config
from rex_rl.errors import DataError
from rex_rl.evaluation.comparison import figures_of
from rex_rl.run.folder import CONFIG, read_summary

FORMS: Mapping[str, tuple[str, ...]] = {
    "none": ("grpo.advantage.credit=none",),
    "to_go_1": ("grpo.advantage.credit=to_go", "grpo.advantage.credit_lambda=1.0"),
    "to_go_0.95": ("grpo.advantage.credit=to_go", "grpo.advantage.credit_lambda=0.95"),
    "to_go_0.9": ("grpo.advantage.credit=to_go", "grpo.advantage.credit_lambda=0.9"),
}
"""Every form by name, with the keys it sets."""
SHOWN = ("f1_miou", "duplicate_rate", "recall_50")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """Held-out figures of one run's SFT model, and of the model after GRPO with one form of credit."""

    run: str
    credit: str
    sft: Mapping[str, float]
    grpo: Mapping[str, float]

    @property
    def gain(self) -> float:
        """What GRPO added to `f1_miou`."""
        return self.grpo["f1_miou"] - self.sft["f1_miou"]


def trial_config(run: Path, credit: str, num_steps: int) -> Config:
    """The configuration of one trial. The seed stays the run's: it decides which records are held back.

    Raises DataError where the run has no SFT model to start from, or no figures to compare with.
    """
    model = run / "stages" / "sft"
    if not model.is_dir():
        raise DataError(f"{model}: no such folder; a run whose SFT is done is needed")
    read_summary(run, "sft")  # needed after the last trial; if it is missing, it is better to raise before the first
    overrides = [
        f"name={load_config(run / CONFIG).name}-credit-{credit}",
        f"run_root={run.parent.absolute()}",
        "stages=[grpo]",
        f"model.path={model.absolute()}",
        *FORMS[credit],
        f"grpo.num_steps={num_steps}",
        "grpo.eval_every=0",
        "grpo.save_every=0",
    ]
    return load_config(run / CONFIG, overrides)


def read_trial(run: Path, trial: Path, credit: str) -> Trial:
    """A finished trial of a run."""
    return Trial(
        run=run.name,
        credit=credit,
        sft=figures_of(read_summary(run, "sft")["sft"]),
        grpo=figures_of(read_summary(trial, "grpo")["grpo"]),
    )


def table(trials: Sequence[Trial]) -> list[str]:
    """Markdown: a line a form, the one with the largest mean gain first, each run's gain in points of `f1_miou`."""
    runs = list(dict.fromkeys(trial.run for trial in trials))
    lines = [
        f"| credit | {' | '.join(runs)} | mean gain of f1_miou | {' | '.join(SHOWN)} |",
        "|---" * (len(runs) + 2 + len(SHOWN)) + "|",
    ]
    of_credit = {credit: [trial for trial in trials if trial.credit == credit] for credit in FORMS}
    for credit, found in sorted(of_credit.items(), key=lambda item: -fmean([trial.gain for trial in item[1]])):
        cells = [f"{100 * trial.gain:+.2f}" for trial in found]
        cells.append(f"{100 * fmean([trial.gain for trial in found]):+.2f}")
        cells += [f"{100 * fmean([trial.grpo[name] for trial in found]):.2f} %" for name in SHOWN]
        lines.append(f"| {credit} | {' | '.join(cells)} |")
    starts = {trial.run: trial.sft for trial in trials}.values()
    start = [f"{100 * fmean([sft[name] for sft in starts]):.2f} %" for name in SHOWN]
    lines.append(f"| after SFT | {' | '.join([''] * len(runs))} |  | {' | '.join(start)} |")
    return lines
