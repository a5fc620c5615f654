"""The report of a run's folder, whatever part of it is there yet."""

import json
from pathlib import Path

import numpy as np
import pytest

from rex_rl.config.load import Config, dump_config
from rex_rl.errors import DataError
from rex_rl.evaluation.heldout import write_samples
from rex_rl.evaluation.image_result import ImageResult
from rex_rl.report import run_report
from rex_rl.report.page import ReportData
from rex_rl.report.run_report import NUM_SAMPLES, write_run_report
from rex_rl.run.folder import CONFIG, SUMMARY
from rex_rl.run.log import RunLog
from tests.support import fakes


class Silent:
    """A console that says nothing."""

    def progress(self, *_: object) -> None:
        """Nothing."""

    def say(self, *_: object) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run that has logged one step and one evaluation of each stage."""
    config = Config(name="tried", model={"path": "tiny"}, data={"train": "shapes"}, run_root=tmp_path)
    (tmp_path / CONFIG).write_text(dump_config(config))
    with RunLog(tmp_path, tracker=None, console=Silent()) as log:
        log.event("data", train=3)
        log.step("sft", 1, num_steps=1, metrics={"loss": 2.5, "entropy": 1.0}, seconds={"learn": 0.1})
        log.evaluation("sft", 1, {"f1_50": 0.25})
        for step in (1, 2):
            metrics = {"reward": 0.1 * step, "kl": 0.0, "rewards/f1/mean": 0.5, "completions/mean_length": 9.0}
            log.step("grpo", step, num_steps=2, metrics=metrics, seconds={"learn": 0.1})
        log.evaluation("grpo", 2, {"f1_50": 0.75})
    return tmp_path


def reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ReportData:
    """What the page is made of."""
    seen: list[ReportData] = []
    monkeypatch.setattr(run_report, "write_report", lambda path, data: seen.append(data))
    write_run_report(folder)
    return seen[0]


def sample(folder: Path, stage: str, step: int, count: int, predicted: str) -> None:
    results = [
        ImageResult(
            image_id=f"r{i}",
            width=100,
            height=80,
            truth_labels=("cat",),
            truth_NK=np.array([[0.0, 5, 8, 60]]),
            predicted_labels=(predicted,),
            predicted_NK=np.array([[0.0, 5, 8, 60]]),
            faults=(),
        )
        for i in range(count)
    ]
    records = [fakes.record(f"r{i}") for i in range(count)]
    write_samples(folder / "samples" / f"{stage}_{step:06d}.jsonl", records, results)


def test_curves_and_evaluations_come_from_the_log(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SFT's loss is a curve of its own; what nobody looks at is left out."""
    data = reported(folder, monkeypatch)
    assert data.run_name == "tried"
    curves = {name: (list(series.steps), list(series.values)) for name, series in data.series.items()}
    assert curves == {
        "sft/loss": ([1], [2.5]),
        "reward": ([1, 2], [0.1, 0.2]),
        "kl": ([1, 2], [0.0, 0.0]),
        "rewards/f1/mean": ([1, 2], [0.5, 0.5]),
    }
    assert [(point.stage, point.step, dict(point.metrics)) for point in data.evaluations] == [
        ("sft", 1, {"f1_50": 0.25}),
        ("grpo", 2, {"f1_50": 0.75}),
    ]
    assert data.config["grpo.group_size"] == 8


def test_samples_are_of_each_stages_last_evaluation(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample(folder, "sft", 100, 20, "sft")
    sample(folder, "grpo", 20, 20, "early")
    sample(folder, "grpo", 60, 20, "late")
    samples = reported(folder, monkeypatch).samples
    assert len(samples) == NUM_SAMPLES
    assert samples[0].image == "/images/r0.png"
    assert {stage: result.predicted_labels for stage, result in samples[0].answers.items()} == {
        "sft": ("sft",),
        "grpo": ("late",),
    }


def test_the_page_is_written_with_and_without_a_summary(folder: Path) -> None:
    page = write_run_report(folder)
    assert page == folder / "report.html"
    assert "tried" in page.read_text()
    (folder / SUMMARY).write_text(json.dumps({"sft": {"f1_50": 0.25}, "grpo": {"f1_50": 0.75}, "wall_s": {"sft": 9.0}}))
    write_run_report(folder)
    assert "75.0" in page.read_text()


def test_a_folder_that_is_no_run_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run's folder"):
        write_run_report(tmp_path)
