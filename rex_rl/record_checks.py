"""What a usable record is: the checks of single fields, shared by the readers.

A check that fails raises `DataError("field: reason")`, which the readers put beside file and line. Values are quoted
as `repr` writes them, so that a message stays one line whatever a file holds.

Coordinates are pixels of the original image, boxes [x0, y0, x1, y1].
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rex_rl.errors import DataError
from rex_rl.images import ImageFolder, image_size, open_image, require_size
from rex_rl.tasks import TASKS, Geometry, Task
from rex_rl.types import Object

TOLERANCE_PX = 1
"""Annotation tools round: what lies this far outside the image is clipped, what lies further is refused."""

_SPECIAL = re.compile(r"<\|[a-z_]+\|>|<\d{1,3}>")
"""Texts that a tokenizer reads as one of Qwen's special tokens or as a coordinate."""

_TOO_LARGE = 1e15
"""Nearer to infinity than to any pixel; sums and differences below it cannot overflow."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Checks:
    """What the records of one file are checked against."""

    task: Task
    folder: ImageFolder
    check_images: bool
    """Read every image's header; without it only the headers of images whose size the file does not say."""
    decode_images: bool
    """Decode every image wholly: the only way to find the truncated ones."""

    def size(self, image: str, declared: tuple[int, int] | None) -> tuple[int, int]:
        """(width, height) of the image at path `image`, which must agree with what is `declared`."""
        if declared is not None and not (self.check_images or self.decode_images):
            return declared
        found = open_image(image).size if self.decode_images else image_size(image)
        if declared is not None:
            require_size(found, declared)
        return found


def task_named(name: str) -> Task:
    """The task that is asked for.

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


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{field}: {value!r:.60} is not text")
    if not value.strip():
        raise DataError(f"{field}: empty")
    if (special := _SPECIAL.search(value)) is not None:  # it would be read as a mark, an image or a coordinate
        raise DataError(f"{field}: {value!r:.60} holds the special token {special.group()}")
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
    """(width, height) where the file says them: both or neither.

    >>> declared_size({"width": 640, "height": 480}), declared_size({})
    ((640, 480), None)
    """
    width, height = fields.get("width"), fields.get("height")
    if width is None and height is None:
        return None
    for field, value in (("width", width), ("height", height)):
        if value is None:
            raise DataError(f"{field}: missing, where {'height' if field == 'width' else 'width'} stands")
        if type(value) not in (int, float) or not 1 <= value < _TOO_LARGE or value != int(value):
            raise DataError(f"{field}: {value!r:.60} is not a number of pixels")
    return int(width), int(height)  # type: ignore[arg-type]


def asked_categories(fields: dict[str, Any], objects: Sequence[Object]) -> tuple[str, ...]:
    """`categories`, or where it is missing the distinct labels of the objects, in the order they come."""
    value = fields.get("categories")
    labels = dict.fromkeys(thing.label for thing in objects)
    if value is None:
        if not labels:
            raise DataError("categories: missing, and no object names one")
        return tuple(labels)
    if not isinstance(value, list) or not value:
        raise DataError(f"categories: {value!r:.60} is not a list with at least one name")
    categories = dict.fromkeys(_text(name, "categories") for name in value)
    if len(categories) < len(value):
        raise DataError("categories: a name stands twice")
    for label in labels:
        if label not in categories:
            raise DataError(f"label: {label!r} is not among categories")
    return tuple(categories)


def numbers(value: object, layout: str, field: str) -> list[float]:
    """Finite numbers, as many as `layout` names.

    >>> numbers([1, 2.5], "[x, y]", "point")
    [1, 2.5]
    >>> numbers([1, float("nan")], "[x, y]", "point")
    Traceback (most recent call last):
    rex_rl.errors.DataError: point: nan is not a finite number
    """
    if value is None:
        raise DataError(f"{field}: missing")
    if not isinstance(value, list) or len(value) != layout.count(",") + 1:
        raise DataError(f"{field}: {value!r:.60} is not {layout}")
    for number in value:
        if type(number) not in (int, float) or not -_TOO_LARGE < number < _TOO_LARGE:
            raise DataError(f"{field}: {number!r:.60} is not a finite number")
    return value


def box(corners: list[float], size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box with area inside its image, clipped by at most `TOLERANCE_PX`.

    >>> box([-0.5, 2, 30, 480.75], (640, 480))
    (0.0, 2.0, 30.0, 480.0)
    >>> box([30, 2, 12, 8], (640, 480))
    Traceback (most recent call last):
    rex_rl.errors.DataError: bbox: x1 12 <= x0 30
    """
    x0, y0, x1, y1 = corners
    width, height = size
    if x1 <= x0:
        raise DataError(f"bbox: x1 {x1} <= x0 {x0}")
    if y1 <= y0:
        raise DataError(f"bbox: y1 {y1} <= y0 {y0}")
    if x0 < -TOLERANCE_PX or y0 < -TOLERANCE_PX or x1 > width + TOLERANCE_PX or y1 > height + TOLERANCE_PX:
        raise DataError(f"bbox: {corners} reaches more than {TOLERANCE_PX} pixel outside its {width}x{height} image")
    clipped = (float(max(x0, 0)), float(max(y0, 0)), float(min(x1, width)), float(min(y1, height)))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise DataError(f"bbox: {corners} has no area inside its {width}x{height} image")
    return clipped


