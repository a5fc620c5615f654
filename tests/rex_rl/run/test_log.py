"""The run's log: the content of its lines, and that none of its faults ends a run."""

import json
import math
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rex_rl.errors import DataError, UserError
from rex_rl.run import log as run_log
from rex_rl.run.log import RunLog, StepTimer, read_metrics


class FakeConsole:
    """A console that keeps its lines."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[str, int, int, str]] = []

    def progress(self, stage: str, step: int, num_steps: int, text: str) -> None:
        self.steps.append((stage, step, num_steps, text))

    def say(self, text: str) -> None:
        self.said.append(text)

    def close(self) -> None:
        self.said.append("closed")


class FakeTracker:
    """A tracker that keeps its calls; from the `fails_at`-th on it behaves as the real one after a fault."""

    run_id, mode, notice = "abc", "offline", "offline; to upload: wandb sync X"

    def __init__(self, fails_at: int = 10**9) -> None:
        self.calls: list[tuple[str, int, dict[str, float], int]] = []
        self.is_failed: bool | None = None
        self._fails_at = fails_at

    def log(self, axis: str, position: int, values: Mapping[str, float], *, row: int) -> str | None:
        self.calls.append((axis, position, dict(values), row))
        return "ConnectionResetError: Connection lost" if len(self.calls) == self._fails_at else None

    def finish(self, *, failed: bool) -> str | None:
        self.is_failed = failed
        return None


@pytest.fixture
def console() -> FakeConsole:
    return FakeConsole()


@pytest.fixture
def log(tmp_path: Path, console: FakeConsole) -> Iterator[RunLog]:
    with RunLog(tmp_path, tracker=None, console=console) as opened:
        yield opened


def grpo_step(log: RunLog, step: int, **metrics: float) -> None:
    log.step("grpo", step, num_steps=10, metrics={"reward": step / 10, **metrics}, seconds={"learn": 0.5})


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def files_no_longer_than(num_bytes: int) -> Iterator[None]:
    """Within it the kernel cuts writes as a full disk does: a part of the line, after that nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_step_is_one_line_with_metrics_and_timings(tmp_path: Path, log: RunLog) -> None:
    metrics = {"reward": 0.25, "rewards/f1/mean": np.float32(0.5)}
    log.step("grpo", 3, num_steps=10, metrics=metrics, seconds={"rollout": 2.5})
    (line,) = lines(tmp_path)
    assert line.pop("time") > 1.7e9
    assert line == {"stage": "grpo", "step": 3, "reward": 0.25, "rewards/f1/mean": 0.5, "timing_s/rollout": 2.5}


def test_an_evaluation_is_a_line_of_its_own(tmp_path: Path, log: RunLog) -> None:
    """Its names start with eval/, whether or not they were given so."""
    log.evaluation("sft", 1, {"f1_50": 0.5, "eval/f1_miou": 0.25})
    (line,) = lines(tmp_path)
    assert line.pop("time") > 1.7e9
    assert line == {"stage": "sft", "step": 1, "eval/f1_50": 0.5, "eval/f1_miou": 0.25}


def test_sft_has_plain_names_in_the_file_and_its_own_in_wandb(tmp_path: Path, console: FakeConsole) -> None:
    """A line has its stage; W&B shows all stages in one list."""
    tracker = FakeTracker()
    with RunLog(tmp_path, tracker=tracker, console=console) as log:  # type: ignore[arg-type]
        log.step("sft", 1, num_steps=2, metrics={"loss": 2.0}, seconds={"learn": 0.5})
    assert {"loss", "timing_s/learn"} < set(lines(tmp_path)[-1])
    assert tracker.calls[0][2] == {"sft/loss": 2.0, "sft/timing_s/learn": 0.5}


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path: Path, log: RunLog) -> None:
    grpo_step(log, 1, kl=math.nan, loss=math.inf)
    log.event("note", nothing=None, share=math.nan, size=np.int64(3), path=tmp_path, sides=(1, 2.5))

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    step, event = read_metrics(tmp_path / "metrics.jsonl")
    assert [str(step["kl"]), str(step["loss"])] == ["nan", "nan"]
    event.pop("time")
    assert event == {
        "event": "note",
        "nothing": None,
        "share": None,
        "size": 3,
        "path": str(tmp_path),
        "sides": [1, 2.5],
    }


