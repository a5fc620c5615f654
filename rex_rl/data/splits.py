"""The records of a run: training and held-out, from the config's paths or from the synthetic world."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rex_rl.config.load import Config
from rex_rl.config.schema import SHAPES_DATA, DataConfig
from rex_rl.data.coco import read_dataset
from rex_rl.data.records import BadRecord, RecordSet
from rex_rl.data.stream import split_records
from rex_rl.errors import DataError
from rex_rl.types import Record

HELDOUT_SEED_OFFSET = 1_000_003
"""Held-out scenes are drawn from seeds that no training split uses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSplit:
    """Records to train on, records to evaluate on, and those that were skipped."""

    train: tuple[Record, ...]
    heldout: tuple[Record, ...]
    bad: tuple[BadRecord, ...]


def load_split(config: Config) -> DataSplit:
    """Read what the config names; raises DataError for whatever cannot be used (see rex_rl.data.records)."""
    data = config.data
    train_file, heldout_file, is_new = Path(data.train), data.heldout, False
    if data.train == SHAPES_DATA:
        is_new = not shapes_folder(config.run_root, data).is_dir()
        train_file, heldout_file = shapes_files(config.run_root, data)
    train = _read(train_file, data.images, data, check_images=not is_new)
    if heldout_file is None:
        if (num_images := len({record.image for record in train.records})) < 2:
            raise DataError(
                f"{train_file}: good records of {num_images} image; one to train on and one to hold back are needed"
            )
        kept, held = split_records(train.records, heldout_fraction=data.heldout_fraction, seed=config.seed)
        bad = train.bad
    else:
        heldout = _read(heldout_file, data.heldout_images or data.images, data, check_images=not is_new)
        kept, held, bad = list(train.records), list(heldout.records), (*train.bad, *heldout.bad)
    return DataSplit(
        train=tuple(kept), heldout=heldout_records(held, config.evaluation.num_images, seed=config.seed), bad=bad
    )


def heldout_records(records: Sequence[Record], num: int, *, seed: int) -> tuple[Record, ...]:
    """`num` records of each task, drawn by the seed among all of them and kept in their order; all where no more are.

    What is drawn of one task does not depend on the records of another.
    """
    places_of: dict[str, list[int]] = {}
    for place, record in enumerate(records):
        places_of.setdefault(record.task, []).append(place)
    drawn = [np.random.default_rng([seed, 2]).permutation(places)[:num] for places in places_of.values()]
    return tuple(records[place] for place in sorted(place for places in drawn for place in places.tolist()))


def shapes_folder(run_root: Path, data: DataConfig) -> Path:
    """Where the synthetic world of this size, seed and these tasks lies."""
    world = data.shapes
    tasks = "" if data.tasks == ("detection",) else "_" + "_".join(data.tasks)
    return run_root / "data" / f"shapes_{world.num_train}_{world.num_heldout}_{world.seed}{tasks}"


def shapes_files(run_root: Path, data: DataConfig) -> tuple[Path, Path]:
    """(training, held-out) files of the synthetic world below the run root, made on first use."""
    from rex_rl.shapes.world import write_split

    world, folder = data.shapes, shapes_folder(run_root, data)
    files = {
        "train": (world.num_train, world.seed),
        "heldout": (world.num_heldout, world.seed + HELDOUT_SEED_OFFSET),
    }
    for name, (num_images, seed) in files.items():
        if not (folder / f"{name}.jsonl").is_file():  # written after its images, so a split with it is whole
            write_split(folder, name=name, num_images=num_images, seed=seed, tasks=data.tasks)
    return folder / "train.jsonl", folder / "heldout.jsonl"


def _read(file: Path, images: Path | None, data: DataConfig, *, check_images: bool) -> RecordSet:
    read = read_dataset(
        file,
        images=images,
        task=data.tasks[0] if len(data.tasks) == 1 else None,
        max_bad_fraction=data.max_bad_fraction,
        check_images=check_images,  # what was drawn a moment ago is not looked at again
        decode_images=check_images,
    )
    if not read.records:
        raise DataError(f"{file}: no good record")
    for record in read.records:
        if record.task not in data.tasks:
            raise DataError(f"{record.source}: task: asked for {', '.join(data.tasks)}, found {record.task!r}")
    return read
