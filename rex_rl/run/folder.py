"""A run's folder: its files, which stages are done, and how long each part took.

```
runs/NAME/ config.yaml metrics.jsonl summary.json report.html
           checkpoints/ samples/ stages/sft/ stages/grpo/ model/ wandb/
           quarantine.jsonl (bad records) skipped/ (batches of steps that were skipped) .lock
```
"""

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rex_rl.config.load import Config, Stage, dump_config
from rex_rl.data.records import BadRecord
from rex_rl.errors import ConfigError, DataError
from rex_rl.run.checkpoints import StageCheckpoints, sync_folder, sync_to_disk
from rex_rl.run.stopping import StopRequest

if TYPE_CHECKING:
    from rex_rl.run.log import RunLog

CONFIG, STATE, SUMMARY, MODEL = "config.yaml", "state.json", "summary.json", "model"
QUARANTINE, SKIPPED = "quarantine.jsonl", "skipped"


class RunFolder:
    """One run on disk. Opened again, it goes on where it was left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        state = _read_json(folder / STATE) if (folder / STATE).is_file() else {}
        self.wall_s: dict[str, float] = state.get("wall_s", {})
        self.figures: dict[str, dict[str, float]] = state.get("figures", {})
        self.accepted: list[str] = []
        """Accepted changes of the configuration since the run began."""
        self._parts: list[str] = []
        self._last_lap = 0.0

    @classmethod
    def open(cls, config: Config, *, accept_changes: bool = False) -> "RunFolder":
        """Make or reopen the folder of a config.

        Raises ConfigError where it holds a run of another config, unless `accept_changes`.
        """
        folder, resolved = config.run_folder, dump_config(config)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / CONFIG).is_file():
                write_whole(folder / CONFIG, resolved)
        except OSError as error:
            raise ConfigError(f"run_root = {config.run_root}: {error.strerror or error}") from error
        run, changed = cls(folder), list(_differences((folder / CONFIG).read_text(), resolved))
        if changed and not accept_changes:
            raise ConfigError(
                f"{folder / CONFIG}: the run there has another configuration ({changed[0]}); "
                "take a new name, or --accept-changes"
            )
        if late := next((change for change in changed if run.is_done(change.partition(".")[0])), None):
            raise ConfigError(f"{folder / CONFIG}: that stage of the run there is done ({late}); take a new name")
        if changed:
            write_whole(folder / CONFIG, resolved)
            run.accepted = changed
        return run

    def checkpoints(self, config: Config, stage: Stage, *, log: "RunLog", stop: StopRequest) -> StageCheckpoints:
        """The checkpoints of a stage, under the config's settings."""
        return StageCheckpoints(
            self.folder / "checkpoints",
            stage,
            config.optimiser(stage),
            keep=config.checkpoint.keep,
            facts={"seed": config.seed, "wandb_run_id": log.run_id},
            stop=stop,
            event=log.event,
            rewind=partial(log.truncate_after, stage),
        )

    def write_quarantine(self, bad: Sequence[BadRecord]) -> None:
        """Write `quarantine.jsonl`: every record that was skipped, and why."""
        write_whole(self.folder / QUARANTINE, "".join(json.dumps(asdict(one)) + "\n" for one in bad))

    def stage_model(self, stage: str) -> Path:
        """Where a stage leaves its model."""
        return self.folder / "stages" / stage

    def start_of(self, stage: str, model: Path) -> Path:
        """The model a stage starts from: the SFT model where this run made one, else the configured model."""
        return self.stage_model("sft") if stage == "grpo" and self.is_done("sft") else model

    def is_done(self, stage: str) -> bool:
        """True when the stage has ended and its figures and model are on disk."""
        return stage in self.figures

    def end_stage(self, stage: str, figures: dict[str, float]) -> None:
        """Save a stage's held-out figures, which makes it done."""
        self.figures[stage] = figures
        self._save()

    @contextlib.contextmanager
    def timed(self, part: str, *, since: float | None = None) -> Iterator[None]:
        """Count the block's seconds to a part of the run, without the seconds of parts inside it.

        So parts are disjoint and add up to the run. Seconds of an interrupted attempt stay counted.
        """
        self._lap(time.monotonic() if since is None else since)
        self._parts.append(part)
        try:
            yield
        finally:
            self._lap(time.monotonic())
            self._parts.pop()
            with contextlib.suppress(OSError):  # a full disk does not end a run over its seconds
                self._save()

    def _lap(self, now: float) -> None:
        """Count the time since the last lap to the innermost open part."""
        if self._parts:
            part = self._parts[-1]
            self.wall_s[part] = self.wall_s.get(part, 0.0) + now - self._last_lap
        self._last_lap = now

    def publish_model(self, stage: str) -> None:
        """Make the last stage's model the run's model."""
        beside = self.folder / f"{MODEL}.partial"
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(self.stage_model(stage), beside)
        sync_folder(beside)
        shutil.rmtree(self.folder / MODEL, ignore_errors=True)
        beside.rename(self.folder / MODEL)
        sync_to_disk(self.folder)

    def write_summary(self) -> None:
        """Write `summary.json`: the figures of each stage, and the seconds of each part."""
        figures = {stage: {name: _or_null(value) for name, value in one.items()} for stage, one in self.figures.items()}
        summary = figures | {"wall_s": {part: round(seconds, 2) for part, seconds in self.wall_s.items()}}
        write_whole(self.folder / SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")

    def _save(self) -> None:
        write_whole(self.folder / STATE, json.dumps({"wall_s": self.wall_s, "figures": self.figures}, indent=2))


def read_summary(run: Path, *stages: str) -> dict[str, Any]:
    """A run's `summary.json`, which must have these stages.

    Raises:
        DataError: the file is missing or broken, or lacks a stage.
    """
    file = run / SUMMARY
    if not file.is_file():
        raise DataError(f"{file}: no such file; a finished run is needed")
    summary = _read_json(file)
    if missing := [stage for stage in stages if stage not in summary]:
        raise DataError(f"{file}: holds no {' and no '.join(missing)}, which is needed")
    return summary


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text())
    except ValueError as error:
        raise DataError(f"{file}: is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{file}: is not a JSON object")
    return value


def _or_null(value: float) -> float | None:
    """None for NaN, which JSON does not have: a figure that is not defined is null."""
    return value if math.isfinite(value) else None


def write_whole(file: Path, text: str) -> None:
    """Replace a file as a whole, or leave it as it was and raise OSError; afterwards it survives a power cut."""
    beside = file.with_name(f"{file.name}.partial")
    beside.write_text(text)
    sync_to_disk(beside)  # else the new name could reach the disk before the text does
    os.replace(beside, file)
    sync_to_disk(file.parent)


def _differences(there: str, here: str) -> Iterator[str]:
    """The keys in which two resolved configs differ, and how.

    >>> list(_differences("sft: {num_steps: 5}", "sft: {num_steps: 6}"))
    ['sft.num_steps is 5 there, 6 now']
    """
    try:
        old, new = (dict(_leaves(yaml.safe_load(text))) for text in (there, here))
    except yaml.YAMLError:
        yield "it is no YAML"
        return
    for key in new | old:
        before, after = (json.dumps(side[key], default=str) if key in side else "absent" for side in (old, new))
        if before != after:
            yield f"{key} is {before} there, {after} now"


def _leaves(value: object, key: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of everything in a config except sections."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from _leaves(inner, f"{key}.{name}" if key else str(name))
    else:
        yield key, value
