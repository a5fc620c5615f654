"""Checks of single geometries, in pixels of their image.

A check that fails raises `DataError("field: reason")`; record_checks.py says what then happens.
"""

from itertools import pairwise
from typing import Any

from rewards.geometry.masks import Mask, mask_areas
from rex_rl.errors import DataError
from rex_rl.language.rle import compress
from rex_rl.types import Box, Point

TOLERANCE_PX = 1
"""Annotation tools round: coordinates this far outside the image are clipped, those further out are refused."""
MIN_AREA_PX2 = 1e-6
"""A polygon with less area has its vertices on one line, up to rounding."""

TOO_LARGE = 1e15
"""Nearer to infinity than to any pixel; sums and differences below it cannot overflow."""


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
        if type(number) not in (int, float) or not -TOO_LARGE < number < TOO_LARGE:
            raise DataError(f"{field}: {number!r:.60} is not a finite number")
    return value


def box(corners: list[float], size: tuple[int, int], field: str = "bbox") -> Box:
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
        raise DataError(f"{field}: x1 {x1} <= x0 {x0}")
    if y1 <= y0:
        raise DataError(f"{field}: y1 {y1} <= y0 {y0}")
    if x0 < -TOLERANCE_PX or y0 < -TOLERANCE_PX or x1 > width + TOLERANCE_PX or y1 > height + TOLERANCE_PX:
        raise DataError(f"{field}: {corners} reaches more than {TOLERANCE_PX} pixel outside its {width}x{height} image")
    clipped = (float(max(x0, 0)), float(max(y0, 0)), float(min(x1, width)), float(min(y1, height)))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        raise DataError(f"{field}: {corners} has no area inside its {width}x{height} image")
    return clipped


def point(xy: list[float], size: tuple[int, int], field: str = "point") -> Point:
    """A point inside its image, clipped by at most `TOLERANCE_PX`.

    >>> point([640.5, 12], (640, 480))
    (640.0, 12.0)
    """
    (x, y), (width, height) = xy, size
    if not (-TOLERANCE_PX <= x <= width + TOLERANCE_PX and -TOLERANCE_PX <= y <= height + TOLERANCE_PX):
        raise DataError(f"{field}: {xy} lies more than {TOLERANCE_PX} pixel outside its {width}x{height} image")
    return float(min(max(x, 0), width)), float(min(max(y, 0), height))


def polygon(value: object, size: tuple[int, int]) -> tuple[Point, ...]:
    """Three vertices or more inside their image, clipped by at most `TOLERANCE_PX`, with area.

    >>> polygon([[0, 0], [4, 0], [4, 3]], (640, 480))
    ((0.0, 0.0), (4.0, 0.0), (4.0, 3.0))
    """
    if not isinstance(value, list) or len(value) < 3:
        raise DataError(f"polygon: {value!r:.60} is not a list of three or more [x, y]")
    vertices = tuple(point(numbers(vertex, "[x, y]", "polygon"), size, "polygon") for vertex in value)
    edges = pairwise((*vertices, vertices[0]))
    if abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges)) < 2 * MIN_AREA_PX2:
        raise DataError(f"polygon: {value!r:.60} has no area")
    return vertices


def keypoints(value: object, names: tuple[str, ...], size: tuple[int, int]) -> dict[str, Point | None]:
    """A point or None for every one of `names`, in their order; names that are not given are unseen.

    >>> keypoints({"tail": [3, 4]}, ("nose", "tail"), (640, 480))
    {'nose': None, 'tail': (3.0, 4.0)}
    """
    if not isinstance(value, dict):
        raise DataError(f"keypoints: {value!r:.60} is not an object of names and [x, y]")
    for name in value:
        if name not in names:
            raise DataError(f"keypoints: {name!r:.60} is none of {', '.join(names)}")
    if all(xy is None for xy in value.values()):
        raise DataError("keypoints: none can be seen")
    given = {name: xy for name, xy in value.items() if xy is not None}
    return {
        name: point(numbers(given[name], "[x, y]", "keypoints"), size, "keypoints") if name in given else None
        for name in names
    }


def mask(value: object, size: tuple[int, int]) -> Mask:
    """A mask from COCO's run lengths, a list or compressed; it must be as large as its image and not empty.

    >>> mask({"size": [2, 3], "counts": [1, 3, 2]}, (3, 2))
    Mask(size=(3, 2), counts=b'132')
    """
    fields: dict[str, Any] = value if isinstance(value, dict) else {}
    counts, (width, height) = fields.get("counts"), size
    if not isinstance(counts, (list, str)):
        raise DataError(f'mask: {value!r:.60} is not an object of "size" and "counts"')
    if fields.get("size") != [height, width]:
        raise DataError(f"mask: size {fields.get('size')!r:.60} is not [height, width] of its {width}x{height} image")
    if isinstance(counts, list):
        for run in counts:
            if type(run) is not int or not 0 <= run <= width * height:
                raise DataError(f"mask: run length {run!r:.60} is not between 0 and {width * height}")
    try:
        found = Mask(size, compress(counts) if isinstance(counts, list) else counts.encode())
        area = int(mask_areas([found])[0])
    except ValueError as error:
        raise DataError(f"mask: {str(error).removeprefix('mask 0: ').removeprefix('a mask')}") from error
    if not area:
        raise DataError("mask: nothing is inside")
    return found
