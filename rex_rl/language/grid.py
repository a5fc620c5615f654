"""The coordinate grid: objects in pixels, shapes on its 1,000 lines, and the way between them.

bin = round(x / width * 999), x = bin / 999 * width; rex_rl/language/codec.py says why.

Axes: N shapes, K numbers of one shape, J key points. What each geometry's numbers are: `rex_rl.types.Shapes.bins_NK`.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import shapely

from rewards.geometry.masks import read_masks
from rewards.geometry.polygons import regions
from rex_rl.language.rle import middle_of, middle_pixel
from rex_rl.language.tasks import Geometry, Task
from rex_rl.language.vocabulary import NUM_BINS
from rex_rl.types import Object, Shapes

GRID_STEPS = NUM_BINS - 1
UNSEEN_BIN = -1
"""Both numbers of a key point that cannot be seen; in pixels they are NaN."""
MIN_POLYGON = 6
"""Numbers of the smallest polygon."""


def quantise(pixels_NK: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels [N, K] (x, y alternating) of an image of `size` (width, height) to bins 0..999, int64; NaN to -1.

    A box (K = 4) never loses its area: where two sides fall into one bin, the far one moves out by one bin, or at the
    grid's end the near one does.

    >>> quantise(np.array([[12.0, 30.0, 99.0, 140.0]]), (200, 200))
    array([[ 60, 150, 495, 699]])
    >>> quantise(np.array([[199.99, 50.0, 200.0, 50.01]]), (200, 200))
    array([[998, 250, 999, 251]])
    """
    pixels_NK = np.asarray(pixels_NK, dtype=np.float64)
    scale_K = np.resize(np.array(size, dtype=np.float64), pixels_NK.shape[1])
    shares_NK = np.clip(pixels_NK / scale_K, 0.0, 1.0)
    bins_NK = np.rint(np.where(np.isnan(shares_NK), UNSEEN_BIN / GRID_STEPS, shares_NK) * GRID_STEPS).astype(np.int64)
    if bins_NK.shape[1] == Geometry.BOX.size:
        near_N2, far_N2 = bins_NK[:, :2], bins_NK[:, 2:]
        flat_N2 = near_N2 == far_N2
        at_end_N2 = far_N2 == GRID_STEPS
        near_N2 -= flat_N2 & at_end_N2
        far_N2 += flat_N2 & ~at_end_N2
    return bins_NK


