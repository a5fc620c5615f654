"""Record files: JSON lines in, `Record`s out.

A bad record is named (file, line, field, reason), skipped and counted; above `max_bad_fraction` reading fails. A record
of another task than the one asked for means that the file is the wrong one, and fails at once.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from rex_rl.data.images import ImageFolder
from rex_rl.data.record_checks import (
    Checks,
    asked_categories,
    declared_size,
    identity,
    objects,
    task_named,
    task_of,
    text,
    visual_prompt,
)
from rex_rl.errors import DataError
from rex_rl.language.codec import truth_on_grid
from rex_rl.types import Object, Record

MAX_LINE_BYTES = 64 * 2**20
"""No record is this long; a binary file without line ends would otherwise be read whole into one line."""

_QUOTED, _NUMBER = re.compile(r"'[^']*'|\"[^\"]*\""), re.compile(r"\d[\d.,]*")
_PROBE_LINES = 10
"""A file without a JSON object in its first lines is of another kind, and is not read to its end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BadRecord:
    """A record that was skipped, and why."""

    file: str
    line: int | None
    """From 1; None in a COCO file, which has no lines."""
    id: str | None
    """None where the record has none."""
    field: str
    reason: str

    @property
    def text(self) -> str:
        """One line: `train.jsonl:12: bbox: x1 12 <= x0 30`."""
        where = f"{self.file}:{self.line}" if self.line is not None else f"{self.file}#{_plain(self.id or '?')}"
        return f"{where}: {self.field}: {self.reason}"

    @property
    def kind(self) -> str:
        """Field and reason without names and numbers, for counting: `image: empty file ..`."""
        return f"{self.field}: {_NUMBER.sub('#', _QUOTED.sub('..', self.reason))}"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordSet:
    """What was read from one file."""

    file: str
    records: tuple[Record, ...]
    bad: tuple[BadRecord, ...]
    num_read: int
    """Good and bad records."""
    skipped: Mapping[str, int] = field(default_factory=dict)
    """What was left out though nothing is wrong with it: reason -> how many. Not in `num_read`."""

    def require_good(self, max_bad_fraction: float) -> None:
        """Refuse the file when more than this share of its records is bad.

        Raises:
            DataError: one line with how many of how many, the limit, the file and the first bad one.
        """
        if len(self.bad) > max_bad_fraction * self.num_read:
            raise DataError(
                f"{self.file}: {len(self.bad)} of {self.num_read} records are bad, "
                f"more than max_bad_fraction {max_bad_fraction:g} allows; first: {self.bad[0].text}"
            )


class ReadOptions(TypedDict, total=False):
    """Options of the readers of both formats; `read_records` explains them."""

    images: str | Path | None
    task: str | None
    max_bad_fraction: float
    check_images: bool
    decode_images: bool


def read_records(
    file: str | Path,
    *,
    images: str | Path | None = None,
    task: str | None = "detection",
    max_bad_fraction: float = 0.01,
    check_images: bool = True,
    decode_images: bool = False,
) -> RecordSet:
    """Read a JSON-lines file of records of one task, or with `task` None of the task each of them names.

    `images` is the folder that image paths are relative to and may not leave; None is the file's own. With
    `check_images` every image's header is read, with `decode_images` all of its pixels; without either, only headers
    of images whose `width` and `height` the file does not give. Unknown keys are ignored; a record without `task` has
    the task asked for, or detection.

    Raises:
        DataError: no such file, no JSON lines, no record, a record of another task, too many bad ones.
    """
    checks = make_checks(file, images=images, task=task, check_images=check_images, decode_images=decode_images)
    records: list[Record] = []
    bad: list[BadRecord] = []
    line_of_id: dict[str, int] = {}
    for line, value in _lines(file):
        where = f"{file}:{line}"
        if isinstance(value, dict) and task is not None:
            _require_task(value, task, where)
        try:
            if isinstance(value, DataError):
                raise value
            record = _record(value, where, checks)
            if record.id in line_of_id:
                raise DataError(f"id: {record.id!r} stands already in line {line_of_id[record.id]}")
        except DataError as error:
            bad.append(bad_record(error, file=file, line=line, id=value.get("id") if isinstance(value, dict) else None))
        else:
            line_of_id[record.id] = line
            records.append(record)
    record_set = RecordSet(file=str(file), records=tuple(records), bad=tuple(bad), num_read=len(records) + len(bad))
    record_set.require_good(max_bad_fraction)
    return record_set


def make_checks(
    file: str | Path, *, images: str | Path | None, task: str | None, check_images: bool, decode_images: bool
) -> Checks:
    """The checks of one data file, which must be there.

    Raises:
        DataError: no such file, no such folder of images, no such task.
    """
    if not os.path.exists(file):
        raise DataError(f"{file}: no such file")
    return Checks(
        task=None if task is None else task_named(task),
        folder=ImageFolder(Path(file).parent if images is None else images),
        check_images=check_images,
        decode_images=decode_images,
    )


def bad_record(error: DataError, *, file: str | Path, line: int | None, id: object) -> BadRecord:
    """The record of a failed check: its `field: reason`, and where it was found."""
    name, _, reason = str(error).partition(": ")
    known = id if isinstance(id, str) else str(id) if type(id) is int else None
    return BadRecord(file=str(file), line=line, id=known, field=name, reason=reason)


