"""How well polygons agree: the IoU of the areas they enclose (Shapely).

Axes: N polygons, L pairs of them, K numbers of the longest polygon; a shorter one repeats its
last vertex. Which vertex comes first and which way round they are written makes no difference.

The rule for a ring that crosses or touches itself: it encloses all that lies within any of its loops, found by
GEOS' repair of structure, up to MAX_REPAIRED_VERTICES vertices; a longer one encloses nothing. So rounding to the
grid, which makes thin polygons touch themselves, loses no record, and a tangle of a thousand vertices costs no time.
"""

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from rewards.geometry.boxes import FloatArray, IntArray

RegionArray = NDArray[np.object_]
"""Valid Shapely areas, empty where a polygon encloses nothing."""

MAX_REPAIRED_VERTICES = 64
"""Repair takes about 4 ms at 64 vertices in random order, and four times as long at twice as many."""
_ROUNDING = 1e-9
"""An IoU this close to 1 is 1: the grid has no two areas so alike, but repaired corners are rounded."""


def regions(bins_NK: ArrayLike) -> RegionArray:
    """[N] the areas that polygons enclose, by the rule above.

    Args:
        bins_NK: [N, K] x and y of at least three vertices in turn.

    >>> square, bow, line = regions([[0, 0, 9, 0, 9, 9, 0, 9], [0, 0, 8, 8, 8, 0, 0, 8], [0, 0, 9, 9, 5, 5, 5, 5]])
    >>> square.area, bow.area, line.area
    (81.0, 32.0, 0.0)
    """
    bins = np.asarray(bins_NK, dtype=np.float64)
    vertices_NV2 = bins.reshape(len(bins), bins.shape[1] // 2, 2)
    regions_N: RegionArray = shapely.polygons(vertices_NV2)
    broken_N = np.flatnonzero(~shapely.is_valid(regions_N))
    if len(broken_N):
        moves_NV = (vertices_NV2[broken_N, 1:] != vertices_NV2[broken_N, :-1]).any(axis=2)
        short_N = moves_NV.sum(axis=1) < MAX_REPAIRED_VERTICES
        regions_N[broken_N[~short_N]] = shapely.Polygon()
        regions_N[broken_N[short_N]] = shapely.make_valid(
            regions_N[broken_N[short_N]], method="structure", keep_collapsed=False
        )
    return regions_N


def region_iou(first_L: RegionArray, second_L: RegionArray) -> FloatArray:
    """[L] IoU of pairs of areas in [0, 1], exactly 1 for equal ones and 0 where either is empty.

    Only pairs whose bounding rectangles overlap are intersected; an empty area has bounds of NaN, which meet nothing.

    >>> region_iou(regions([[0, 0, 9, 0, 9, 9, 0, 9]]), regions([[0, 0, 9, 0, 9, 9, 9, 9]])).tolist()
    [0.5]
    """
    first_L4, second_L4 = shapely.bounds(first_L), shapely.bounds(second_L)
    meets_L = ((first_L4[:, :2] < second_L4[:, 2:]) & (second_L4[:, :2] < first_L4[:, 2:])).all(axis=1)
    first_M, second_M = first_L[meets_L], second_L[meets_L]
    area_first_M, area_second_M = shapely.area(first_M), shapely.area(second_M)
    inter_M = np.minimum(shapely.area(shapely.intersection(first_M, second_M)), np.minimum(area_first_M, area_second_M))
    iou_M = inter_M / (area_first_M + area_second_M - inter_M)
    iou_L = np.zeros(len(meets_L))
    iou_L[meets_L] = np.where(iou_M > 1.0 - _ROUNDING, 1.0, iou_M)
    return iou_L


def alike(regions_N: RegionArray, first_L: IntArray, second_L: IntArray, limit: float) -> NDArray[np.bool_]:
    """[L] which pairs have an IoU above a limit; areas that differ by more than it allows are not intersected."""
    area_N = shapely.area(regions_N)
    alike_L = np.minimum(area_N[first_L], area_N[second_L]) > limit * np.maximum(area_N[first_L], area_N[second_L])
    pairs = np.flatnonzero(alike_L)
    alike_L[pairs] = region_iou(regions_N[first_L[pairs]], regions_N[second_L[pairs]]) > limit
    return np.asarray(alike_L)