def dequantise(bins_NK: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bins [N, K] back to pixels of an image of `size` (width, height), float64; -1 to NaN.

    >>> dequantise(np.array([[0, 999]]), (200, 100))
    array([[  0., 100.]])
    """
    scale_K = np.resize(np.array(size, dtype=np.float64), bins_NK.shape[1])
    return np.where(bins_NK == UNSEEN_BIN, np.nan, bins_NK / GRID_STEPS * scale_K)


def geometry_of(objects: Iterable[Object], geometry: Geometry, num_keypoints: int = 0) -> np.ndarray:
    """The objects' coordinates as float64 [N, K] pixels.

    A point that is not given is a pixel inside the mask, else the middle of the box.
    """
    if geometry is Geometry.POLYGON:
        return padded([np.ravel(thing.polygon or ()).tolist() for thing in objects])
    row_of = {Geometry.BOX: lambda thing: thing.bbox, Geometry.POINT: _target, Geometry.KEYPOINTS: _box_and_points}
    rows = [row_of[geometry](thing) for thing in objects]
    return np.array(rows, dtype=np.float64).reshape(-1, geometry.size or 4 + 2 * num_keypoints)


def shapes_on_grid(objects: Sequence[Object], task: Task, size: tuple[int, int]) -> np.ndarray:
    """The objects as the model should predict them, int64 [N, K].

    Neither a box nor a polygon loses its area: a polygon that would becomes the corners of its box. Points lie in the
    masks where every object has one that the grid meets, else in the box of each object that has one.
    """
    if task.geometry is Geometry.POINT:
        return np.array(_targets(objects, size), dtype=np.int64).reshape(-1, 2)
    pixels_NK = geometry_of(objects, task.geometry, len(task.keypoints))
    if task.geometry is Geometry.KEYPOINTS:
        return np.concatenate([quantise(pixels_NK[:, :4], size), quantise(pixels_NK[:, 4:], size)], axis=1)
    bins_NK = quantise(pixels_NK, size)
    return _polygons_with_area(bins_NK, pixels_NK, size) if task.geometry is Geometry.POLYGON else bins_NK


def _polygons_with_area(bins_NK: np.ndarray, pixels_NK: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    x_NV, y_NV = pixels_NK[:, ::2], pixels_NK[:, 1::2]
    boxes_N4 = np.stack([x_NV.min(axis=1), y_NV.min(axis=1), x_NV.max(axis=1), y_NV.max(axis=1)], axis=1)
    corners_N8 = quantise(boxes_N4, size)[:, [0, 1, 2, 1, 2, 3, 0, 3]]
    is_flat_N = (doubled_areas(bins_NK) == 0) | (shapely.area(regions(bins_NK)) == 0)  # as rewards judge a ring
    rows = [(corners_N8 if is_flat else bins_NK)[i].tolist() for i, is_flat in enumerate(is_flat_N)]
    return padded([unpadded(row) for row in rows]).astype(np.int64)


def _targets(objects: Sequence[Object], size: tuple[int, int]) -> list[tuple[int, int]]:
    in_masks = [_target_in_mask(thing, size) for thing in objects if thing.mask is not None]
    if len(in_masks) == len(objects) and None not in in_masks:
        return [target for target in in_masks if target is not None]
    return [_target_in_box(thing, size) for thing in objects]


def _target_in_mask(thing: Object, size: tuple[int, int]) -> tuple[int, int] | None:
    """The object's own point if it is inside, else the mask's deepest; None where no line of the grid is inside."""
    x, y = quantise(np.array([_target(thing)]), size)[0].tolist()
    if is_in_mask(thing, (x, y)):
        return x, y
    return None if thing.mask is None else middle_of(thing.mask, GRID_STEPS)


def _target_in_box(thing: Object, size: tuple[int, int]) -> tuple[int, int]:
    """The object's own point, else the middle of its box on the grid, else of its mask."""
    if thing.point is not None or thing.bbox is None:
        x, y = quantise(np.array([_target(thing)]), size)[0].tolist()
        return x, y
    x0, y0, x1, y1 = quantise(np.array([thing.bbox]), size)[0].tolist()
    return (x0 + x1) // 2, (y0 + y1) // 2


def is_in_mask(thing: Object, bins: tuple[int, int]) -> bool:
    """Whether a point of the grid is in an object's mask, as rewards judge it; False without a mask."""
    return thing.mask is not None and bool(read_masks([thing.mask]).contain(bins, 0))


def objects_of(shapes: Shapes, task: Task, size: tuple[int, int]) -> tuple[Object, ...]:
    """The predictions of an answer as objects in pixels of an image of `size` (width, height)."""
    pixels_NK = dequantise(shapes.bins_NK, size)
    return tuple(
        _object(label, row_K, bins_K, task)
        for label, row_K, bins_K in zip(shapes.labels, pixels_NK.tolist(), shapes.bins_NK.tolist(), strict=True)
    )


def _object(label: str, row: list[float], bins: list[int], task: Task) -> Object:
    points = list(zip(row[::2], row[1::2], strict=True))
    if task.geometry is Geometry.POINT:
        return Object(label=label, point=points[0])
    if task.geometry is Geometry.POLYGON:
        return Object(label=label, polygon=tuple(points[: len(unpadded(bins)) // 2]))
    x0, y0, x1, y1 = row[:4]
    if task.geometry is Geometry.BOX:
        return Object(label=label, bbox=(x0, y0, x1, y1))
    seen = zip(task.keypoints, points[2:], bins[4::2], strict=True)
    keypoints = {name: None if x_bin == UNSEEN_BIN else point for name, point, x_bin in seen}
    return Object(label=label, bbox=(x0, y0, x1, y1), keypoints=keypoints)


def doubled_areas(polygons_NK: np.ndarray) -> np.ndarray:
    """[N] twice the area of polygons x, y, x, y .. (shoelace formula), whatever their direction.

    >>> doubled_areas(np.array([[0, 0, 4, 0, 4, 3], [0, 0, 1, 1, 2, 2]]))
    array([12,  0])
    """
    x_NV, y_NV = polygons_NK[:, ::2] - polygons_NK[:, :1], polygons_NK[:, 1::2] - polygons_NK[:, 1:2]
    return np.asarray(np.abs((x_NV[:, :-1] * y_NV[:, 1:] - x_NV[:, 1:] * y_NV[:, :-1]).sum(axis=1)))


def padded(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """Polygons of different length as one array [N, K]; shorter ones repeat their last vertex.

    >>> padded([[0, 0, 4, 0, 4, 3], [0, 0, 4, 0, 4, 3, 0, 3]])
    array([[0, 0, 4, 0, 4, 3, 4, 3],
           [0, 0, 4, 0, 4, 3, 0, 3]])
    """
    longest = max(map(len, rows), default=MIN_POLYGON)
    full = [[*row, *(list(row[-2:]) * ((longest - len(row)) // 2))] for row in rows]
    return np.array(full).reshape(-1, longest)


def ragged(numbers_C: np.ndarray, num_numbers_N: np.ndarray) -> np.ndarray:
    """Polygons [N, K] as :func:`padded` makes them, from the numbers of one polygon after the other.

    >>> ragged(np.array([0, 0, 4, 0, 4, 3, 0, 0, 4, 0, 4, 3, 0, 3]), np.array([6, 8]))
    array([[0, 0, 4, 0, 4, 3, 4, 3],
           [0, 0, 4, 0, 4, 3, 0, 3]])
    """
    place_1K, num_N1 = np.arange(num_numbers_N.max(initial=MIN_POLYGON))[None], num_numbers_N[:, None]
    place_NK = np.where(place_1K < num_N1, place_1K, num_N1 - 2 + place_1K % 2)
    return np.asarray(numbers_C[num_numbers_N.cumsum()[:, None] - num_N1 + place_NK])


def unpadded(row: list[int]) -> list[int]:
    """A polygon without the repeats of its last vertex, down to three vertices.

    >>> unpadded([0, 0, 4, 0, 4, 3, 4, 3])
    [0, 0, 4, 0, 4, 3]
    """
    while len(row) > MIN_POLYGON and row[-2:] == row[-4:-2]:
        row = row[:-2]
    return row


def _target(thing: Object) -> tuple[float, float]:
    if thing.point is not None:
        return thing.point
    if thing.mask is not None:
        x, y = middle_pixel(thing.mask)
        return x + 0.5, y + 0.5
    assert thing.bbox is not None
    x0, y0, x1, y1 = thing.bbox
    return (x0 + x1) / 2, (y0 + y1) / 2


def _box_and_points(thing: Object) -> list[float]:
    assert thing.bbox is not None
    assert thing.keypoints is not None
    nowhere = (float("nan"), float("nan"))
    return [*thing.bbox, *(number for point in thing.keypoints.values() for number in point or nowhere)]
