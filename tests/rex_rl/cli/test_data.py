"""The data commands: what they write, what they refuse and name."""

import json
from pathlib import Path

from tests.rex_rl.conftest import Rex


def test_the_synthetic_data_set_is_written_and_passes_the_check(rex: Rex, tmp_path: Path) -> None:
    """Training and held-out images differ; the same seed gives the same ones."""
    words = ("--num-train", 3, "--num-heldout", 2, "--seed", 5)
    assert rex("data", "shapes", tmp_path / "a", *words)[:2] == (
        0,
        f"{tmp_path}/a/train.jsonl\n{tmp_path}/a/heldout.jsonl\n",
    )
    rex("data", "shapes", tmp_path / "b", *words)
    assert (tmp_path / "a/train.jsonl").read_text() == (tmp_path / "b/train.jsonl").read_text()
    objects = [json.loads((tmp_path / f"a/{name}.jsonl").open().readline())["objects"] for name in ("train", "heldout")]
    assert objects[0] != objects[1]
    status, out, err = rex("data", "check", tmp_path / "a/train.jsonl")
    assert (status, err) == (0, "")
    assert "3 records read, 3 good, 0 bad" in out


def test_the_synthetic_world_asks_several_tasks_in_turn(rex: Rex, tmp_path: Path) -> None:
    """As many images of each task as asked; a file of several tasks is checked as such."""
    asked = ("--task", "detection", "--task", "ocr_box")
    assert rex("data", "shapes", tmp_path, "--num-train", 2, "--num-heldout", 1, *asked)[0] == 0
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == ["detection", "ocr_box"] * 2
    assert "4 good, 0 bad" in rex("data", "check", tmp_path / "train.jsonl", "--task", "all")[1]
    status, _, err = rex("data", "shapes", tmp_path, "--task", "layout")
    assert (status, "--task = layout: the synthetic world has detection, " in err) == (2, True)


def test_data_check_names_bad_records_and_is_status_2_above_the_limit(rex: Rex, tmp_path: Path) -> None:
    """All bad records are listed on standard output first, then one line gives their number and the limit."""
    rex("data", "shapes", tmp_path, "--num-train", 4, "--num-heldout", 1)
    file = tmp_path / "train.jsonl"
    first, second, *rest = file.read_text().splitlines()
    broken = json.loads(first)
    broken["objects"][0]["bbox"] = [30, 10, 12, 20]
    file.write_text("\n".join([json.dumps(broken), second, *rest]) + "\n")
    (tmp_path / json.loads(second)["image"]).write_bytes(b"not an image")

    status, out, err = rex("data", "check", file)
    assert status == 2
    assert out.splitlines()[0].startswith(f"{file}:1: bbox: ")
    assert out.splitlines()[1].startswith(f"{file}:2: image: ")
    assert err.startswith(f"rex-rl: error: {file}: 2 of 4 records are bad, more than max_bad_fraction 0.01 allows")
    assert len(err.splitlines()) == 1
    assert rex("data", "check", file, "--max-bad-fraction", "0.5")[0] == 0
    assert rex("data", "check", file, "--max-bad-fraction", "1.5")[0] == 2


def test_data_check_of_nothing_or_of_another_task_is_status_2(rex: Rex, tmp_path: Path) -> None:
    status, _, err = rex("data", "check", tmp_path / "no.jsonl")
    assert (status, err) == (2, f"rex-rl: error: {tmp_path}/no.jsonl: no such file\n")
    rex("data", "shapes", tmp_path, "--num-train", 1, "--num-heldout", 1)
    status, _, err = rex("data", "check", tmp_path / "train.jsonl", "--task", "pointing")
    assert status == 2
    assert "asked for 'pointing', found 'detection'" in err


def test_a_folder_that_cannot_be_written_is_status_2(rex: Rex, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = rex("data", "shapes", tmp_path / "file", "--num-train", 1)
    assert status == 2
    assert "cannot be written" in err
