"""From a run's folder to its `report.html`; reads files only, so it works while a run goes on and after."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from rex_rl.draw import Series, overlay
from rex_rl.errors import DataError
from rex_rl.heldout import last_samples
from rex_rl.images import open_image
from rex_rl.report import EvalPoint, ReportData, Sample, write_report
from rex_rl.run_folder import CONFIG, SUMMARY
from rex_rl.run_log import read_metrics

STAGES = ("sft", "grpo")
NUM_SAMPLES = 12
PICTURE_COLUMNS, CROWDED_OBJECTS = 3, 12
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

    config = yaml.safe_load((folder / CONFIG).read_text())
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if "event" not in row]
    summary = json.loads((folder / SUMMARY).read_text()) if (folder / SUMMARY).is_file() else {}
    data = ReportData(
        run_name=config["name"],
        config={".".join(key): config[key[0]][key[1]] for key in SHOWN_KEYS},
        summary=summary,
        series=_series(rows),
        evaluations=_evaluations(rows),
        samples=_samples(folder),
    )
    write_report(folder / "report.html", data)
    write_picture(folder / "before_after.png", data.samples)
    return folder / "report.html"


def write_picture(path: Path, samples: Sequence[Sample]) -> None:
    """The first crowded held-out images, SFT's answers above GRPO's; nothing where a stage is missing."""
    crowded = [
        sample
        for sample in samples
        if set(STAGES) <= set(sample.answers) and len(sample.answers["sft"].truth_labels) >= CROWDED_OBJECTS
    ][:PICTURE_COLUMNS]
    if not crowded:
        return
    rows = [[overlay(open_image(one.image), one.answers[stage]) for one in crowded] for stage in STAGES]
    width = max(image.width for row in rows for image in row)
    height = max(image.height for row in rows for image in row)
    sheet = Image.new("RGB", (width * len(crowded), height * len(rows)), "white")
    for line, row in enumerate(rows):
        for column, image in enumerate(row):
            sheet.paste(image, (column * width, line * height))
    sheet.save(path, optimize=True)


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
    answers: dict[tuple[str, str], dict[str, Any]] = {}  # an image may be asked about more than once
    for stage in STAGES:
        for image, result in last_samples(folder, stage)[:NUM_SAMPLES]:
            answers.setdefault((image, result.image_id), {})[stage] = result
    return [Sample(image=image, answers=by_stage) for (image, _), by_stage in answers.items()]