def test_a_line_is_readable_by_others_at_once(tmp_path: Path, log: RunLog) -> None:
    """Nothing waits in a buffer, so a killed run has logged its last step."""
    grpo_step(log, 1)
    assert len(lines(tmp_path)) == 1


def test_a_file_cut_at_any_byte_is_read_and_continued(tmp_path: Path, console: FakeConsole) -> None:
    """The reader skips the cut line; a new log removes it, so that its own first line is whole."""
    file = tmp_path / "metrics.jsonl"
    with RunLog(tmp_path, tracker=None, console=console) as first:
        for step in (1, 2):
            grpo_step(first, step)
    whole = file.read_bytes()
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        num_whole = whole[:cut].count(b"\n")
        assert len(read_metrics(file)) in (num_whole, num_whole + 1)  # the line may lack only its end of line
        with RunLog(tmp_path, tracker=None, console=console) as second:
            grpo_step(second, 9)
        assert [line["step"] for line in lines(tmp_path)] == [*range(1, num_whole + 1), 9]


def test_reading_a_file_that_is_not_there_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"metrics.jsonl: cannot be read"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_truncation_leaves_what_came_before(tmp_path: Path, log: RunLog, console: FakeConsole) -> None:
    """Lines of the stage beyond the step, and of later stages, go; earlier ones and events stay; logging goes on."""
    for step in (1, 2, 3):
        log.step("sft", step, num_steps=3, metrics={"loss": 1.0}, seconds={})
    log.evaluation("sft", 3, {"f1_50": 0.3})
    for step in (1, 2, 3):
        grpo_step(log, step)
        log.event("told", at=step)
    log.evaluation("grpo", 3, {"f1_50": 0.4})

    log.truncate_after("grpo", 1)
    kept = [(line.get("stage"), line.get("step")) for line in lines(tmp_path)]
    told = (None, None)
    stages = [("sft", 1), ("sft", 2), ("sft", 3), ("sft", 3), ("grpo", 1)]
    assert kept == [*stages, told, told, told]
    grpo_step(log, 2)
    assert lines(tmp_path)[-1]["step"] == 2

    log.truncate_after("sft", 0)
    assert not [line for line in lines(tmp_path) if "stage" in line]
    log.step("sft", 1, num_steps=3, metrics={}, seconds={})
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_step_before_the_first_of_this_process_may_come(log: RunLog) -> None:
    """Where a learner is lost and the newest checkpoint is refused, the time left is estimated anew from there."""
    log.step("grpo", 51, num_steps=60, metrics={}, seconds={"learn": 1.0})
    log.truncate_after("grpo", 49)
    log.step("grpo", 50, num_steps=60, metrics={}, seconds={"learn": 1.0})


def test_wandb_gets_its_own_step_axes_and_rising_rows(tmp_path: Path, console: FakeConsole) -> None:
    """eval/step counts SFT's steps before GRPO's, also in a process that did not run SFT; one call a step."""
    first, second = FakeTracker(), FakeTracker()
    with RunLog(tmp_path, tracker=first, console=console) as log:  # type: ignore[arg-type]
        for step in (1, 2):
            log.step("sft", step, num_steps=2, metrics={"loss": 1.0}, seconds={"learn": 0.5})
        log.evaluation("sft", 2, {"f1_50": 0.3})
    with RunLog(tmp_path, tracker=second, console=console) as log:  # type: ignore[arg-type]
        log.evaluation("grpo", 0, {"f1_50": 0.3})
        grpo_step(log, 1)
        log.evaluation("grpo", 1, {"f1_50": 0.4})
    calls = first.calls + second.calls
    assert [(axis, position) for axis, position, _, _ in calls] == [
        ("sft/step", 1),
        ("sft/step", 2),
        ("eval/step", 2),
        ("eval/step", 2),
        ("grpo/step", 1),
        ("eval/step", 3),
    ]
    rows = [row for *_, row in calls]
    assert rows == sorted(set(rows))
    assert second.calls[1][2] == {"reward": 0.1, "timing_s/learn": 0.5}


