"""Checkpoints of a stage: written beside, hashed in a manifest, renamed last.

`checkpoints/sft_000100/` holds `learner.safetensors` and `manifest.json` (step, size and digest of every file). One
that is incomplete or altered is refused by name and the one before it is used. Positions in the data follow from the
step, so the step is all the state there is beside the learner's.
"""

import json
import logging
import shutil
from pathlib import Path

import xxhash

from rex_rl.errors import CheckpointError
from rex_rl.interfaces import Learner

logger = logging.getLogger(__name__)
MANIFEST = "manifest.json"
_READ_BYTES = 2**24


class StageCheckpoints:
    """The checkpoints of one stage of one run."""

    def __init__(self, folder: Path, stage: str, *, keep: int) -> None:
        self._folder, self._stage, self._keep = folder, stage, keep

    def newest_step(self) -> int:
        """Step of the newest intact checkpoint, 0 where there is none; drops altered ones, naming them."""
        for folder in reversed(self._all()):
            try:
                return verified_step(folder)
            except CheckpointError as error:
                logger.warning("%s; the one before it is used", error)
                refused = folder.with_suffix(".refused")
                shutil.rmtree(refused, ignore_errors=True)  # of an earlier attempt at the same step
                folder.rename(refused)
        return 0

    def restore(self, learner: Learner) -> int:
        """Load the newest intact checkpoint into the learner; returns its step, 0 where there is none."""
        step = self.newest_step()
        if step:
            learner.load_state(self._at(step), step)
        return step

    def save(self, step: int, learner: Learner) -> None:
        """Write a checkpoint and drop the oldest ones beyond `keep`."""
        target = self._at(step)
        beside = target.with_suffix(".partial")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        learner.save_state(beside)
        files = {file.name: {"bytes": file.stat().st_size, "xxh3": file_digest(file)} for file in beside.iterdir()}
        (beside / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=2))
        shutil.rmtree(target, ignore_errors=True)
        beside.rename(target)
        for old in self._all()[: -self._keep]:
            shutil.rmtree(old)

    def _at(self, step: int) -> Path:
        return self._folder / f"{self._stage}_{step:06d}"

    def _all(self) -> list[Path]:
        return sorted(path for path in self._folder.glob(f"{self._stage}_*") if not path.suffix)


def verified_step(folder: Path) -> int:
    """The step of a checkpoint whose files are all as they were written; raises CheckpointError naming what is not."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        step = int(manifest["step"])
        files = [(folder / name, int(facts["bytes"]), facts["xxh3"]) for name, facts in manifest["files"].items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder}: {MANIFEST} cannot be read ({type(error).__name__})") from error
    if not folder.name.endswith(f"_{step:06d}"):
        raise CheckpointError(f"{folder}: {MANIFEST} says step {step}")
    for file, num_bytes, digest in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: is missing")
        if file.stat().st_size != num_bytes:
            raise CheckpointError(f"{file}: has {file.stat().st_size} bytes, was written with {num_bytes}")
        if file_digest(file) != digest:
            raise CheckpointError(f"{file}: was altered after it was written")
    return step


def file_digest(file: Path) -> str:
    """xxh3-64 of a file."""
    digest = xxhash.xxh3_64()
    with file.open("rb") as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
