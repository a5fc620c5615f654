"""The log of a run: `metrics.jsonl`, the console and W&B, written by one call per step.

`metrics.jsonl` is complete without the others. Its lines, in the order they were logged:

    {"stage": "grpo", "step": 3, "time": 1760000000.5, "reward": 0.41, .., "timing_s/rollout": 2.5}
    {"stage": "sft", "step": 100, "time": .., "loss": 0.62, .., "timing_s/learn": 0.4}
    {"stage": "grpo", "step": 20, "time": .., "eval/f1_50": 0.61, ..}
    {"event": "bad_record", "time": .., "record": "train.jsonl:12: bbox: x1 12 <= x0 30"}

Values that are not finite are written as null. W&B has the same names, but SFT's start with `sft/` there, as it shows
all stages in one list. Nothing here ends a run: a full disk or a W&B that does not answer is a warning, once.
"""

import errno
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from rex_rl.errors import DataError, UserError
from rex_rl.run.console import Console, Pace, make_console

if TYPE_CHECKING:
    from rex_rl.config.load import Config
    from rex_rl.run.tracking import Tracker

METRICS_FILE = "metrics.jsonl"
STAGES = ("sft", "grpo")
"""In the order of a run."""
HEADLINE = {"reward": "reward", "rewards/f1/mean": "f1", "loss": "loss", "kl": "kl"}
"""Metrics of a step that the console shows -> their names there."""
StepWatcher = Callable[[str, int, int, Mapping[str, float]], None]
"""(stage, step, num_steps, seconds by part)."""
EVAL_HEADLINE = ("f1_50", "f1_miou", "recall_50", "duplicate_rate")


