"""How well key points agree: object key point similarity (OKS), as COCO defines it.

Axes: L pairs of instances, J key points in the task's order. An instance is [4 + 2 J] bins: its
box, then x and y of each key point, both -1 for one that is not visible. Distances are taken on the grid.
"""

import numpy as np
from numpy.typing import ArrayLike

from rewards.geometry.boxes import BOX, BoolArray, FloatArray, paired_iou

DEFAULT_SIGMA = 0.05
"""Fall-off of a key point whose COCO constant is not known."""


def split(bins_NK: ArrayLike) -> tuple[FloatArray, FloatArray, BoolArray]:
    """([..., 4] boxes, [..., J, 2] key points, [..., J] which are visible) of instances [..., 4 + 2 J].

    >>> [part.tolist() for part in split([[0, 0, 9, 9, 3, 4, -1, -1]])]
    [[[0.0, 0.0, 9.0, 9.0]], [[[3.0, 4.0], [-1.0, -1.0]]], [[True, False]]]
    """
    bins = np.asarray(bins_NK, dtype=np.float64)
    points = bins[..., BOX:].reshape(*bins.shape[:-1], (bins.shape[-1] - BOX) // 2, 2)
    return bins[..., :BOX], points, np.asarray((points >= 0.0).all(axis=-1))


def paired_oks(predicted_LK: ArrayLike, truth_LK: ArrayLike, sigmas_J: ArrayLike) -> FloatArray:
    """OKS of predicted instances with true ones.

    Args:
        predicted_LK: [..., L, 4 + 2 J] as written; its box may be anything.
        truth_LK: [..., L, 4 + 2 J] the true one of each pair, its box with an area.
        sigmas_J: [J] fall-off of each key point.

    Returns:
        oks_L: [..., L] in [0, 1]: the mean over the truth's visible key points of exp(-d^2 / (2 s^2 (2 sigma)^2)), with
        d the distance and s^2 the area of the true box, and 0 for a key point that is not visible in the prediction.
        Predicted key points that are not visible in the truth do not count. For a truth without a
        visible key point: the IoU of the boxes.

    Source: pycocotools.cocoeval.computeOks, with the box's area for the segment's, which records need not have.

    >>> truth = [[0, 0, 100, 100, 20, 20, 50, 50]]
    >>> paired_oks([truth[0], [0, 0, 9, 9, 20, 20, -1, -1]], truth, [0.05, 0.05]).tolist()
    [1.0, 0.5]
    """
    boxes_L4, points_LJ2, seen_LJ = split(predicted_LK)
    true_boxes_L4, true_points_LJ2, visible_LJ = split(truth_LK)
    close_LJ = _closeness(points_LJ2, true_points_LJ2, _area(true_boxes_L4), sigmas_J)
    close_LJ *= seen_LJ & visible_LJ
    num_visible_L = visible_LJ.sum(axis=-1)
    oks_L = close_LJ.sum(axis=-1) / np.maximum(num_visible_L, 1)
    return np.where(num_visible_L > 0, oks_L, paired_iou(boxes_L4, true_boxes_L4))


def mutual_oks(first_LK: FloatArray, second_LK: FloatArray, sigmas_J: ArrayLike) -> FloatArray:
    """How alike two predicted instances are, [L] in [0, 1]: an OKS that does not ask which of them is the truth.

    The mean over the key points visible in either, one visible in only one of them counting 0; s^2 is the largest
    area among both boxes and the rectangles around both sets of visible key points, so that a duplicate cannot
    hide behind a small box. Where neither has a visible key point: the IoU of the boxes. Of an instance that can have a
    value above 0 with a truth, the mutual OKS with itself is 1.

    >>> mutual_oks(np.array([[0, 0, 9, 9, 4, 4, -1, -1]]), np.array([[0, 0, 99, 99, 4, 4, 5, 5]]), [0.05] * 2).tolist()
    [0.5]
    """
    boxes_PL4, points_PLJ2, visible_PLJ = split(np.stack([first_LK, second_LK]))
    spread_PL2 = np.where(visible_PLJ[..., None], points_PLJ2, -np.inf).max(axis=2, initial=-np.inf)
    spread_PL2 -= np.where(visible_PLJ[..., None], points_PLJ2, np.inf).min(axis=2, initial=np.inf)
    area_PL = np.maximum(_area(boxes_PL4), np.maximum(spread_PL2, 0.0).prod(axis=-1))
    close_LJ = _closeness(points_PLJ2[0], points_PLJ2[1], np.maximum(area_PL.max(axis=0), 1.0), sigmas_J)
    close_LJ *= visible_PLJ.all(axis=0)
    num_visible_L = visible_PLJ.any(axis=0).sum(axis=1)
    iou_L = paired_iou(*boxes_PL4)
    return np.where(num_visible_L > 0, close_LJ.sum(axis=1) / np.maximum(num_visible_L, 1), iou_L)


def _area(boxes_N4: FloatArray) -> FloatArray:
    """[...] area, 0 for a box with swapped corners."""
    area: FloatArray = np.maximum(boxes_N4[..., 2:] - boxes_N4[..., :2], 0.0).prod(axis=-1)
    return area


def _closeness(points_J2: FloatArray, truth_J2: FloatArray, area: FloatArray, sigmas_J: ArrayLike) -> FloatArray:
    """[..., J] exp(-d^2 / (2 area (2 sigma)^2)) of key points that are both visible; any number in [0, 1] elsewhere."""
    distance2_J = ((points_J2 - truth_J2) ** 2).sum(axis=-1)
    closeness: FloatArray = np.exp(-distance2_J / (8.0 * area[..., None] * np.asarray(sigmas_J) ** 2))
    return closeness
