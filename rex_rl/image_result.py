"""One image with its truth and one answer, and what shapes of its geometry are to each other.

Definitions: evaluation.py, which makes figures of them. All in pixels of the original image.

Axes: A said and B true shapes, K numbers of a shape (4: box, 2: point, 6 and more: polygon, 4 + 2 J: box and J key
points, NaN where one cannot be seen).
"""

from dataclasses import dataclass

import numpy as np
import shapely

from rewards.geometry import BOX, pairwise_closeness, pairwise_iou, points_in_boxes
from rewards.keypoints import mutual_oks, paired_oks
from rewards.polygons import region_iou, regions
from rewards.values import NEAR_BINS
from rex_rl.grid import GRID_STEPS, MIN_POLYGON, UNSEEN_BIN
from rex_rl.tasks import TASKS, Geometry, Task

DUPLICATE_IOU = 0.7


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """One image: its true shapes and what one answer said, as written.

    `ImageResult(image_id="42", width=640, height=480, truth_labels=("cat",), truth_NK=np.array([[8., 8., 90., 70.]]),
    said_labels=("cat", "dog"), said_NK=np.array([[9., 8., 91., 70.], [0., 0., 5., 5.]]), faults=())`
    """

    image_id: str
    width: int
    """Pixels of the original image."""
    height: int
    truth_labels: tuple[str, ...]
    truth_NK: np.ndarray
    """float [N, K], untouched by the codec; where points are said, boxes if all things have one."""
    said_labels: tuple[str, ...]
    said_NK: np.ndarray
    """float [N, K] in the order written; corners may be swapped."""
    faults: tuple[str, ...]
    """Named faults of the answer; empty when it is well formed."""
    task: str = "detection"
    """A key of `rex_rl.tasks.TASKS`."""

    def __post_init__(self) -> None:
        """Raise `ValueError` when shapes and labels do not belong together."""
        task = TASKS[self.task]
        for name, labels, shapes_NK, may_be_box in (
            ("truth", self.truth_labels, self.truth_NK, task.geometry is Geometry.POINT),
            ("said", self.said_labels, self.said_NK, False),
        ):
            rows, width = shapes_NK.shape
            if rows != len(labels) or not (_is_width(width, task) or (may_be_box and width == BOX)):
                size = BOX if may_be_box else task.num_numbers or MIN_POLYGON
                raise ValueError(
                    f"{name}_NK of image {self.image_id} must be ({len(labels)}, {size}) but is {shapes_NK.shape}"
                )

    @property
    def geometry(self) -> Geometry:
        """Of what was said."""
        return TASKS[self.task].geometry

    @property
    def truth_geometry(self) -> Geometry:
        """Of the truth."""
        is_box = self.geometry is Geometry.POINT and self.truth_NK.shape[1] == BOX
        return Geometry.BOX if is_box else self.geometry


def _is_width(width: int, task: Task) -> bool:
    """Whether a shape of the task has so many numbers."""
    return width == task.num_numbers if task.num_numbers else width >= MIN_POLYGON and width % 2 == 0


def pairwise_values(result: ImageResult) -> np.ndarray:
    """[A, B] in [0, 1]: what evaluation.py calls IoU, whatever the labels."""
    said_NK, truth_NK = result.said_NK, result.truth_NK
    match result.geometry:
        case Geometry.BOX:
            return pairwise_iou(said_NK, truth_NK)
        case Geometry.POINT if result.truth_geometry is Geometry.BOX:
            return points_in_boxes(said_NK, truth_NK).astype(float)
        case Geometry.POINT:
            return pairwise_closeness(_bins(result, said_NK), _bins(result, truth_NK))
        case Geometry.POLYGON:
            return _pairwise_area_iou(said_NK, truth_NK)
    said_ABK, truth_ABK = np.broadcast_arrays(_told(said_NK)[:, None], _told(truth_NK)[None])
    return np.asarray(paired_oks(said_ABK, truth_ABK, _sigmas(result)))


def near_copies(result: ImageResult) -> np.ndarray:
    """[A, A] which said shapes are copies of each other but for their labels."""
    said_NK, num = result.said_NK, len(result.said_NK)
    match result.geometry:
        case Geometry.BOX:
            return pairwise_iou(said_NK, said_NK) > DUPLICATE_IOU
        case Geometry.POINT:
            points_A2 = _bins(result, said_NK)
            return np.asarray(np.linalg.norm(points_A2[:, None] - points_A2[None, :], axis=-1) <= NEAR_BINS)
        case Geometry.POLYGON:
            return _pairwise_area_iou(said_NK, said_NK) > DUPLICATE_IOU
    first_L, second_L = (places.ravel() for places in np.indices((num, num)))
    told_NK = _told(said_NK)
    return (mutual_oks(told_NK[first_L], told_NK[second_L], _sigmas(result)) > DUPLICATE_IOU).reshape(num, num)


def areas(result: ImageResult) -> np.ndarray:
    """[A] square pixels: of polygons what they enclose, of points 0, else of the box, 0 for swapped corners."""
    if result.geometry is Geometry.POINT:
        return np.zeros(len(result.said_NK))
    if result.geometry is Geometry.POLYGON:
        return np.asarray(shapely.area(regions(result.said_NK)))
    return np.asarray(np.clip(result.said_NK[:, 2:BOX] - result.said_NK[:, :2], 0, None).prod(axis=1))


def _pairwise_area_iou(first_NK: np.ndarray, second_NK: np.ndarray) -> np.ndarray:
    """[A, B] IoU of what polygons enclose."""
    first_AB, second_AB = np.meshgrid(regions(first_NK), regions(second_NK), indexing="ij")
    return region_iou(first_AB.ravel(), second_AB.ravel()).reshape(first_AB.shape)


def _bins(result: ImageResult, points_N2: np.ndarray) -> np.ndarray:
    """Points [N, 2] as places on the answer grid, not rounded to its lines."""
    return points_N2 / (result.width, result.height) * GRID_STEPS


def _told(instances_NK: np.ndarray) -> np.ndarray:
    """Instances as rewards have them: -1 for what cannot be seen."""
    return np.where(np.isnan(instances_NK), UNSEEN_BIN, instances_NK)


def _sigmas(result: ImageResult) -> np.ndarray:
    skeleton = TASKS[result.task].skeleton
    assert skeleton is not None
    return np.array(skeleton.sigmas)