class StepTimer:
    """Seconds by name: `with timer("rollout"): ..`; uses of one name add up."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time the `with` block, also when it raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - begun

    @property
    def seconds(self) -> dict[str, float]:
        """Name -> seconds so far, in the order first used."""
        return dict(self._seconds)


class RunLog:
    """The log of one run; a context manager, which tells W&B whether the run failed."""

    def __init__(self, folder: Path, *, tracker: "Tracker | None", console: Console | None = None) -> None:
        """`console` None: a progress line where standard error is a terminal, else a line a step.

        Raises UserError where `folder` cannot be written to; no later method raises.
        """
        self._lines = _LineFile(folder / METRICS_FILE)
        self._tracker = tracker
        self.run_id = None if tracker is None else tracker.run_id
        """The id of W&B's run."""
        self._console = make_console() if console is None else console
        self._paces: dict[str, Pace] = {}
        self._is_disk_reported = False
        self._num_sft_steps = _last_sft_step(self._lines.path)
        self._watchers: list[StepWatcher] = []
        if tracker is not None:
            self.event("wandb", mode=tracker.mode, run_id=tracker.run_id, message=f"W&B: {tracker.notice}")

    @classmethod
    def for_run(cls, config: "Config", folder: Path) -> "RunLog":
        """The log of a configured run, W&B included."""
        from rex_rl.run.tracking import start_tracker

        settings = config.model_dump(mode="json")
        tracker = start_tracker(config.wandb, folder=folder, run_name=config.name, settings=settings)
        return cls(folder, tracker=tracker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(failed=error is not None)

    def step(
        self, stage: str, step: int, *, num_steps: int, metrics: Mapping[str, float], seconds: Mapping[str, float]
    ) -> None:
        """One optimiser step: `step` counts from 1 within its stage, `seconds` are the parts of `StepTimer`."""
        timings = {f"timing_s/{name}": value for name, value in seconds.items()}
        values = _named("", {**metrics, **timings})
        if stage == "sft":
            self._num_sft_steps = step
        self._write({"stage": stage, "step": step, "time": time.time(), **values})
        tracked = _named("sft/", values) if stage == "sft" else values
        self._track(f"{stage}/step", step, tracked, row=3 * self._global_step(stage, step))
        pace = self._paces.setdefault(stage, Pace(step, sum(seconds.values())))
        shown = [f"{short} {_figure(values[name])}" for name, short in HEADLINE.items() if name in values]
        text = "  ".join([*shown, f"{_figure(sum(seconds.values()))} s", pace.left(step, num_steps)])
        self._console.progress(stage, step, num_steps, text)
        for watch in self._watchers:
            watch(stage, step, num_steps, seconds)

    def watch_steps(self, watch: StepWatcher) -> None:
        """Call `watch` at every step from now on."""
        self._watchers.append(watch)

    def evaluation(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Held-out figures after `step` steps of `stage`."""
        values = _named("eval/", metrics)
        self._write({"stage": stage, "step": step, "time": time.time(), **values})
        global_step = self._global_step(stage, step)
        self._track("eval/step", global_step, values, row=3 * global_step + (2 if stage == "grpo" else 1))
        shown = [f"{name} {_figure(values[f'eval/{name}'])}" for name in EVAL_HEADLINE if f"eval/{name}" in values]
        self._console.say(f"{stage} {step}, held-out: {'  '.join(shown)}")

    def event(self, name: str, **facts: object) -> None:
        """Log something that happened once; the console shows its `message` if the facts have one, else all facts."""
        self._write({"event": name, "time": time.time(), **{key: _plain(value) for key, value in facts.items()}})
        told = "  ".join(f"{key}={value}" for key, value in facts.items())
        self._console.say(str(facts.get("message") or f"{name}: {told}"))

    def truncate_after(self, stage: str, step: int) -> None:
        """Remove the lines of `stage` after `step` and of later stages; the run goes on from there, and logs them anew.

        Events stay, because they happened. The file is replaced at once, or left as it is.
        """
        try:
            self._lines.keep(lambda line: _is_before(line, stage, step))
        except OSError as error:
            self._report_disk(error)
        self._paces.clear()
        self._num_sft_steps = _last_sft_step(self._lines.path)

    def close(self, *, failed: bool = False) -> None:
        """Finish W&B's upload, within its time limit, and close the rest."""
        tracker, self._tracker = self._tracker, None
        if tracker is not None and (fault := tracker.finish(failed=failed)):
            self.event("wandb_unfinished", message=f"W&B: {fault}")
        self._console.close()
        self._lines.close()

    def _global_step(self, stage: str, step: int) -> int:
        """Steps of all stages so far. W&B has three rows for each: the step, and evaluations of SFT and of GRPO."""
        return step + (self._num_sft_steps if stage == "grpo" else 0)

    def _track(self, axis: str, position: int, values: Mapping[str, float], *, row: int) -> None:
        if self._tracker is not None and (fault := self._tracker.log(axis, position, values, row=row)):
            self.event("wandb_stopped", message=f"W&B takes no more: {fault}; {METRICS_FILE} has the numbers")

    def _write(self, record: Mapping[str, object]) -> None:
        finite = {name: _plain(value) for name, value in record.items()}
        try:
            self._lines.append(json.dumps(finite, allow_nan=False))
        except OSError as error:
            self._report_disk(error)

    def _report_disk(self, error: OSError) -> None:
        if not self._is_disk_reported:
            self._is_disk_reported = True
            self._console.say(f"{self._lines.path}: {error.strerror}; the run goes on, and lines may be missing there")


def read_metrics(file: Path) -> list[dict[str, object]]:
    """The lines of a `metrics.jsonl`, in order. A line that a crash cut is left out.

    Null reads as NaN in lines of metrics, as None in events.

    Raises DataError when the file cannot be read.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from None
    records = [record for line in data.splitlines() if (record := _parsed(line)) is not None]
    return [
        record if "event" in record else {name: math.nan if value is None else value for name, value in record.items()}
        for record in records
    ]


class _LineFile:
    """Appends whole lines; removes a partial line that a crash or a full disk left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open()
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from None

    def _open(self) -> None:
        stream = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        self._num_bytes = self.path.read_bytes().rfind(b"\n") + 1
        stream.truncate(self._num_bytes)
        self._stream = stream

    def append(self, line: str) -> None:
        """Append one line, on disk on return (as far as the process can tell); OSError leaves the file as it was."""
        data = f"{line}\n".encode()
        with self._lock:  # the thread that watches the workers logs events too
            try:
                if self._stream.write(data) != len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                with suppress(OSError):
                    self._stream.truncate(self._num_bytes)
                raise
            self._num_bytes += len(data)

    def keep(self, is_kept: Callable[[bytes], bool]) -> None:
        """Remove all other lines at once; OSError leaves the file as it was."""
        beside = self.path.with_name(f"{self.path.name}.tmp")
        with self._lock:
            lines = self.path.read_bytes().splitlines(keepends=True)
            beside.write_bytes(b"".join(line for line in lines if is_kept(line)))
            os.replace(beside, self.path)
            replaced = self._stream
            self._open()
            replaced.close()

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _named(prefix: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {name if name.startswith(prefix) else prefix + name: float(value) for name, value in metrics.items()}


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _is_before(line: bytes, stage: str, step: int) -> bool:
    """Whether a line is of `stage` up to `step`, of an earlier stage, or of no stage."""
    record = _parsed(line) or {}
    if "event" in record or record.get("stage") not in STAGES:
        return True
    place, limit = STAGES.index(record["stage"]), STAGES.index(stage)
    return place < limit or (place == limit and (record.get("step") or 0) <= step)


def _last_sft_step(file: Path) -> int:
    rows = (record for record in read_metrics(file) if "event" not in record)
    steps = [record.get("step") for record in rows if record.get("stage") == "sft"]
    return max((step for step in steps if isinstance(step, int)), default=0)


def _plain(value: object) -> object:
    """A value JSON can hold: numbers that are not finite become None, unknown types their text."""
    match value:
        case None | bool() | str():
            return value
        case Integral():
            return int(value)
        case Real():
            return float(value) if math.isfinite(value) else None
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case _:
            return str(value)


def _figure(value: float) -> str:
    """A figure with four digits, enough to follow a run.

    >>> _figure(0.51234), _figure(-1.5e-6), _figure(128.0)
    ('0.5123', '-1.5e-06', '128')
    """
    return f"{value:.4g}"
