"""Comparisons: GRPO's gain beside that of as much more SFT, and a control that differs in nothing but its length."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rex_rl.config.load import dump_config, load_config
from rex_rl.errors import DataError
from rex_rl.evaluation.comparison import compare, control_config, table
from rex_rl.evaluation.figures import METRICS
from rex_rl.evaluation.heldout import write_samples
from rex_rl.evaluation.image_result import ImageResult
from rex_rl.run.folder import CONFIG, SUMMARY
from tests.support import fakes

FIGURES = {name: 0.5 for name in METRICS} | {"precision_50": 0.6, "duplicate_rate": 0.02}


def finished_run(
    root: Path, name: str, *, sft_f1: float, grpo_f1: float | None = None, control_f1: float | None = None
) -> Path:
    """A run's folder as far as a comparison reads it; its control beside it where `control_f1` is given."""
    folder = root / name
    folder.mkdir()
    config = load_config(
        Path("configs/quickstart.yaml"), [f"name={name}", f"run_root={root}", "sft.num_steps=100", "seed=7"]
    )
    (folder / CONFIG).write_text(dump_config(config))
    summary = {"sft": FIGURES | {"f1_miou": sft_f1}, "wall_s": {"sft": 50.0, "grpo": 120.0}}
    if grpo_f1 is not None:
        summary["grpo"] = FIGURES | {"f1_miou": grpo_f1, "duplicate_rate": 0.001}
    (folder / SUMMARY).write_text(json.dumps(summary))
    if control_f1 is not None:
        finished_run(root, f"{name}-control", sft_f1=control_f1)
    return folder


def test_a_control_trains_as_long_as_grpo_and_differs_in_nothing_else(tmp_path: Path) -> None:
    """100 SFT steps took 50 s, so 120 s of GRPO are 240 of them; seed and data stay, or held-out records leak."""
    run = finished_run(tmp_path, "a", sft_f1=0.4, grpo_f1=0.5)
    own, control = load_config(run / CONFIG), control_config(run)
    assert control.sft.num_steps == 240
    assert control.name == "a-control"
    assert control.stages == ("sft",)
    assert control.model.path == str(run / "stages" / "sft")
    assert (control.seed, control.data, control.evaluation) == (own.seed, own.data, own.evaluation)
    assert control.sft.learning_rate == own.sft.learning_rate


def test_the_table_shows_every_stage_and_the_mean_gains(tmp_path: Path) -> None:
    runs = [
        finished_run(tmp_path, "a", sft_f1=0.40, grpo_f1=0.46, control_f1=0.41),
        finished_run(tmp_path, "b", sft_f1=0.40, grpo_f1=0.48, control_f1=0.43),
    ]
    comparisons = compare(runs)
    assert [one.gain("f1_miou") for one in comparisons] == pytest.approx([0.06, 0.08])
    assert [one.control_gain("f1_miou") for one in comparisons] == pytest.approx([0.01, 0.03])
    lines = table(comparisons)
    assert sum(line.startswith(("| a |", "| b |")) for line in lines) == 6
    assert lines[-1] == (
        "f1_miou gained, mean of 2: GRPO +7.00 points (+6.00, +8.00), more SFT +2.00 points (+1.00, +3.00)"
    )


def test_a_missing_control_is_named_and_never_counted_as_no_gain(tmp_path: Path) -> None:
    lines = table(compare([finished_run(tmp_path, "a", sft_f1=0.40, grpo_f1=0.46)]))
    assert lines[-1].endswith("more SFT not run (rex-rl control RUN)")


def test_a_figure_that_is_undefined_is_shown_as_such(tmp_path: Path) -> None:
    """A summary holds null where a figure has no value, such as the duplicate rate of a model that predicts nothing."""
    run = finished_run(tmp_path, "a", sft_f1=0.4, grpo_f1=0.5)
    summary = json.loads((run / SUMMARY).read_text())
    summary["grpo"]["duplicate_rate"] = None
    (run / SUMMARY).write_text(json.dumps(summary))
    assert "| a | GRPO | 50.00 % | 60.00 % | 50.00 % | nan % |" in table(compare([run]))[3]


def test_unfinished_runs_are_the_users_mistake(tmp_path: Path) -> None:
    """One line that names the file; a run of one stage has nothing to compare."""
    with pytest.raises(DataError, match=r"summary\.json: no such file"):
        compare([tmp_path / "nowhere"])
    alone = finished_run(tmp_path, "a", sft_f1=0.4)
    for ask in (lambda: compare([alone]), lambda: control_config(alone)):
        with pytest.raises(DataError, match=r"summary\.json: holds no grpo, which is needed"):
            ask()
    (alone / SUMMARY).write_text("{")
    with pytest.raises(DataError, match=r"summary\.json: is not JSON"):
        compare([alone])


def test_stages_that_judged_other_images_are_not_compared(tmp_path: Path) -> None:
    run = finished_run(tmp_path, "a", sft_f1=0.4, grpo_f1=0.5)
    for stage in ("sft", "grpo"):
        record = fakes.record(f"of {stage}")
        result = ImageResult(
            image_id=record.id, width=100, height=80, faults=(), truth_labels=("cat",),
            truth_NK=np.array([[0.0, 5, 8, 60]]), predicted_labels=(), predicted_NK=np.zeros((0, 4)),
        )  # fmt: skip
        write_samples(run / "samples" / f"{stage}_000009.jsonl", [record], [result])
    with pytest.raises(DataError, match="not of the same images"):
        compare([run])
    (run / "samples" / "grpo_000009.jsonl").write_text("[]\n")
    with pytest.raises(DataError, match="is not what an evaluation left"):
        compare([run])


def test_each_tasks_gain_has_its_interval(tmp_path: Path) -> None:
    """From the answers that the last evaluations left: here GRPO finds all of one task, and nothing more of another."""
    run = finished_run(tmp_path, "a", sft_f1=0.4, grpo_f1=0.5)
    records = [fakes.record(f"{task}{i}", task=task) for task in ("detection", "layout") for i in range(20)]
    for stage, found in (("sft", 10), ("grpo", 40)):
        results = [
            ImageResult(
                image_id=record.id, width=100, height=80, task=record.task, faults=(),
                truth_labels=("cat",), truth_NK=np.array([[0.0, 5, 8, 60]]),
                predicted_labels=("cat",), predicted_NK=np.array([[0.0, 5, 8, 60 if i < found else 5]]),
            )
            for i, record in enumerate(records)
        ]  # fmt: skip
        results[20:] = [replace(result, predicted_labels=(), predicted_NK=np.zeros((0, 4))) for result in results[20:]]
        write_samples(run / "samples" / f"{stage}_000009.jsonl", records, results)
    compared = compare([run])
    detection, layout = compared[0].tasks
    assert (detection.task, detection.num_images, detection.sft, detection.grpo) == ("detection", 20, 0.5, 1)
    assert 0 < detection.interval[0] < 0.5 < detection.interval[1]
    assert (layout.sft, layout.grpo, layout.interval) == (0, 0, (0, 0))
    assert "| a | layout | 20 | 0.00 % | 0.00 % | +0.00 | +0.00 to +0.00 |" in table(compared)
    # The images of several runs together: the same run twice has the same gain, with a narrower interval.
    lines = table([*compared, replace(compared[0], name="b")])
    (together,) = [line for line in lines if line.startswith("| all | detection | 40 | 50.00 % | 100.00 % | +50.00 |")]
    low, high = (float(bound) for bound in together.split("|")[-2].split(" to "))
    assert 100 * detection.interval[0] < low < 50 < high < 100 * detection.interval[1]
