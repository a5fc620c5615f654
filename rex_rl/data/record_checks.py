"""What a usable record is: the checks of single fields, shared by the readers.

A check that fails raises `DataError("field: reason")`, to which the readers add file and line. Values are quoted
as `repr` writes them, so that a message stays one line whatever a file holds.

Coordinates are pixels of the original image, boxes [x0, y0, x1, y1].
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rex_rl.data.geometry_checks import TOO_LARGE, box, keypoints, mask, numbers, point, polygon
from rex_rl.data.images import ImageFolder, image_size, open_image, require_size
from rex_rl.errors import DataError
from rex_rl.language.tasks import TASKS, Geometry, Task
from rex_rl.types import Box, Object

_SPECIAL = re.compile(r"<\|[a-z_]+\|>|<\d{1,3}>")
"""Texts that a tokenizer reads as one of Qwen's special tokens or as a coordinate."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """What the records of one file are checked against."""

    task: Task | None
    """Task of all records; None: each record names its own."""
    folder: ImageFolder
    check_images: bool
    """Read every image's header; else only those of images whose size the file does not give."""
    decode_images: bool
    """Decode every image: the only way to find truncated ones."""

    def size(self, image: str, declared: tuple[int, int] | None) -> tuple[int, int]:
        """(width, height) of the image at path `image`, which must agree with what is `declared`."""
        if declared is not None and not (self.check_images or self.decode_images):
            return declared
        found = open_image(image).size if self.decode_images else image_size(image)
        if declared is not None:
            require_size(found, declared)
        return found


def task_of(fields: dict[str, Any], asked: Task | None) -> Task:
    """The task of a record: the one `asked` for, else the one it names, detection where it names none."""
    name = fields.get("task", "detection")
    if not isinstance(name, str):
        raise DataError(f"task: {name!r:.60} is not text")
    return asked or task_named(name)


def task_named(name: str) -> Task:
    """The task of that name.

    Raises:
        DataError: no such task.
    """
    if name not in TASKS:
        raise DataError(f"task: no such task {name!r} (known: {', '.join(TASKS)})")
    return TASKS[name]


def text(fields: dict[str, Any], key: str) -> str:
    """A text that is there and not blank."""
    value = fields.get(key)
    if value is None:
        raise DataError(f"{key}: missing")
    return _text(value, key)


