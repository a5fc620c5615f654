"""Checkpoints: whole or absent, written while training goes on; an altered one is named and the one before is used."""

import errno
import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rex_rl.config.schema import SftConfig
from rex_rl.errors import CheckpointError, Stopped
from rex_rl.run import checkpoints
from rex_rl.run.checkpoints import MANIFEST, StageCheckpoints, file_digest, sealed, verified_step
from rex_rl.run.stopping import StopRequest
from tests.support import fakes

WEIGHTS = "learner.safetensors"
BATCH = 4
EVERY_STEP = SftConfig(save_every=1, num_steps=10**7, batch_size=BATCH)


@pytest.fixture
def stage(tmp_path: Path) -> StageCheckpoints:
    return StageCheckpoints(tmp_path, "sft", EVERY_STEP)


def save(stage: StageCheckpoints, *steps: int, learner: fakes.FakeLearner | None = None) -> None:
    """Write checkpoints after these steps, each whole before this returns."""
    learner = learner or fakes.FakeLearner([])
    for step in steps:
        learner.num_steps = step
        stage.after_step(step, learner)
        stage._settle(wait=True)


class FullDisk(fakes.FakeLearner):
    """Its writes fail half-way, as on a full disk, while `is_full`."""

    is_full = True

    def write(self, file: Path, data: bytes) -> None:
        """Write the data, or half of it where the disk is full."""
        if self.is_full:
            file.write_bytes(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().write(file, data)


class SlowDisk(fakes.FakeLearner):
    """Its writes end when told to."""

    def __init__(self, events: list[fakes.Event]) -> None:
        super().__init__(events)
        self.may_end = threading.Event()

    def write(self, file: Path, data: bytes) -> None:
        """Wait, then write."""
        assert self.may_end.wait(10)
        super().write(file, data)


def restored(stage: StageCheckpoints) -> tuple[int, int]:
    """(step, what the learner loaded)."""
    learner = fakes.FakeLearner([])
    return stage.restore(learner), learner.num_steps


def flip_a_bit(file: Path, at: int = 17) -> None:
    data = bytearray(file.read_bytes())
    data[at % len(data)] ^= 1
    file.write_bytes(data)


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Change a manifest and renew its own digest, so that the other checks have to notice."""

    def alter(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        del manifest["seal"]
        change(manifest)
        (folder / MANIFEST).write_text(sealed(manifest))

    return alter


def edit_raw(change: Callable[[dict], None]) -> Callable[[Path], None]:
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
    "no files": edit(lambda manifest: manifest.update(files={})),
    "another step, unsealed": edit_raw(lambda manifest: manifest.update(step=30)),
    "another seed, unsealed": edit_raw(lambda manifest: manifest.update(seed=1)),
    "a size missing": edit_raw(lambda manifest: manifest["files"][WEIGHTS].pop("bytes")),
    "no seal": edit_raw(lambda manifest: manifest.pop("seal")),
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


@st.composite
def damages(draw: st.DrawFn) -> tuple[str, Callable[[bytes], bytes]]:
    """A file of a checkpoint and a damage: one bit flipped, or any range of bytes cut out."""
    name = draw(st.sampled_from([WEIGHTS, MANIFEST]))
    at, length = draw(st.floats(0, 1, exclude_max=True)), draw(st.floats(0, 1))
    bit = draw(st.none() | st.integers(0, 7))

    def damage(data: bytes) -> bytes:
        start = int(at * len(data))
        if bit is None:
            return data[:start] + data[start + 1 + int(length * len(data)) :]
        return data[:start] + bytes([data[start] ^ 1 << bit]) + data[start + 1 :]

    return name, damage


@given(damages())
@settings(max_examples=150, deadline=None)
def test_any_flipped_bit_or_missing_bytes_of_any_file_are_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, damage: tuple[str, Callable[[bytes], bytes]]
) -> None:
    """And the checkpoint before is used: only the steps between the two are lost."""
    folder, (name, change) = tmp_path_factory.mktemp("stage"), damage
    events: list[dict[str, Any]] = []
    stage = StageCheckpoints(folder, "sft", EVERY_STEP, event=lambda name, **facts: events.append({name: facts}))
    save(stage, 10, 20)
    file = folder / "sft_000020" / name
    file.write_bytes(change(file.read_bytes()))
    assert restored(stage) == (10, 10)
    assert str(file) in events[0]["checkpoint_refused"]["message"]
    assert events[1]["resumed"]["step"] == 10


def test_two_bad_ones_leave_nothing_to_restore(stage: StageCheckpoints, tmp_path: Path) -> None:
    save(stage, 10, 20)
    for folder in tmp_path.iterdir():
        flip_a_bit(folder / WEIGHTS)
    assert restored(stage) == (0, 0)


def test_the_same_step_can_go_bad_twice(stage: StageCheckpoints, tmp_path: Path) -> None:
    """Refused, trained and saved again, refused again: the one put aside the first time is not in the way."""
    for _ in range(2):
        save(stage, 10, 20)
        flip_a_bit(tmp_path / "sft_000020" / WEIGHTS)
        assert restored(stage) == (10, 10)


def test_a_half_written_checkpoint_does_not_count(stage: StageCheckpoints, tmp_path: Path) -> None:
    """A process that dies while it saves leaves a `.partial` folder; the next process removes it."""

    save(stage, 10)
    (tmp_path / "sft_000020.partial").mkdir()
    (tmp_path / "sft_000020.partial" / "half").write_bytes(b"x")
    assert restored(stage) == (10, 10)
    assert not (tmp_path / "sft_000020.partial").exists()
    save(stage, 20)
    assert sorted(file.name for file in (tmp_path / "sft_000020").iterdir()) == [WEIGHTS, MANIFEST]
    assert not (tmp_path / "sft_000020.partial").exists()


@pytest.mark.parametrize("keep", [2, 3])
def test_only_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    stage = StageCheckpoints(tmp_path, "sft", EVERY_STEP, keep=keep)
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
    assert StageCheckpoints(tmp_path, "grpo", EVERY_STEP).newest_step() == 0


def test_the_manifest_says_what_was_written_and_where_the_run_stands(tmp_path: Path) -> None:
    stage = StageCheckpoints(tmp_path, "sft", EVERY_STEP, facts={"seed": 3, "wandb_run_id": "abc"})
    save(stage, 10)
    manifest = json.loads((tmp_path / "sft_000010" / MANIFEST).read_text())
    weights = tmp_path / "sft_000010" / WEIGHTS
    del manifest["seal"]
    assert manifest == {
        "stage": "sft",
        "step": 10,
        "position": 10 * BATCH,
        "seed": 3,
        "wandb_run_id": "abc",
        "files": {WEIGHTS: {"bytes": 800, "xxh3": file_digest(weights)}},
    }


def test_one_is_written_when_due_and_at_the_last_step(tmp_path: Path) -> None:
    stage = StageCheckpoints(tmp_path, "sft", SftConfig(save_every=3, num_steps=7), keep=9)
    save(stage, *range(1, 8))
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["sft_000003", "sft_000006", "sft_000007"]


def test_training_goes_on_while_one_is_written(stage: StageCheckpoints, tmp_path: Path) -> None:
    """The file holds the state of its step, although steps followed; its name appears only when all is written."""
    learner = SlowDisk([])
    learner.num_steps = 1
    stage.after_step(1, learner)
    learner.num_steps = 7
    assert [path.name for path in tmp_path.iterdir()] == ["sft_000001.partial"]
    learner.may_end.set()
    with stage:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["sft_000001"]
    assert restored(StageCheckpoints(tmp_path, "sft", EVERY_STEP)) == (1, 1)


def test_one_write_is_in_flight_at_most(stage: StageCheckpoints, tmp_path: Path) -> None:
    """A checkpoint that is due while another is written waits for it."""
    learner = SlowDisk([])
    learner.num_steps = 1
    stage.after_step(1, learner)
    threading.Timer(0.1, learner.may_end.set).start()
    learner.num_steps = 2
    stage.after_step(2, learner)
    assert verified_step(tmp_path / "sft_000001") == 1
    stage._settle(wait=True)
    assert verified_step(tmp_path / "sft_000002") == 2


def test_a_full_disk_is_told_and_costs_that_checkpoint_alone(
    stage: StageCheckpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Training goes on, the older one stays, no partial one is left, and once there is room the next is written."""
    learner = FullDisk([])
    learner.is_full = False
    save(stage, 1, learner=learner)
    learner.is_full = True
    save(stage, 2, 3, learner=learner)
    assert [path.name for path in tmp_path.iterdir()] == ["sft_000001"]
    assert "no checkpoint of step 2" in caplog.text
    assert "No space left on device" in caplog.text
    assert "sft_000001 stays the newest" in caplog.text
    learner.is_full = False
    save(stage, 4, learner=learner)
    assert restored(stage) == (4, 4)


def test_a_state_the_learner_cannot_write_is_told_too(
    stage: StageCheckpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(fakes.FakeLearner):
        def write(self, file: Path, data: bytes) -> None:
            raise CheckpointError("weight/lm_head is not finite")

    save(stage, 1, learner=Broken([]))
    assert "weight/lm_head is not finite; training goes on, there is none yet" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_our_own_is_not_taken_for_a_full_disk(stage: StageCheckpoints) -> None:
    class Faulty(fakes.FakeLearner):
        def write(self, file: Path, data: bytes) -> None:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        save(stage, 1, learner=Faulty([]))


def test_everything_is_on_disk_before_it_has_its_name(
    stage: StageCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, manifest and their folder are synced under the old name, and the rename after them."""
    synced: list[str] = []
    monkeypatch.setattr(checkpoints, "sync_to_disk", lambda path: synced.append(str(path.relative_to(tmp_path))))
    save(stage, 1)
    beside = "sft_000001.partial"
    assert sorted(synced[:2]) == [f"{beside}/{WEIGHTS}", f"{beside}/{MANIFEST}"]
    assert synced[2:] == [beside, "."]


def test_asked_to_end_it_saves_and_says_from_where_it_goes_on(tmp_path: Path) -> None:
    """Whether or not a checkpoint was due; it is whole when Stopped is raised."""
    stop = StopRequest()
    stage = StageCheckpoints(tmp_path, "sft", SftConfig(save_every=0), stop=stop)
    learner = fakes.FakeLearner([])
    assert stage.restore(learner) == 0
    learner.num_steps = 7
    stage.after_step(7, learner)
    assert list(tmp_path.iterdir()) == []
    stop.requested = True
    with pytest.raises(Stopped, match=r"goes on from sft step 7, .*sft_000007"):
        stage.after_step(7, learner)
    assert verified_step(tmp_path / "sft_000007") == 7
    with pytest.raises(Stopped):  # between two stages, or where a stage resumes
        stage.restore(learner)


def test_asked_to_end_with_a_full_disk_it_names_the_older_one(tmp_path: Path) -> None:
    stop = StopRequest()
    stage = StageCheckpoints(tmp_path, "sft", EVERY_STEP, stop=stop)
    save(stage, 3)
    stop.requested = True
    with pytest.raises(Stopped, match="goes on from sft step 3"):
        stage.after_step(4, FullDisk([]))


def test_ending_at_once_waits_for_no_write(tmp_path: Path) -> None:
    stop, learner = StopRequest(), SlowDisk([])
    stage = StageCheckpoints(tmp_path, "sft", EVERY_STEP, stop=stop)
    with stage:
        stage.after_step(1, learner)
        stop.at_once = True
    assert [path.name for path in tmp_path.iterdir()] == ["sft_000001.partial"]
    learner.may_end.set()


def test_a_removal_that_is_cut_short_leaves_nothing_that_looks_like_a_checkpoint(
    stage: StageCheckpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(stage, 1, 2)
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
    save(stage, 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sft_000001.old", "sft_000002", "sft_000003"]
