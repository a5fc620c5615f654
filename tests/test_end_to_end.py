"""The whole system as its users run it: real Ray, vLLM, DeepSpeed and W&B, both stages, wrong input on purpose."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rex_rl.config.schema import SHAPES_TASKS
from rex_rl.evaluation.figures import METRICS
from rex_rl.language.tasks import TASKS
from rex_rl.run.log import read_metrics
from tests.support.faulty_job import FaultyJob

pytestmark = pytest.mark.engine

PHOTOS = Path(__file__).parent / "fixtures" / "photos"
FinishedRun = tuple[Path, subprocess.CompletedProcess[str]]
"""(the run's folder, how its command ended)."""


def rex_rl(*arguments: str, root: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rex_rl", *arguments],
        cwd=root,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def finished(quiet_job: FaultyJob) -> Path:
    """The folder of a finished run of both stages."""
    return quiet_job.folder


def test_the_run_leaves_what_the_readme_promises(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    assert set(summary) == {"sft", "grpo", "wall_s"}
    assert set(summary["sft"]) == set(METRICS)
    assert set(summary["grpo"]) == set(METRICS)
    assert all(seconds >= 0 for seconds in summary["wall_s"].values())
    assert {"start", "sft", "sft_eval", "grpo", "grpo_eval", "report"} <= set(summary["wall_s"])
    assert (finished / "report.html").read_text().startswith("<!doctype html>")
    assert list((finished / "wandb").glob("offline-run-*"))
    names = {name for row in read_metrics(finished / "metrics.jsonl") for name in row}
    wanted = {"reward", "reward_std", "frac_reward_zero_std", "rewards/f1/mean", "kl", "entropy", "clip_ratio/high"}
    assert wanted <= names


def test_the_model_folder_predicts(finished: Path, root: Path, tmp_path: Path) -> None:
    """`predict` prints JSON alone on standard output and draws; after three steps the model need not be right.

    With the longest prompt, the answer's limit exceeds the model's context; the answer takes what is left.
    """
    image = next((finished.parent / "data").glob("*/images/heldout_000000.png"))
    out = tmp_path / "drawn.png"
    categories = "red circle, blue square"
    arguments = ("--model", str(finished / "model"), "--image", str(image), "--categories", categories)
    done = rex_rl("predict", *arguments, "--out", str(out), "--max-answer-tokens", "1200", root=root, env={})
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(json.loads(done.stdout)) == {"image", "width", "height", "task", "objects", "absent", "faults"}
    assert out.stat().st_size > 0


def write_figures(folder: Path) -> Path:
    """Write records that the synthetic world does not draw: key points and polygons, on blank images."""
    for i in range(5):  # all records of an image are on one side of the split
        Image.new("RGB", (196, 196)).save(folder / f"blank{i}.png")
    names = TASKS["keypoint_person"].keypoints
    person = {"label": "person", "bbox": [10, 10, 90, 190], "keypoints": dict.fromkeys(names) | {names[0]: [50, 20]}}
    word = {"label": "AB", "polygon": [[10, 10], [60, 12], [58, 40], [9, 41]]}
    lines = [
        {"id": f"{name}{i}", "image": f"blank{i}.png", "task": name, "categories": [asked], "objects": [thing]}
        for i in range(5)
        for name, asked, thing in (("keypoint_person", "person", person), ("ocr_polygon", "word", word))
    ]
    file = folder / "figures.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.fixture(scope="module")
def small_runs(
    root: Path, tmp_path_factory: pytest.TempPathFactory, ray_environment: dict[str, str]
) -> dict[str, FinishedRun]:
    """Runs of both stages in parallel, as each spends its time waiting for processes to start."""
    folder = tmp_path_factory.mktemp("small")
    overrides = {
        "figures": (
            f"data.train={write_figures(folder)}",
            "data.tasks=[keypoint_person, ocr_polygon]",
            "data.heldout_fraction=0.4",
            "grpo.prompts_per_step=6",
            "rollout.max_model_len=2048",  # every key point is named in the question
        ),
        "photos": (f"data.train={PHOTOS / 'instances.json'}", f"data.images={PHOTOS}", "grpo.max_staleness=1"),
        "mix": (
            f"data.tasks=[{', '.join(SHAPES_TASKS)}]",
            "data.shapes={num_train: 3, num_heldout: 2}",
            "grpo.prompts_per_step=6",
            "grpo.advantage={normalise_std: false, normalise_by_task: true, credit: prefix}",
        ),
    }

    def train(name: str) -> FinishedRun:
        where = (f"name={name}", f"run_root={folder}", "sft.num_steps=2")
        done = rex_rl("train", "configs/smoke.yaml", *where, *overrides[name], root=root, env=ray_environment)
        return folder / name, done

    with ThreadPoolExecutor() as side_by_side:
        return dict(zip(overrides, side_by_side.map(train, overrides), strict=True))


def ended_well(run: FinishedRun) -> tuple[Path, dict[str, Any]]:
    """The run's folder and its `summary.json`."""
    folder, done = run
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, json.loads((folder / "summary.json").read_text())


def test_photographs_in_coco_format_train_with_two_paths(small_runs: dict[str, FinishedRun]) -> None:
    """A user's own data, set by two paths of the config alone; both stages, evaluation, overlap by one step."""
    folder, summary = ended_well(small_runs["photos"])
    assert summary["grpo"]["num_images"] >= 1
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if row.get("stage") == "grpo"]
    assert 2 in steps


def test_four_tasks_train_in_one_run(small_runs: dict[str, FinishedRun], root: Path) -> None:
    """Both stages on a mix of tasks: rewards, figures and gains by task, advantages in units of their task."""
    folder, summary = ended_well(small_runs["mix"])
    assert summary["grpo"]["num_images"] == 8
    assert {f"{task}/f1_miou" for task in SHAPES_TASKS} | {"ocr_box/text_similarity"} <= set(summary["grpo"])
    names = {name for row in read_metrics(folder / "metrics.jsonl") for name in row}
    assert {f"reward/{task}" for task in SHAPES_TASKS} <= names  # 12 of the 12 training records in two steps
    assert {f"eval/{task}/f1_miou" for task in SHAPES_TASKS} <= names
    assert "reward/ocr_box" in (folder / "report.html").read_text()
    compared = rex_rl("compare", str(folder), root=root, env={})
    assert all(f"| mix | {task} | 2 |" in compared.stdout for task in SHAPES_TASKS), compared.stderr


def test_key_points_and_polygons_train_in_one_run(small_runs: dict[str, FinishedRun]) -> None:
    """Both stages, with held-out figures of either geometry, in the report's pictures too."""
    folder, summary = ended_well(small_runs["figures"])
    tasks = ("keypoint_person", "ocr_polygon")
    assert all(f"{task}/f1_miou" in summary["grpo"] for task in tasks)
    names = {name for row in read_metrics(folder / "metrics.jsonl") for name in row}
    assert {f"reward/{task}" for task in tasks} <= names
    assert "image not shown" not in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("rollout.num_workers=50",), ("rollout.num_workers = 50", "can place", "cluster.wait_s")),
        (("model.path=/nowhere/at/all",), ("/nowhere/at/all",)),
        (("data.train=/nowhere/data.jsonl",), ("/nowhere/data.jsonl",)),
        (("grpo.group_sise=8",), ("grpo.group_sise", "grpo.group_size")),
        (("grpo.group_size=1",), ("grpo.group_size", "2")),
    ],
)
def test_a_users_mistake_is_one_line_and_status_2(
    root: Path, tmp_path: Path, ray_environment: dict[str, str], overrides: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = rex_rl("train", "configs/smoke.yaml", f"run_root={tmp_path}", *overrides, root=root, env=ray_environment)
    assert done.returncode == 2, done.stderr[-2000:]
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rex-rl: error:")]
    assert all(word in line for word in words), line
    assert "Traceback" not in done.stderr