def test_a_resumed_run_repeats_row_numbers_of_repeated_steps(tmp_path: Path, console: FakeConsole) -> None:
    """W&B drops a row number it has, so a curve does not have the steps between checkpoint and crash twice."""
    tracker = FakeTracker()
    with RunLog(tmp_path, tracker=tracker, console=console) as log:  # type: ignore[arg-type]
        log.step("sft", 1, num_steps=1, metrics={}, seconds={})
        for step in (1, 2, 3):
            grpo_step(log, step)
        log.truncate_after("grpo", 1)
        grpo_step(log, 2)
    rows = [row for *_, row in tracker.calls]
    assert rows[-1] == rows[2]


def test_a_fault_of_wandb_is_one_event_and_the_run_goes_on(tmp_path: Path, console: FakeConsole) -> None:
    with RunLog(tmp_path, tracker=FakeTracker(fails_at=2), console=console) as log:  # type: ignore[arg-type]
        for step in range(1, 6):
            grpo_step(log, step)
    assert [line["event"] for line in lines(tmp_path) if "event" in line] == ["wandb", "wandb_stopped"]
    assert [line["step"] for line in lines(tmp_path) if "stage" in line] == [1, 2, 3, 4, 5]
    assert [text for text in console.said if "takes no more" in text] == [
        "W&B takes no more: ConnectionResetError: Connection lost; metrics.jsonl has the numbers"
    ]


@pytest.mark.parametrize("fails", [False, True])
def test_wandb_learns_whether_the_run_failed(tmp_path: Path, console: FakeConsole, fails: bool) -> None:
    tracker = FakeTracker()
    try:
        with RunLog(tmp_path, tracker=tracker, console=console):  # type: ignore[arg-type]
            if fails:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert fails
    assert tracker.is_failed is fails


def test_a_full_disk_is_a_warning_once_and_leaves_whole_lines(
    tmp_path: Path, log: RunLog, console: FakeConsole
) -> None:
    """A line cut by the full disk is removed, so lines logged once there is room again are readable."""
    grpo_step(log, 1)
    with files_no_longer_than((tmp_path / "metrics.jsonl").stat().st_size + 20):
        grpo_step(log, 2)
        grpo_step(log, 3)
        log.truncate_after("grpo", 1)
    grpo_step(log, 4)
    assert [line["step"] for line in lines(tmp_path)] == [1, 4]
    assert len(console.said) == 1
    assert "the run goes on" in console.said[0]


def test_a_full_disk_cannot_lose_the_file_it_should_shorten(tmp_path: Path, log: RunLog) -> None:
    for step in (1, 2, 3):
        grpo_step(log, step)
    with files_no_longer_than(20):
        log.truncate_after("grpo", 2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_folder_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"metrics.jsonl: cannot be written"):
        RunLog(tmp_path / "file", tracker=None)


def test_a_job_log_gets_a_line_a_step_on_standard_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output stays empty: it belongs to --json."""
    with RunLog(tmp_path, tracker=None) as log:
        log.step("sft", 1, num_steps=2, metrics={"loss": 2.0}, seconds={"learn": 3.0})
        log.step("grpo", 1, num_steps=11, metrics={"reward": 0.1, "kl": 1e-5}, seconds={"rollout": 9.0, "learn": 1.0})
        log.evaluation("grpo", 1, {"f1_50": 0.61234, "num_images": 200})
        log.event("bad_record", record="train.jsonl:1: bbox: [red]")
        log.event("bad_records", message="3 of 300 are bad", count=3)
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[9:] for line in err.splitlines()] == [  # after the time of day
        "sft 1/2  loss 2  3 s  3 s left",
        "grpo 1/11  reward 0.1  kl 1e-05  10 s  2 min left",
        "grpo 1, held-out: f1_50 0.6123",
        "bad_record: record=train.jsonl:1: bbox: [red]",
        "3 of 300 are bad",
    ]


def test_the_timer_adds_up_and_survives_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 1.0, 3.0, 3.0, 7.0])
    monkeypatch.setattr(run_log.time, "perf_counter", lambda: next(ticks))
    timer = StepTimer()
    with timer("rollout"):
        pass
    with timer("learn"):
        pass
    with pytest.raises(ValueError, match="bad"), timer("rollout"):
        raise ValueError("bad")
    assert timer.seconds == {"rollout": 5.0, "learn": 2.0}


def test_the_log_alone_loads_neither_wandb_nor_rich(root: Path) -> None:
    """The loops import this module; both are only for runs that use them."""
    code = "import sys, rex_rl.run.log; sys.exit(bool({'wandb', 'rich', 'numpy'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)