def point(xy: list[float], size: tuple[int, int]) -> tuple[float, float]:
    """A point inside its image, clipped by at most `TOLERANCE_PX`.

    >>> point([640.5, 12], (640, 480))
    (640.0, 12.0)
    """
    (x, y), (width, height) = xy, size
    if not (-TOLERANCE_PX <= x <= width + TOLERANCE_PX and -TOLERANCE_PX <= y <= height + TOLERANCE_PX):
        raise DataError(f"point: {xy} lies more than {TOLERANCE_PX} pixel outside its {width}x{height} image")
    return float(min(max(x, 0), width)), float(min(max(y, 0), height))


def _boxed(fields: dict[str, Any], label: str, size: tuple[int, int]) -> Object:
    return Object(label=label, bbox=box(numbers(fields.get("bbox"), "[x0, y0, x1, y1]", "bbox"), size))


def _pointed(fields: dict[str, Any], label: str, size: tuple[int, int]) -> Object:
    return Object(label=label, point=point(numbers(fields.get("point"), "[x, y]", "point"), size))


_KEYS = {Geometry.BOX: "bbox", Geometry.POINT: "point"}
_READERS: dict[Geometry, Callable[[dict[str, Any], str, tuple[int, int]], Object]] = {
    Geometry.BOX: _boxed,
    Geometry.POINT: _pointed,
}
_OTHER_GEOMETRY = ("bbox", "point", "polygon", "keypoints", "mask")


def objects(fields: dict[str, Any], task: Task, size: tuple[int, int]) -> tuple[Object, ...]:
    """The record's objects with the geometry of its task; other geometry beside it is ignored.

    The place of an object in its list (from 1) is named where the reason alone does not tell which one is meant.
    """
    value = fields.get("objects")
    if not isinstance(value, list):
        raise DataError("objects: missing" if value is None else f"objects: {value!r:.60} is not a list")
    key, read = _KEYS[task.geometry], _READERS[task.geometry]
    found = []
    for place, thing in enumerate(value, start=1):
        if not isinstance(thing, dict):
            raise DataError(f"objects: {thing!r:.60} is not an object with a label")
        if thing.get("label") is None:
            raise DataError(f"label: missing in object {place}")
        if thing.get(key) is None:
            other = [name for name in _OTHER_GEOMETRY if thing.get(name) is not None]
            hint = f", which has {other[0]}: not the geometry of {task.name}" if other else ""
            raise DataError(f"{key}: missing in object {place}{hint}")
        found.append(read(thing, text(thing, "label"), size))
    return tuple(found)
