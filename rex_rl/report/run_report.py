"""From a run's folder to its `report.html`; reads files only, so it works while a run goes on and after."""

from pathlib import Path
from typing import Any

from rex_rl.errors import DataError
from rex_rl.evaluation.heldout import last_samples
from rex_rl.report.draw import Series
from rex_rl.report.page import EvalPoint, ReportData, Sample, write_report
from rex_rl.run.folder import CONFIG, SUMMARY, read_summary
from rex_rl.run.log import read_metrics

STAGES = ("sft", "grpo")
NUM_SAMPLES = 12
EVAL_PREFIX = "eval/"
SHOWN_KEYS = (
    ("model", "path"),
    ("data", "train"),
    ("sft", "num_steps"),
    ("grpo", "num_steps"),
    ("grpo", "prompts_per_step"),
    ("grpo", "group_size"),
    ("grpo", "kl_beta"),
    ("reward", "name"),
    ("rollout", "num_workers"),
    ("learner", "num_ranks"),
)


def write_run_report(folder: Path) -> Path:
    """Write `report.html` of a run from its config, metrics, summary and samples; returns the page's path."""
    if not (folder / CONFIG).is_file():
        raise DataError(f"{folder}: no {CONFIG}, so not a run's folder")
    import yaml

    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
        name, facts = config["name"], {".".join(key): config[key[0]][key[1]] for key in SHOWN_KEYS}
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{folder / CONFIG}: is not a run's configuration ({type(error).__name__}: {error})") from error
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "event" not in row]
    summary = read_summary(folder) if (folder / SUMMARY).is_file() else {}
    data = ReportData(
        run_name=name,
        config=facts,
        summary=summary,
        series=_series(rows),
        evaluations=_evaluations(rows),
        samples=_samples(folder),
    )
    write_report(folder / "report.html", data)
    return folder / "report.html"


def _series(rows: list[dict[str, Any]]) -> dict[str, Series]:
    """Curves of the report by name: GRPO's under their own, SFT's loss as `sft/loss`."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if row.get("stage") in STAGES and isinstance(value, float | int) and not name.startswith(EVAL_PREFIX):
                shown = name if row["stage"] == "grpo" else f"sft/{name}"
                points.setdefault(shown, []).append((row["step"], value))
    wanted = [
        name
        for name in points
        if name in ("reward", "kl", "entropy", "sft/loss")
        or name.startswith("reward/")
        or (name.startswith("rewards/") and name.endswith("/mean"))
    ]
    return {
        name: Series(steps=[step for step, _ in points[name]], values=[value for _, value in points[name]])
        for name in wanted
    }


def _evaluations(rows: list[dict[str, Any]]) -> list[EvalPoint]:
    return [
        EvalPoint(
            stage=row["stage"],
            step=row["step"],
            metrics={name.removeprefix(EVAL_PREFIX): row[name] for name in row if name.startswith(EVAL_PREFIX)},
        )
        for row in rows
        if any(name.startswith(EVAL_PREFIX) for name in row)
    ]


def _samples(folder: Path) -> list[Sample]:
    """The first images of the held-out set, answered at the end of each stage."""
    samples: dict[str, Sample] = {}  # by record: an image may be asked about more than once, and a folder may move
    for stage in STAGES:
        for image, result in last_samples(folder, stage)[:NUM_SAMPLES]:
            before = samples.get(result.image_id)
            answers = {**(before.answers if before else {}), stage: result}
            samples[result.image_id] = Sample(image=image, answers=answers)
    return list(samples.values())
