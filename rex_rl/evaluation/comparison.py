"""Compares GRPO's gain over its SFT start with the gain of as much more SFT: the control of a run.

A control is a run of its own, `NAME-control`, made by `rex-rl control RUN`: SFT from the run's SFT model on the same
data for as many steps as fit into the run's GRPO wall time at the speed its SFT had.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rex_rl.config.load import Config, load_config
from rex_rl.errors import DataError
from rex_rl.evaluation.figures import bootstrap_interval, by_task, evaluate
from rex_rl.evaluation.heldout import last_samples
from rex_rl.evaluation.image_result import ImageResult
from rex_rl.run.folder import CONFIG, SUMMARY, read_summary

CONTROL_SUFFIX = "-control"
NUM_BOOTSTRAP = 1000
COLUMNS = ("f1_miou", "precision_50", "recall_50", "duplicate_rate", "repeat_rate", "parse_failure_rate")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskGain:
    """`f1_miou` of one task at the end of both stages, and the 95 % bootstrap interval of the gain over the images."""

    task: str
    num_images: int
    sft: float
    grpo: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The figures of one run: its SFT model, the same after GRPO and, if it was run, after more SFT."""

    name: str
    sft: Mapping[str, float]
    grpo: Mapping[str, float]
    control: Mapping[str, float] | None
    answers: tuple[Sequence[ImageResult], Sequence[ImageResult]] = field(default=((), ()), repr=False)
    """Those of the last evaluations of SFT and GRPO, to the same images; empty where a stage has left none."""

    @property
    def tasks(self) -> tuple[TaskGain, ...]:
        """The gain in each task."""
        return gains_by_task(*self.answers)

    def gain(self, figure: str) -> float:
        """What GRPO added to a figure."""
        return self.grpo[figure] - self.sft[figure]

    def control_gain(self, figure: str) -> float:
        """What more SFT added to it; NaN where no control was run."""
        return math.nan if self.control is None else self.control[figure] - self.sft[figure]


def control_config(run: Path) -> Config:
    """The configuration of a run's control.

    The seed stays the run's: it decides which records are held back, and the control must not train on those.
    """
    summary, config = read_summary(run, "sft", "grpo"), load_config(run / CONFIG)
    seconds_per_step = summary["wall_s"]["sft"] / config.sft.num_steps
    num_steps = max(1, round(summary["wall_s"]["grpo"] / seconds_per_step))
    overrides = [
        f"name={config.name}{CONTROL_SUFFIX}",
        f"run_root={run.parent.absolute()}",
        "stages=[sft]",
        f"model.path={(run / 'stages' / 'sft').absolute()}",
        f"sft.num_steps={num_steps}",
        "sft.eval_every=0",
        "sft.save_every=0",
    ]
    return load_config(run / CONFIG, overrides)


def compare(runs: Sequence[Path]) -> list[Comparison]:
    """The comparisons of finished runs of both stages."""
    found = []
    for run in runs:
        summary = read_summary(run, "sft", "grpo")
        control = run.with_name(run.name + CONTROL_SUFFIX)
        found.append(
            Comparison(
                name=run.name,
                sft=figures_of(summary["sft"]),
                grpo=figures_of(summary["grpo"]),
                control=figures_of(read_summary(control, "sft")["sft"]) if (control / SUMMARY).is_file() else None,
                answers=_last_answers(run),
            )
        )
    return found


def _last_answers(run: Path) -> tuple[Sequence[ImageResult], Sequence[ImageResult]]:
    """What the last evaluations of both stages left."""
    sft, grpo = ([result for _, result in last_samples(run, stage)] for stage in ("sft", "grpo"))
    if not sft or not grpo:
        return (), ()
    if _asked(by_task(sft)) != _asked(by_task(grpo)):
        raise DataError(f"{run / 'samples'}: the last evaluations of sft and grpo are not of the same images")
    return sft, grpo


def gains_by_task(sft: Sequence[ImageResult], grpo: Sequence[ImageResult]) -> tuple[TaskGain, ...]:
    """What GRPO added in each task, from answers to the same images; nothing without answers."""
    if not sft:
        return ()
    sft_of, grpo_of = by_task(sft), by_task(grpo)
    return tuple(
        TaskGain(
            task=task,
            num_images=len(after),
            sft=evaluate(sft_of[task])["f1_miou"],
            grpo=evaluate(after)["f1_miou"],
            interval=bootstrap_interval(after, "f1_miou", before=sft_of[task], num_samples=NUM_BOOTSTRAP, seed=0),
        )
        for task, after in grpo_of.items()
    )


def _asked(results_of: Mapping[str, Sequence[ImageResult]]) -> dict[str, list[str]]:
    """Task -> the images asked about."""
    return {task: [result.image_id for result in results] for task, results in results_of.items()}


def figures_of(stage: Mapping[str, float | None]) -> dict[str, float]:
    """A stage's figures; a summary holds null where one is undefined."""
    return {name: math.nan if value is None else value for name, value in stage.items()}


def table(comparisons: Sequence[Comparison]) -> list[str]:
    """Markdown: each run after SFT, GRPO and as much more SFT, shares in percent; then its tasks."""
    lines = ["| run | after | " + " | ".join(COLUMNS) + " |", "|---|---|" + "---|" * len(COLUMNS)]
    for one in comparisons:
        rows = [("SFT", one.sft), ("GRPO", one.grpo)]
        rows += [("more SFT", one.control)] if one.control is not None else []
        lines += [
            f"| {one.name} | {stage} | "
            + " | ".join(f"{100 * figures.get(name, math.nan):.2f} %" for name in COLUMNS)
            + " |"
            for stage, figures in rows
        ]
    lines += _task_table(comparisons)
    gains = [one.gain("f1_miou") for one in comparisons]
    controls = [one.control_gain("f1_miou") for one in comparisons]
    lines.append("")
    lines.append(f"f1_miou gained, mean of {len(gains)}: GRPO {_points(gains)}, more SFT {_points(controls)}")
    return lines


def _task_table(comparisons: Sequence[Comparison]) -> list[str]:
    """`f1_miou` by task with its gain's interval, of each run and of the images of all; nothing without samples."""
    named = [(one.name, one.tasks) for one in comparisons]
    if len(named) > 1 and all(tasks for _, tasks in named):
        sft, grpo = ([result for one in comparisons for result in one.answers[stage]] for stage in (0, 1))
        named.append(("all", gains_by_task(sft, grpo)))
    rows = [
        f"| {name} | {of.task} | {of.num_images} | {100 * of.sft:.2f} % | {100 * of.grpo:.2f} % "
        f"| {100 * (of.grpo - of.sft):+.2f} | {100 * of.interval[0]:+.2f} to {100 * of.interval[1]:+.2f} |"
        for name, tasks in named
        for of in tasks
    ]
    head = [
        "",
        "| run | task | images | f1_miou after SFT | after GRPO | points gained | 95 % interval |",
        "|---" * 7 + "|",
    ]
    return head + rows if rows else []


def _points(gains: Sequence[float]) -> str:
    if any(math.isnan(gain) for gain in gains):
        return "not run (rex-rl control RUN)"
    each = ", ".join(f"{100 * gain:+.2f}" for gain in gains)
    return f"{100 * sum(gains) / len(gains):+.2f} points ({each})"
