"""COCO instances JSON (`images`, `annotations`, `categories`; boxes [x, y, width, height]) as records.

Source of the format: cocodataset.org, "Data format", 1. Object Detection.

A record asks for the categories that have a box in its image, in the file's order (the Rex-Omni paper prompts with the
categories present only). Crowd regions are left out: their box holds several things. Images without a box are left out
and counted, as there is nothing to ask about them.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any, Unpack

from rex_rl.data.geometry_checks import box, numbers
from rex_rl.data.record_checks import Checks, declared_size, identity, spoken, text
from rex_rl.data.records import BadRecord, ReadOptions, RecordSet, bad_record, make_checks, read_records
from rex_rl.errors import DataError
from rex_rl.types import Object, Record

TASK = "detection"
_LISTS = ("images", "annotations", "categories")


def read_dataset(file: str | Path, **options: Unpack[ReadOptions]) -> RecordSet:
    """Read a data file of either kind: a `.json` file is COCO, any other JSON lines; `options` are the readers'.

    Raises:
        DataError: as the file's reader does.
    """
    return (read_coco if Path(file).suffix.lower() == ".json" else read_records)(file, **options)


def read_coco(
    file: str | Path,
    *,
    images: str | Path | None = None,
    task: str | None = "detection",
    max_bad_fraction: float = 0.01,
    check_images: bool = True,
    decode_images: bool = False,
) -> RecordSet:
    """Read a COCO instances file; `images` is the folder of its images, None the file's own.

    A record is one image and its id the image's; one bad annotation makes the record bad.

    Raises:
        DataError: no such file, no COCO JSON, no image, a task that boxes do not answer, too many bad records.
    """
    checks = make_checks(file, images=images, task=task, check_images=check_images, decode_images=decode_images)
    return _read(_load(file), str(file), checks, max_bad_fraction)


def _load(file: str | Path) -> object:
    try:
        return json.loads(Path(file).read_bytes().decode("utf-8-sig"))
    except json.JSONDecodeError as error:
        raise DataError(f"{file}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file}: not JSON: {error}") from error
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from error


def _read(value: object, file: str, checks: Checks, max_bad_fraction: float) -> RecordSet:
    images, annotations, categories = _lists(value, file)
    if checks.task is not None and checks.task.name != TASK:
        raise DataError(f"{file}: task: asked for {checks.task.name!r}, a COCO file holds {TASK!r}")
    names = _names(categories, file)
    records: list[Record] = []
    annotations_of, bad = _by_image(images, annotations, file)
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    for image in images:
        fields = image if isinstance(image, dict) else {}
        try:
            id = identity(fields)
            if id in seen:
                raise DataError(f"id: {id!r} stands twice in images")
            seen.add(id)
            own = annotations_of[id]
            single = [annotation for annotation in own if not annotation.get("iscrowd")]
            skipped["crowd regions"] += len(own) - len(single)
            if single:
                records.append(_record(fields, single, names, checks, source=f"{file}#{id}"))
            else:
                skipped["images without a box"] += 1
        except DataError as error:
            bad.append(bad_record(error, file=file, line=None, id=fields.get("id")))
    record_set = RecordSet(
        file=file, records=tuple(records), bad=tuple(bad), num_read=len(records) + len(bad), skipped=+skipped
    )
    if not record_set.num_read:
        raise DataError(f"{file}: no image with a box in it")
    record_set.require_good(max_bad_fraction)
    return record_set


def _lists(value: object, file: str) -> list[list[Any]]:
    """The three lists of the format."""
    if not isinstance(value, dict):
        raise DataError(f"{file}: not a COCO file: a {type(value).__name__}, not an object")
    for key in _LISTS:
        if not isinstance(value.get(key), list):
            raise DataError(f"{file}: not a COCO file: {key!r} is {'not a list' if key in value else 'missing'}")
    return [value[key] for key in _LISTS]


def _names(categories: list[Any], file: str) -> dict[int | str, str]:
    """Category id -> name. Two ids may share a name."""
    names: dict[int | str, str] = {}
    for place, category in enumerate(categories, start=1):
        try:
            if not isinstance(category, dict) or type(category.get("id")) not in (int, str):
                raise DataError("id: missing")
            names[category["id"]] = spoken(text(category, "name"), "name")
        except DataError as error:
            raise DataError(f"{file}: category {place}: {error}") from error
    return names


def _by_image(
    images: list[Any], annotations: list[Any], file: str
) -> tuple[dict[str, list[dict[str, Any]]], list[BadRecord]]:
    """Image id -> its annotations, and one bad record for every image that has annotations but is not listed."""
    found: dict[str, list[dict[str, Any]]] = {
        str(image["id"]): [] for image in images if isinstance(image, dict) and type(image.get("id")) in (int, str)
    }
    strays: dict[str, int] = {}
    for place, annotation in enumerate(annotations, start=1):
        id = annotation.get("image_id") if isinstance(annotation, dict) else None
        if type(id) in (int, str) and str(id) in found:
            found[str(id)].append(annotation)
        else:
            strays.setdefault(repr(id)[:60], place)
    bad = [
        bad_record(
            DataError(f"image_id: {id} of annotation {place} is not among images"), file=file, line=None, id=None
        )
        for id, place in strays.items()
    ]
    return found, bad


def _record(
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    names: dict[int | str, str],
    checks: Checks,
    *,
    source: str,
) -> Record:
    """One checked record."""
    path = checks.folder.locate(text(image, "file_name"))
    width, height = size = checks.size(path, declared_size(image))
    things = tuple(_object(annotation, names, size) for annotation in annotations)
    return Record(
        id=identity(image),
        image=path,
        task=TASK,
        categories=tuple(dict.fromkeys(thing.label for thing in things)),
        objects=things,
        width=width,
        height=height,
        source=source,
    )


def _object(annotation: dict[str, Any], names: dict[int | str, str], size: tuple[int, int]) -> Object:
    category = annotation.get("category_id")
    if type(category) not in (int, str) or category not in names:
        raise DataError(f"category_id: {category!r:.60} is not among categories")
    x, y, width, height = numbers(annotation.get("bbox"), "[x, y, width, height]", "bbox")
    return Object(label=names[category], bbox=box([x, y, x + width, y + height], size))