def spoken(value: object, field: str) -> str:
    """A text for questions and answers, as a tokenizer gives it back (NFC), without blanks around it.

    No part of it may read as a special token or a coordinate.
    """
    checked = _text(value, field)
    if (special := _SPECIAL.search(checked)) is not None:
        raise DataError(f"{field}: {checked!r:.60} holds the special token {special.group()}")
    return unicodedata.normalize("NFC", checked).strip()


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{field}: {value!r:.60} is not text")
    if not value.strip():
        raise DataError(f"{field}: empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # A lone surrogate, which no tokenizer takes.
            raise DataError(f"{field}: {value!r:.60} is not valid Unicode") from error
    return value


def identity(fields: dict[str, Any]) -> str:
    """The record's id; a whole number is taken as its digits."""
    value = fields.get("id")
    return str(value) if type(value) is int else text(fields, "id")


def declared_size(fields: dict[str, Any]) -> tuple[int, int] | None:
    """(width, height) where the file gives them: both or neither.

    >>> declared_size({"width": 640, "height": 480}), declared_size({})
    ((640, 480), None)
    """
    width, height = fields.get("width"), fields.get("height")
    if width is None and height is None:
        return None
    for field, value in (("width", width), ("height", height)):
        if value is None:
            raise DataError(f"{field}: missing, where {'height' if field == 'width' else 'width'} stands")
        if type(value) not in (int, float) or not 1 <= value < TOO_LARGE or value != int(value):
            raise DataError(f"{field}: {value!r:.60} is not a number of pixels")
    return int(width), int(height)  # type: ignore[arg-type]


def asked_categories(fields: dict[str, Any], objects: Sequence[Object], task: Task) -> tuple[str, ...]:
    """`categories`, or where it is missing the distinct labels of the objects, in their order.

    Records of tasks that read text must give `categories`: their labels are the texts.
    """
    value = fields.get("categories")
    labels = {} if task.reads_text else dict.fromkeys(thing.label for thing in objects)
    if value is None:
        if not labels:
            raise DataError("categories: missing" + ("" if task.reads_text else ", and no object names one"))
        value = list(labels)
    if not isinstance(value, list) or not value:
        raise DataError(f"categories: {value!r:.60} is not a list with at least one name")
    categories = dict.fromkeys(spoken(name, "categories") for name in value)
    if len(categories) < len(value):
        raise DataError("categories: a name stands twice")
    for label in labels:
        if label not in categories:
            raise DataError(f"label: {label!r} is not among categories")
    _check_choice(tuple(categories), task)
    return tuple(categories)


def _check_choice(categories: tuple[str, ...], task: Task) -> None:
    """Refuse categories that the task cannot be asked for."""
    if task.is_single and len(categories) > 1:
        raise DataError(f"categories: {task.name} asks for one at a time, here stand {len(categories)}")
    for name in categories:
        if task.choices and name not in task.choices:
            raise DataError(f"categories: {name!r:.60} is not one of {', '.join(task.choices)}")
        if task.skeleton and (shorter := name.rstrip("0123456789")) != name and shorter in categories:
            raise DataError(f"categories: {name!r:.60} would read as one {shorter!r} of several")


def visual_prompt(fields: dict[str, Any], task: Task, size: tuple[int, int]) -> tuple[Box, ...]:
    """The example boxes that a task asks with; () for tasks without them."""
    if not task.takes_examples:
        return ()
    value = fields.get("visual_prompt")
    if value is None:
        raise DataError(f"visual_prompt: missing, and {task.name} asks by it")
    if not isinstance(value, list) or not value:
        raise DataError(f"visual_prompt: {value!r:.60} is not a list with at least one box")
    field = "visual_prompt"
    return tuple(box(numbers(corners, "[x0, y0, x1, y1]", field), size, field) for corners in value)


_NEEDED = {
    Geometry.BOX: ("bbox",),
    Geometry.POINT: ("point", "bbox", "mask"),
    Geometry.POLYGON: ("polygon",),
    Geometry.KEYPOINTS: ("keypoints", "bbox"),
}
"""Geometry that an object must have for its task: all of it, or for a point any one."""
_GEOMETRY = ("bbox", "point", "polygon", "keypoints", "mask")


def objects(fields: dict[str, Any], task: Task, size: tuple[int, int]) -> tuple[Object, ...]:
    """The record's objects with the geometry of its task; other geometry beside it is ignored.

    An error names the object's place in the list (from 1) where its reason does not tell which object is meant.
    """
    value = fields.get("objects")
    if not isinstance(value, list):
        raise DataError("objects: missing" if value is None else f"objects: {value!r:.60} is not a list")
    found = []
    for place, thing in enumerate(value, start=1):
        if not isinstance(thing, dict):
            raise DataError(f"objects: {thing!r:.60} is not an object with a label")
        if thing.get("label") is None:
            raise DataError(f"label: missing in object {place}")
        _require_geometry(thing, task, place)
        found.append(_object(thing, task, size))
    return tuple(found)


def _require_geometry(thing: dict[str, Any], task: Task, place: int) -> None:
    needed = _NEEDED[task.geometry]
    missing = [name for name in needed if thing.get(name) is None]
    if not missing or (task.geometry is Geometry.POINT and len(missing) < len(needed)):
        return
    other = [name for name in _GEOMETRY if thing.get(name) is not None and name not in needed]
    hint = f", which has {other[0]}: not the geometry of {task.name}" if other else ""
    raise DataError(f"{missing[0]}: missing in object {place}{hint}")


def _object(thing: dict[str, Any], task: Task, size: tuple[int, int]) -> Object:
    label = spoken(thing["label"], "label")  # its absence was refused above
    given = {name: thing[name] for name in _NEEDED[task.geometry] if thing.get(name) is not None}
    read: dict[str, Any] = {}
    if "bbox" in given:
        read["bbox"] = box(numbers(given["bbox"], "[x0, y0, x1, y1]", "bbox"), size)
    if "point" in given:
        read["point"] = point(numbers(given["point"], "[x, y]", "point"), size)
    if "polygon" in given:
        read["polygon"] = polygon(given["polygon"], size)
    if "keypoints" in given:
        read["keypoints"] = keypoints(given["keypoints"], task.keypoints, size)
    if "mask" in given:
        read["mask"] = mask(given["mask"], size)
    if "point" in read and "bbox" in read:
        (x, y), (x0, y0, x1, y1) = read["point"], read["bbox"]
        if not (x0 <= x <= x1 and y0 <= y <= y1):
            raise DataError(f"point: {given['point']} lies outside its bbox {given['bbox']}")
    return Object(label=label, **read)
