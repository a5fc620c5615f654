"""Checkpoints: whole or not there; an altered one is named, put aside, and the one before it used."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from rex_rl.checkpoints import MANIFEST, StageCheckpoints, file_digest, verified_step
from rex_rl.errors import CheckpointError
from tests import fakes

WEIGHTS = "learner.safetensors"


@pytest.fixture
def stage(tmp_path: Path) -> StageCheckpoints:
    return StageCheckpoints(tmp_path, "sft", keep=2)


def save(stage: StageCheckpoints, *steps: int) -> None:
    learner = fakes.FakeLearner([])
    for step in steps:
        learner.num_steps = step
        stage.save(step, learner)


def restored(stage: StageCheckpoints) -> tuple[int, int]:
    """(step, what the learner loaded)."""
    learner = fakes.FakeLearner([])
    return stage.restore(learner), learner.num_steps


def flip_a_bit(file: Path, at: int = 17) -> None:
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 1
    file.write_bytes(data)


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    def alter(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        change(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return alter


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a file truncated": lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-1]),
    "a file emptied": lambda folder: (folder / WEIGHTS).write_bytes(b""),
    "a bit flipped": lambda folder: flip_a_bit(folder / WEIGHTS),
    "a file missing": lambda folder: (folder / WEIGHTS).unlink(),
    "the manifest missing": lambda folder: (folder / MANIFEST).unlink(),
    "the manifest cut": lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:40]),
    "the manifest empty": lambda folder: (folder / MANIFEST).write_text(""),
    "the manifest no object": lambda folder: (folder / MANIFEST).write_text("[]"),
    "the manifest no text": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\x00"),
    "another step": edit(lambda manifest: manifest.update(step=30)),
    "files no mapping": edit(lambda manifest: manifest.update(files=[WEIGHTS])),
    "a size missing": edit(lambda manifest: manifest["files"][WEIGHTS].pop("bytes")),
    "another digest": edit(lambda manifest: manifest["files"][WEIGHTS].update(xxh3="0" * 16)),
}


def test_the_newest_is_restored(stage: StageCheckpoints) -> None:
    assert restored(stage) == (0, 0)
    save(stage, 10, 20)
    assert stage.newest_step() == 20
    assert restored(stage) == (20, 20)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_an_altered_one_is_refused_by_name_and_the_one_before_used(
    stage: StageCheckpoints, tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    save(stage, 10, 20)
    damage(tmp_path / "sft_000020")
    with pytest.raises(CheckpointError, match="sft_000020"):
        verified_step(tmp_path / "sft_000020")
    with caplog.at_level(logging.WARNING):
        assert restored(stage) == (10, 10)
    assert "sft_000020" in caplog.text
    assert "the one before it is used" in caplog.text
    assert not (tmp_path / "sft_000020").exists()
    assert (tmp_path / "sft_000020.refused").exists()


def test_every_flipped_bit_of_a_manifest_is_noticed_or_harmless(stage: StageCheckpoints, tmp_path: Path) -> None:
    """Whichever byte is hit: a CheckpointError, or the right step; never another exception or another step."""
    save(stage, 20)
    whole = (tmp_path / "sft_000020" / MANIFEST).read_bytes()
    for at in range(len(whole)):
        (tmp_path / "sft_000020" / MANIFEST).write_bytes(whole)
        flip_a_bit(tmp_path / "sft_000020" / MANIFEST, at)
        try:
            assert verified_step(tmp_path / "sft_000020") == 20
        except CheckpointError:
            continue


def test_two_bad_ones_leave_nothing_to_restore(stage: StageCheckpoints, tmp_path: Path) -> None:
    save(stage, 10, 20)
    for folder in tmp_path.iterdir():
        flip_a_bit(folder / WEIGHTS)
    assert restored(stage) == (0, 0)


def test_the_same_step_can_go_bad_twice(stage: StageCheckpoints, tmp_path: Path) -> None:
    """Refused, trained and saved again, refused again: what was put aside the first time is in nobody's way."""
    for _ in range(2):
        save(stage, 10, 20)
        flip_a_bit(tmp_path / "sft_000020" / WEIGHTS)
        assert restored(stage) == (10, 10)


def test_what_a_crash_left_half_written_does_not_count(stage: StageCheckpoints, tmp_path: Path) -> None:
    """A save that dies leaves `.partial` beside; the next one starts it afresh."""

    class Dying(fakes.FakeLearner):
        def save_state(self, folder: Path) -> None:
            super().save_state(folder)
            (folder / "half").write_bytes(b"x")
            raise KeyboardInterrupt

    save(stage, 10)
    with pytest.raises(KeyboardInterrupt):
        stage.save(20, Dying([]))
    assert (tmp_path / "sft_000020.partial").exists()
    assert restored(stage) == (10, 10)
    save(stage, 20)
    assert sorted(file.name for file in (tmp_path / "sft_000020").iterdir()) == [WEIGHTS, MANIFEST]
    assert not (tmp_path / "sft_000020.partial").exists()


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    stage = StageCheckpoints(tmp_path, "sft", keep=keep)
    save(stage, 5, 10, 100, 999_999)
    assert (
        sorted(folder.name for folder in tmp_path.iterdir())
        == [
            "sft_000005",
            "sft_000010",
            "sft_000100",
            "sft_999999",
        ][-keep:]
    )


def test_saving_a_step_again_replaces_it(stage: StageCheckpoints, tmp_path: Path) -> None:
    save(stage, 10, 10)
    assert restored(stage) == (10, 10)


def test_stages_do_not_see_each_other(stage: StageCheckpoints, tmp_path: Path) -> None:
    save(stage, 10)
    assert StageCheckpoints(tmp_path, "grpo", keep=1).newest_step() == 0


def test_the_manifest_says_what_was_written(stage: StageCheckpoints, tmp_path: Path) -> None:
    save(stage, 10)
    manifest = json.loads((tmp_path / "sft_000010" / MANIFEST).read_text())
    weights = tmp_path / "sft_000010" / WEIGHTS
    assert manifest == {"step": 10, "files": {WEIGHTS: {"bytes": 800, "xxh3": file_digest(weights)}}}