def check_report(record_set: RecordSet) -> list[str]:
    """Lines for people: one for each bad record, then a summary of the good ones."""
    records = record_set.records
    lines = [bad.text for bad in record_set.bad]
    lines.append(
        f"{record_set.file}: {record_set.num_read:,} records read, {len(records):,} good, {len(record_set.bad):,} bad"
    )
    lines.extend(f"left out: {count:,} {reason}" for reason, count in record_set.skipped.items())
    if not records:
        return lines
    counts = sorted(len(record.objects) for record in records)
    lines.append(
        f"objects: {sum(counts):,}; in an image {counts[0]} at least, {median(counts):g} in the middle, "
        f"{counts[-1]} at most"
    )
    num_joined_M = [len(record.objects) - len(truth_on_grid(record).labels) for record in records]
    if any(num_joined_M):
        first = next(record for record, num in zip(records, num_joined_M, strict=True) if num)
        lines.append(
            f"coincide on the answer grid with another of their label, and count as one: {sum(num_joined_M):,} objects "
            f"in {sum(map(bool, num_joined_M)):,} records; the first: {first.source}"
        )
    labels = Counter(thing.label for record in records for thing in record.objects)
    asked = {category for record in records for category in record.categories}
    lines.append(f"categories: {len(asked):,}, {len(labels):,} of them with objects: {_most_common(labels)}")
    sizes = Counter(f"{record.width}x{record.height}" for record in records)
    lines.append(f"image sizes: {len(sizes):,}: {_most_common(sizes)}")
    return lines


def _most_common(counts: Counter[str], shown: int = 5) -> str:
    """`cat 120, dog 80, 3 more`."""
    parts = [f"{_plain(name)} {count:,}" for name, count in counts.most_common(shown)]
    return ", ".join(parts + ([f"{len(counts) - shown:,} more"] if len(counts) > shown else [])) or "none"


def _plain(name: str) -> str:
    """As it is, unless it holds line ends or control characters."""
    return name if name.isprintable() else repr(name)


def _lines(file: str | Path) -> Iterator[tuple[int, dict[str, Any] | DataError]]:
    """(line number, its object or what is wrong with it) of every line that is not blank."""
    num_objects, first_fault = 0, None
    try:
        with open(file, "rb") as stream:
            for line, raw in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES), b""), start=1):
                if len(raw) == MAX_LINE_BYTES:
                    raise DataError(f"{file}: not JSON lines: line {line} has {MAX_LINE_BYTES:,} bytes or more")
                if not raw.strip():
                    continue
                value = parse_line(raw.removeprefix(b"\xef\xbb\xbf").strip() if line == 1 else raw.strip())
                if isinstance(value, DataError):
                    first_fault = first_fault or f"line {line}: {str(value).removeprefix('json: ')}"
                    if num_objects == 0 and line >= _PROBE_LINES:
                        break
                else:
                    num_objects += 1
                yield line, value
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error
    if num_objects == 0:
        raise DataError(f"{file}: not JSON lines: {first_fault}" if first_fault else f"{file}: empty, no record in it")


def parse_line(raw: bytes) -> dict[str, Any] | DataError:
    """The JSON object of one line, or a DataError (returned, not raised) that says why it is none."""
    try:
        value = json.loads(raw.decode())
    except json.JSONDecodeError as error:
        return DataError(f"json: {error.msg} at column {error.colno}")
    except (ValueError, RecursionError) as error:
        return DataError(f"json: {error}")
    if not isinstance(value, dict):
        return DataError(f"json: a {type(value).__name__}, not an object")
    return value


def _require_task(fields: dict[str, Any], asked: str, where: str) -> None:
    found = fields.get("task")
    if isinstance(found, str) and found != asked:
        raise DataError(f"{where}: task: asked for {asked!r}, found {found!r}")


def _record(fields: dict[str, Any], where: str, checks: Checks) -> Record:
    """One checked record."""
    id, task = identity(fields), task_of(fields, checks.task)
    image = checks.folder.locate(text(fields, "image"))
    width, height = size = checks.size(image, declared_size(fields))
    things = objects(fields, task, size)
    return Record(
        id=id,
        image=image,
        task=task.name,
        categories=asked_categories(fields, things, task),
        objects=things,
        width=width,
        height=height,
        source=where,
        visual_prompt=visual_prompt(fields, task, size),
    )


def object_fields(thing: Object) -> dict[str, Any]:
    """The JSON object of an object, as record files hold it.

    >>> object_fields(Object(label="cat", point=(3.0, 4.5)))
    {'label': 'cat', 'point': [3.0, 4.5]}
    """
    fields: dict[str, Any] = {"label": thing.label}
    if thing.bbox is not None:
        fields["bbox"] = list(thing.bbox)
    if thing.point is not None:
        fields["point"] = list(thing.point)
    if thing.polygon is not None:
        fields["polygon"] = [list(vertex) for vertex in thing.polygon]
    if thing.keypoints is not None:
        fields["keypoints"] = {name: None if xy is None else list(xy) for name, xy in thing.keypoints.items()}
    if thing.mask is not None:
        width, height = thing.mask.size
        fields["mask"] = {"size": [height, width], "counts": thing.mask.counts.decode()}
    return fields
