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
from rex_rl.language.tasks import TASKS, Geometry
from rex_rl.run.log import read_metrics
from rex_rl.shapes.world import write_split

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


def write_every_task(folder: Path, name: str, *, seed: int) -> Path:
    """Two records of every task: the synthetic world draws what it knows, the others stand on blank images."""
    file = write_split(folder, name=name, num_images=2, seed=seed, tasks=SHAPES_TASKS)
    with file.open("a") as lines:
        for i in range(2):
            Image.new("RGB", (196, 196)).save(folder / f"{name}_blank{i}.png")
            for task in [task for task in TASKS.values() if task.name not in SHAPES_TASKS]:
                asked = task.choices[0] if task.choices else "cat"
                thing: dict[str, Any] = {"label": "AB" if task.reads_text else asked, "bbox": [10, 10, 90, 190]}
                if task.geometry is Geometry.POLYGON:
                    thing["polygon"] = [[10, 10], [60, 12], [58, 40], [9, 41]]
                if task.geometry is Geometry.KEYPOINTS:
                    thing["keypoints"] = dict.fromkeys(task.keypoints) | {task.keypoints[0]: [50, 20]}
                about = {"id": f"{task.name}{i}", "image": f"{name}_blank{i}.png", "task": task.name}
                lines.write(json.dumps(about | {"categories": [asked], "objects": [thing]}) + "\n")
    return file


@pytest.fixture(scope="module")
def small_runs(
    root: Path, tmp_path_factory: pytest.TempPathFactory, ray_environment: dict[str, str]
) -> dict[str, FinishedRun]:
    """Runs of both stages side by side, as each waits for one process after the other to start."""
    folder = tmp_path_factory.mktemp("small")
    overrides = {
        "photos": (f"data.train={PHOTOS / 'instances.json'}", f"data.images={PHOTOS}", "grpo.max_staleness=1"),
        "mix": (
            f"data.train={write_every_task(folder, 'train', seed=0)}",
            f"data.heldout={write_every_task(folder, 'heldout', seed=1)}",
            f"data.tasks=[{', '.join(TASKS)}]",
            "evaluation.num_images=2",
            f"grpo.prompts_per_step={len(TASKS)}",
            "grpo.advantage={normalise_std: false, normalise_by_task: true, credit: to_go, credit_lambda: 0.9}",
            "rollout.max_model_len=2048",  # every key point is named in the question
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


def test_the_run_leaves_what_the_readme_promises(small_runs: dict[str, FinishedRun]) -> None:
    folder, summary = ended_well(small_runs["photos"])
    assert set(summary) == {"sft", "grpo", "wall_s"}
    assert set(summary["sft"]) == set(METRICS)
    assert set(summary["grpo"]) == set(METRICS)
    assert all(seconds >= 0 for seconds in summary["wall_s"].values())
    assert {"start", "sft", "sft_eval", "grpo", "grpo_eval", "report"} <= set(summary["wall_s"])
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert list((folder / "wandb").glob("offline-run-*"))
    names = {name for row in read_metrics(folder / "metrics.jsonl") for name in row}
    wanted = {"reward", "reward_std", "frac_reward_zero_std", "rewards/f1/mean", "kl", "entropy", "clip_ratio/high"}
    assert wanted <= names


def test_the_model_folder_predicts(small_runs: dict[str, FinishedRun], root: Path, tmp_path: Path) -> None:
    """`predict` prints JSON alone on standard output and draws; after three steps the model need not be right.

    With the longest prompt, the answer's limit exceeds the model's context; the answer takes what is left.
    """
    out = tmp_path / "drawn.png"
    folder, _ = ended_well(small_runs["mix"])
    image = folder.parent / "images" / "heldout_000000.png"
    arguments = ("--model", f"{folder / 'model'}", "--image", f"{image}", "--categories", "red circle, blue square")
    done = rex_rl("predict", *arguments, "--out", str(out), "--max-answer-tokens", "1200", root=root, env={})
    assert done.returncode == 0, done.stderr[-2000:]
    assert set(json.loads(done.stdout)) == {"image", "width", "height", "task", "objects", "absent", "faults"}
    assert out.stat().st_size > 0


def test_photographs_in_coco_format_train_with_two_paths(small_runs: dict[str, FinishedRun]) -> None:
    """A user's own data, set by two paths of the config alone; both stages, evaluation, overlap by one step."""
    folder, summary = ended_well(small_runs["photos"])
    assert summary["grpo"]["num_images"] >= 1
    steps = [row["step"] for row in read_metrics(folder / "metrics.jsonl") if row.get("stage") == "grpo"]
    assert 2 in steps


def test_every_task_trains_in_one_run(small_runs: dict[str, FinishedRun], root: Path) -> None:
    """Both stages on all tasks at once: rewards, advantages, held-out figures, gains by task, and pictures."""
    folder, summary = ended_well(small_runs["mix"])
    assert summary["grpo"]["num_images"] == 2 * len(TASKS)
    assert {f"{task}/f1_miou" for task in TASKS} | {"ocr_box/text_similarity", "keypoint_hand/box_iou"} <= set(
        summary["grpo"]
    )
    names = {name for row in read_metrics(folder / "metrics.jsonl") for name in row}
    assert {f"reward/{task}" for task in TASKS} <= names  # all training records in two steps
    assert {f"eval/{task}/f1_miou" for task in TASKS} <= names
    page = (folder / "report.html").read_text()
    assert "reward/ocr_box" in page
    assert "image not shown" not in page
    compared = rex_rl("compare", str(folder), root=root, env={})
    assert all(f"| mix | {task} | 2 |" in compared.stdout for task in TASKS), compared.stderr


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
