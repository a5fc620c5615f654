"""One image with its truth and one answer, and how their shapes compare with each other.

Definitions: figures.py, which makes figures of them. All in pixels of the original image.

Axes: A predicted and B true shapes, K numbers of a shape (4: box, 2: point, 6 and more: polygon, 4 + 2 J: box and J key
points, NaN where one cannot be seen).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rewards.duplicates import group_roots, near_pairs, nearest_truths
from rewards.geometry.boxes import BOX
from rewards.geometry.keypoints import paired_oks
from rewards.geometry.masks import read_masks
from rewards.geometry.polygons import regions
from rewards.text import text_similarity
from rewards.values import NO_MASK, Boxes, KeyPoints, Points, Polygons, PredictedShapes
from rex_rl.language.grid import GRID_STEPS, MIN_POLYGON, UNSEEN_BIN
from rex_rl.language.tasks import TASKS, Geometry, Task


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageResult:
    """One image: its true shapes and the predictions of one answer, as written.

    `ImageResult(image_id="42", width=640, height=480, truth_labels=("cat",), truth_NK=np.array([[8., 8., 90., 70.]]),
    predicted_labels=("cat", "dog"), predicted_NK=np.array([[9., 8., 91., 70.], [0., 0., 5., 5.]]), faults=())`
    """

    image_id: str
    width: int
    """Pixels of the original image."""
    height: int
    truth_labels: tuple[str, ...]
    truth_NK: np.ndarray
    """float [N, K], untouched by the codec; where points are predicted, boxes if all things have one."""
    predicted_labels: tuple[str, ...]
    predicted_NK: np.ndarray
    """float [N, K] in the order written; corners may be swapped."""
    faults: tuple[str, ...]
    """Named faults of the answer; empty when it is well formed."""
    task: str = "detection"
    """A key of `rex_rl.language.tasks.TASKS`."""
    truth_points_N2: np.ndarray | None = None
    """float [N, 2] the true points, where points are predicted and the truth is boxes; None where they are not known,
    which leaves the middle of each box."""

    def __post_init__(self) -> None:
        """Raise `ValueError` when shapes and labels do not belong together."""
        task = TASKS[self.task]
        for name, labels, shapes_NK, may_be_box in (
            ("truth", self.truth_labels, self.truth_NK, task.geometry is Geometry.POINT),
            ("predicted", self.predicted_labels, self.predicted_NK, False),
        ):
            rows, width = shapes_NK.shape
            if rows != len(labels) or not (_is_width(width, task) or (may_be_box and width == BOX)):
                size = BOX if may_be_box else task.num_numbers or MIN_POLYGON
                raise ValueError(
                    f"{name}_NK of image {self.image_id} must be ({len(labels)}, {size}) but is {shapes_NK.shape}"
                )

    @property
    def geometry(self) -> Geometry:
        """Of the predictions."""
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
    """[A, B] in [0, 1]: what figures.py calls IoU, whatever the labels."""
    shapes = _shapes(result)
    if isinstance(shapes, KeyPoints):
        return np.asarray(paired_oks(shapes.shapes_AK[:, None], shapes.truth_BK[None], shapes.sigmas_J))
    return _of_pairs(shapes.values, len(result.predicted_NK), len(result.truth_NK))


def distances(result: ImageResult) -> np.ndarray:
    """[A, B] how far apart shapes are by their own numbers: what tells truths apart where their IoU ties."""
    frames_AF, frames_BF = _shapes(result).frames()
    return np.linalg.norm(frames_AF[:, None] - frames_BF[None], axis=-1)


def categories_of(result: ImageResult, labels: Sequence[str]) -> tuple[str, ...]:
    """The category each shape is counted in: its label, or one for all where labels are recognised text."""
    return ("",) * len(labels) if TASKS[result.task].reads_text else tuple(labels)


def find_repeats(result: ImageResult) -> tuple[np.ndarray, np.ndarray]:
    """([A] which predicted shapes are duplicates, [A] which repeat an earlier one); see figures.py."""
    shapes, num = _shapes(result), len(result.predicted_labels)
    predicted, true = (categories_of(result, labels) for labels in (result.predicted_labels, result.truth_labels))
    codes = {name: code for code, name in enumerate(dict.fromkeys((*predicted, *true)))}
    family_A, family_B = (np.array([codes[name] for name in names], dtype=np.int64) for names in (predicted, true))
    near_L2 = near_pairs(shapes, family_A)
    is_repeat_A = np.zeros(num, dtype=bool)
    is_repeat_A[near_L2.max(axis=1)] = True
    predicted_L, true_L = np.nonzero(family_A[:, None] == family_B[None])
    likeness_L, text_L = None, None
    if TASKS[result.task].reads_text:
        texts = ([result.predicted_labels[i] for i in predicted_L], [result.truth_labels[i] for i in true_L])
        likeness_L, text_L = text_similarity(*texts), np.unique(texts[1], return_inverse=True)[1]
    values_L = shapes.values(predicted_L, true_L)
    nearest_A = nearest_truths(shapes, near_L2.ravel(), predicted_L, true_L, values_L, likeness_L, text_L)
    root_A = group_roots(near_L2[nearest_A[near_L2[:, 0]] == nearest_A[near_L2[:, 1]]], num)
    return root_A != np.arange(num), is_repeat_A


def areas(result: ImageResult) -> np.ndarray:
    """[A] square pixels: of polygons what they enclose, of points 0, else of the box, 0 for swapped corners."""
    return _shapes(result).areas()


def _shapes(result: ImageResult) -> PredictedShapes:
    """The shapes as rewards compare them; in pixels, but points in bins, as their nearness is measured in bins."""
    predicted_NK, truth_NK = result.predicted_NK, result.truth_NK
    match result.geometry:
        case Geometry.BOX:
            return Boxes(predicted_NK, truth_NK)
        case Geometry.POLYGON:
            return Polygons(regions(predicted_NK), regions(truth_NK))
        case Geometry.KEYPOINTS:
            return KeyPoints(_told(predicted_NK), _told(truth_NK), _sigmas(result))
    per_pixel = np.resize(np.array([GRID_STEPS / result.width, GRID_STEPS / result.height]), truth_NK.shape[1])
    truth_bins, unknown = truth_NK * per_pixel, np.full((len(truth_NK), BOX), np.nan)
    has_boxes, points_B2 = result.truth_geometry is Geometry.BOX, truth_bins
    if has_boxes:
        middles_B2 = (truth_NK[:, :2] + truth_NK[:, 2:]) / 2
        points_B2 = (middles_B2 if result.truth_points_N2 is None else result.truth_points_N2) * per_pixel[:2]
    return Points(
        predicted_NK * per_pixel[:2],
        points_B2,
        read_masks([]),
        np.full(len(truth_NK), NO_MASK),
        truth_bins if has_boxes else unknown,
    )


def _of_pairs(rule: Callable[[np.ndarray, np.ndarray], np.ndarray], num_rows: int, num_columns: int) -> np.ndarray:
    """The table that a rule for pairs [L] gives for all rows and columns."""
    rows_L, columns_L = np.indices((num_rows, num_columns)).reshape(2, -1)
    return np.asarray(rule(rows_L, columns_L)).reshape(num_rows, num_columns)


def _told(instances_NK: np.ndarray) -> np.ndarray:
    """Instances as rewards have them: -1 for what cannot be seen."""
    return np.where(np.isnan(instances_NK), UNSEEN_BIN, instances_NK)


def _sigmas(result: ImageResult) -> np.ndarray:
    skeleton = TASKS[result.task].skeleton
    assert skeleton is not None
    return np.array(skeleton.sigmas)
