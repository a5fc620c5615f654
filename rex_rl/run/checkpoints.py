"""Checkpoints of a stage: written under another name, hashed in a manifest, renamed last, while training goes on.

`checkpoints/sft_000100/` holds `learner.safetensors` and `manifest.json`: step, position in the data (without
the groups that dynamic sampling dropped; a file beside holds their number), seed, W&B run, size and digest of every
file, and its own digest. A checkpoint that is incomplete or altered is refused by name, and the one before it is used.
Data order and sampling follow from seed and position, and the learner draws nothing (Qwen2.5-VL has no dropout), so
there is no random state to keep.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xxhash

from rex_rl.config.schema import OptimiserConfig
from rex_rl.errors import CheckpointError
from rex_rl.interfaces import Learner
from rex_rl.learning.schedule import due
from rex_rl.run.stopping import StopRequest

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
PARTIAL, REFUSED, OLD = ".partial", ".refused", ".old"
_READ_BYTES = 2**24


def log_warning(name: str, **facts: object) -> None:
    """Log an event as a warning, for runs without a log of their own."""
    logger.warning("%s", facts.get("message", name))


class StageCheckpoints:
    """The checkpoints of one stage of one run: its loop's `Progress`. Leaving the context waits for the last write.

    The learner hands over a copy of its state. A thread here waits for the file, hashes it, renames it and removes old
    checkpoints. At most one write is in flight: a second one waits for the first. A write that fails, as on a full
    disk, is reported, and the older checkpoint stays.
    """

    def __init__(
        self,
        folder: Path,
        stage: str,
        settings: OptimiserConfig,
        *,
        keep: int = 2,
        facts: Mapping[str, object] | None = None,
        stop: StopRequest | None = None,
        event: Callable[..., None] = log_warning,
        rewind: Callable[[int], None] = lambda step: None,
    ) -> None:
        """`rewind(step)` takes back what was logged of later steps: a restored run goes on after `step`."""
        self._rewind = rewind
        self._folder, self._stage, self._settings, self._keep = folder, stage, settings, keep
        self._facts, self._stop, self._event = facts or {}, stop or StopRequest(), event
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._in_flight: tuple[int, Future[None]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._stop.at_once:
            self._settle(wait=True)
        self._thread.shutdown(wait=False)

    def newest_step(self) -> int:
        """Step of the newest intact checkpoint, 0 where there is none; puts altered ones aside and names them."""
        for folder in reversed(self._all()):
            try:
                return verified_step(folder)
            except CheckpointError as error:
                self._event("checkpoint_refused", message=f"{error}; the one before it is used")
                refused = folder.with_suffix(REFUSED)
                shutil.rmtree(refused, ignore_errors=True)  # of an earlier attempt at the same step
                folder.rename(refused)
        return 0

    def restore(self, learner: Learner) -> int:
        """Load the newest intact checkpoint into the learner; returns its step, 0 where there is none."""
        self._settle(wait=True)
        for suffix in (PARTIAL, OLD):  # left by a process that was killed
            for left in self._folder.glob(f"{self._stage}_*{suffix}"):
                shutil.rmtree(left, ignore_errors=True)
        step = self.newest_step()
        self._rewind(step)
        if step:
            learner.load_state(self._at(step), step)
            self._stop.goes_on_from = f"{self._stage} step {step}, {self._at(step)}"
            self._event(
                "resumed",
                stage=self._stage,
                step=step,
                message=f"{self._stage}: goes on from step {step}, {self._at(step)}",
            )
        if self._stop.requested:
            raise self._stop.stopped()
        return step

    def after_step(self, step: int, learner: Learner) -> None:
        """Begin a checkpoint where one is due. Where the run was asked to end, finish one and raise Stopped."""
        is_last = self._stop.requested
        self._settle(wait=False)
        if is_last or due(step, every=self._settings.save_every, last=self._settings.num_steps):
            self._begin(step, learner)
        if is_last:
            self._settle(wait=True)
            raise self._stop.stopped()

    def _begin(self, step: int, learner: Learner) -> None:
        self._settle(wait=True)
        beside = self._at(step).with_suffix(PARTIAL)
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
        except OSError as error:
            self._report(step, error)
            return
        wait = learner.save_state(beside)
        self._in_flight = step, self._thread.submit(self._complete, step, beside, wait)

    def _complete(self, step: int, beside: Path, wait: Callable[[], None]) -> None:
        """In the thread: turn written files into a checkpoint. It gets its name last, so the name means it is whole."""
        wait()
        files = {file.name: {"bytes": file.stat().st_size, "xxh3": file_digest(file)} for file in beside.iterdir()}
        position = step * self._settings.batch_items
        facts = {"stage": self._stage, "step": step, "position": position, **self._facts, "files": files}
        (beside / MANIFEST).write_text(sealed(facts))
        sync_folder(beside)
        target = self._at(step)
        if target.exists():  # of the same step, from before a resume
            self._remove(target)
        beside.rename(target)
        sync_to_disk(self._folder)
        for old in self._all()[: -self._keep]:
            self._remove(old)

    def _settle(self, *, wait: bool) -> None:
        """Report how the write in flight ended, if it did; with `wait`, wait for its end first."""
        if self._in_flight is None or not (wait or self._in_flight[1].done()):
            return
        step, written = self._in_flight
        try:
            written.result()
            self._stop.goes_on_from = f"{self._stage} step {step}, {self._at(step)}"
        except (OSError, CheckpointError) as error:
            self._report(step, error)
        finally:
            self._in_flight = None

    def _report(self, step: int, error: Exception) -> None:
        shutil.rmtree(self._at(step).with_suffix(PARTIAL), ignore_errors=True)  # frees room on a full disk
        before = f"{self._all()[-1].name} stays the newest" if self._all() else "there is none yet"
        message = f"{self._stage}: no checkpoint of step {step}: {error}; training goes on, {before}"
        self._event("checkpoint_failed", stage=self._stage, step=step, message=message)

    @staticmethod
    def _remove(folder: Path) -> None:
        """Remove a checkpoint, renamed first: a removal cut short leaves nothing that looks like a checkpoint."""
        gone = folder.with_suffix(OLD)
        shutil.rmtree(gone, ignore_errors=True)
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _at(self, step: int) -> Path:
        return self._folder / f"{self._stage}_{step:06d}"

    def _all(self) -> list[Path]:
        return sorted(path for path in self._folder.glob(f"{self._stage}_*") if not path.suffix)


def verified_step(folder: Path) -> int:
    """The step of a checkpoint whose files are all intact; raises CheckpointError naming what is not."""
    manifest = _manifest(folder)
    step: int = manifest["step"]
    if not folder.name.endswith(f"_{step:06d}"):
        raise CheckpointError(f"{folder}: {MANIFEST} says step {step}")
    for name, written in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: is missing")
        if file.stat().st_size != written["bytes"]:
            raise CheckpointError(f"{file}: has {file.stat().st_size} bytes, was written with {written['bytes']}")
        if file_digest(file) != written["xxh3"]:
            raise CheckpointError(f"{file}: was altered after it was written")
    return step


def sealed(facts: Mapping[str, Any]) -> str:
    """A manifest's text, which ends with the digest of all before it, so that any altered bit is noticed."""
    digest = xxhash.xxh3_64_hexdigest(json.dumps(facts, indent=2).encode())
    return json.dumps({**facts, "seal": digest}, indent=2) + "\n"


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        text = file.read_text()
        facts = json.loads(text)
        facts.pop("seal", None)
    except (OSError, ValueError, AttributeError, RecursionError, TypeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({type(error).__name__})") from error
    if not facts.get("files") or sealed(facts) != text:
        raise CheckpointError(f"{file}: was altered after it was written")
    return facts


def file_digest(file: Path) -> str:
    """xxh3-64 of a file."""
    digest = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Once this returns, the files in a folder survive a power cut."""
    for path in (*folder.iterdir(), folder):
        sync_to_disk(path)


def sync_to_disk(path: Path) -> None:
    """Once this returns, a file's content, or the names in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
