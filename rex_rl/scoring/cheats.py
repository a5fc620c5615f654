"""Cheats: ways to answer that should never pay, each made from one honest, imperfect answer.

Axes: B true shapes, N predicted shapes, M added ones, K numbers of one shape: in every geometry x and y by turns, -1
for a key point that is not seen.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rewards import RewardWeights, Truth, score_group
from rex_rl.language.grid import GRID_STEPS
from rex_rl.types import Shapes

Cheat = Callable[[Shapes, Truth], Shapes | None]
"""From the imperfect answer to one that cheats; None where the cheat makes no sense."""

TARGET_F1 = 0.6
"""F1 of the imperfect answer before a third of its shapes is left out: their mean IoU, closeness or OKS."""
LEFT_OUT_EVERY = 3
NUM_COPIES = 10
NEAR_STEPS_BINS = (1, 2)
TILES_A_SIDE = 4

_SHARES = np.linspace(0.01, 0.6, 60)
_UNEVEN = (0.7, 1.0, 1.0, 1.3)
"""The first shape is moved least, so that a reward that pays for more of the best shape is found out."""
_POINT_WIDTH_BINS = 50


def imperfect_answer(truth: Truth) -> Shapes:
    """Every true shape moved sideways until together they have an F1 of about 0.6, then every third left out.

    It has no fault, and gives `None` where it should. Shapes move toward the middle, so they stay on the grid.

    >>> boxes_B4 = np.array([[0, 0, 100, 100], [200, 0, 300, 100], [400, 0, 500, 100]])
    >>> imperfect_answer(Truth(("cat",) * 3, boxes_B4, ("cat",))).bins_NK.tolist()
    [[20, 0, 120, 100], [228, 0, 328, 100]]
    """
    moved_G = [answer_of(truth, truth.labels, _moved(truth.bins_NK, share)) for share in _SHARES]
    f1_G = score_group(moved_G, truth, weights=RewardWeights()).terms_G["f1"]
    bins_NK = moved_G[int(np.abs(f1_G - TARGET_F1).argmin())].bins_NK
    kept = [i for i in range(len(bins_NK)) if i % LEFT_OUT_EVERY != LEFT_OUT_EVERY - 1]
    return answer_of(truth, [truth.labels[i] for i in kept], bins_NK[kept])


def answer_of(truth: Truth, labels: Sequence[str], bins_NK: np.ndarray, *, faults: tuple[str, ...] = ()) -> Shapes:
    """An answer as decoding gives it: these shapes, and `None` for every empty category that none of them names."""
    return Shapes(
        labels=tuple(labels),
        bins_NK=bins_NK,
        spans_N2=np.zeros((len(bins_NK), 2), dtype=np.int64),
        faults=faults,
        absent=tuple(name for name in truth.empty_categories if truth.reads_text or name not in labels),
    )


def copies(honest: Shapes, truth: Truth) -> Shapes:
    """The best shape ten more times."""
    return _with_more(honest, truth, honest.labels[:1] * NUM_COPIES, honest.bins_NK[:1].repeat(NUM_COPIES, axis=0))


def near_copies(honest: Shapes, truth: Truth) -> Shapes:
    """Every shape two more times, moved by one and by two bins."""
    seen_NK = honest.bins_NK >= 0
    moved = [np.where(seen_NK, np.minimum(honest.bins_NK + step, GRID_STEPS), -1) for step in NEAR_STEPS_BINS]
    return _with_more(honest, truth, honest.labels * len(moved), np.concatenate(moved))


def giant(honest: Shapes, truth: Truth) -> Shapes | None:
    """Also a box of the whole image under each label of the answer; None for points, which have no size."""
    whole_14 = np.array([[0, 0, GRID_STEPS, GRID_STEPS]])
    return None if truth.geometry == "point" else _with_everywhere(honest, truth, whole_14)


def grid(honest: Shapes, truth: Truth) -> Shapes:
    """Also 4 x 4 tiles over the whole image under each label of the answer."""
    lines = np.linspace(0, GRID_STEPS, TILES_A_SIDE + 1).astype(np.int64)
    x0_M, y0_M = (axis.ravel() for axis in np.meshgrid(lines[:-1], lines[:-1]))
    x1_M, y1_M = (axis.ravel() for axis in np.meshgrid(lines[1:], lines[1:]))
    return _with_everywhere(honest, truth, np.stack([x0_M, y0_M, x1_M, y1_M], axis=1))


def swapped_corners(honest: Shapes, truth: Truth) -> Shapes | None:
    """Every box from its far corner to its near one."""
    if truth.geometry not in ("box", "keypoints"):
        return None
    bins_NK = honest.bins_NK.copy()
    bins_NK[:, :4] = bins_NK[:, [2, 3, 0, 1]]
    return replace(honest, bins_NK=bins_NK, faults=("swapped_corners",))


def truncated(honest: Shapes, truth: Truth) -> Shapes:
    """Cut by the token limit within the last shape."""
    return answer_of(truth, honest.labels[:-1], honest.bins_NK[:-1], faults=("truncated",))


def wrong_labels(honest: Shapes, truth: Truth) -> Shapes:
    """Every shape under another label: the next one there is, or one that nobody asked for."""
    pool = _labels_to_choose(truth)
    if len(pool) > 1:
        next_of = dict(zip(pool, (*pool[1:], pool[0]), strict=True))
        return answer_of(truth, [next_of[label] for label in honest.labels], honest.bins_NK)
    faults = () if truth.reads_text else ("unknown_label",)
    return answer_of(truth, ["?" * len(label) for label in honest.labels], honest.bins_NK, faults=faults)


def every_label(honest: Shapes, truth: Truth) -> Shapes | None:
    """Every shape under every label there is."""
    pool = _labels_to_choose(truth)
    bins_NK = np.tile(honest.bins_NK, (len(pool), 1))
    return answer_of(truth, np.repeat(pool, len(honest.bins_NK)).tolist(), bins_NK) if len(pool) > 1 else None


def all_none(honest: Shapes, truth: Truth) -> Shapes:
    """`None` for every category."""
    return replace(empty(honest, truth), absent=truth.categories)


def empty(honest: Shapes, truth: Truth) -> Shapes:
    """Nothing at all."""
    return replace(answer_of(truth, (), honest.bins_NK[:0]), absent=())


CHEATS: Mapping[str, Cheat] = {
    cheat.__name__: cheat
    for cheat in (
        copies,
        near_copies,
        giant,
        grid,
        swapped_corners,
        truncated,
        wrong_labels,
        every_label,
        all_none,
        empty,
    )
}
"""Every cheat by name."""


def _moved(bins_BK: np.ndarray, share: float) -> np.ndarray:
    """Shapes moved along x by about `share` of their width, toward the middle; what is not seen stays so."""
    x_BJ = bins_BK[:, 0::2]
    seen_BJ = x_BJ >= 0
    left_B, right_B = np.where(seen_BJ, x_BJ, GRID_STEPS).min(axis=1), x_BJ.max(axis=1)
    width_B = np.where(right_B > left_B, right_B - left_B, _POINT_WIDTH_BINS)
    to_middle_B = np.where(left_B + right_B < GRID_STEPS, 1, -1)
    step_B = np.rint(to_middle_B * share * np.resize(_UNEVEN, len(bins_BK)) * width_B).astype(np.int64)
    moved_BK = bins_BK.copy()
    moved_BK[:, 0::2] = np.where(seen_BJ, np.clip(x_BJ + step_B[:, None], 0, GRID_STEPS), x_BJ)
    return moved_BK


def _labels_to_choose(truth: Truth) -> tuple[str, ...]:
    return tuple(dict.fromkeys(truth.labels)) if truth.reads_text else truth.categories


def _with_everywhere(honest: Shapes, truth: Truth, boxes_M4: np.ndarray) -> Shapes:
    """The honest answer, and behind it these boxes under each of its labels."""
    labels = tuple(dict.fromkeys(honest.labels))
    more_MK = np.tile(_from_boxes(boxes_M4, truth), (len(labels), 1))
    return _with_more(honest, truth, np.repeat(labels, len(boxes_M4)).tolist(), more_MK)


def _with_more(honest: Shapes, truth: Truth, labels: Sequence[str], more_MK: np.ndarray) -> Shapes:
    size = max(honest.bins_NK.shape[1], more_MK.shape[1])
    return answer_of(
        truth, (*honest.labels, *labels), np.concatenate([_widened(honest.bins_NK, size), _widened(more_MK, size)])
    )


def _widened(bins_NK: np.ndarray, size: int) -> np.ndarray:
    """Polygons with their last vertex repeated until there are `size` numbers."""
    return np.hstack([bins_NK, np.tile(bins_NK[:, -2:], (1, (size - bins_NK.shape[1]) // 2))])


def _from_boxes(boxes_M4: np.ndarray, truth: Truth) -> np.ndarray:
    """[M, K] shapes of the truth's geometry in the place of boxes; key points lie in the middle."""
    size = truth.bins_NK.shape[1]
    middle_M2 = (boxes_M4[:, :2] + boxes_M4[:, 2:]) // 2
    match truth.geometry:
        case "point":
            return middle_M2
        case "polygon":
            return _widened(boxes_M4[:, [0, 1, 2, 1, 2, 3, 0, 3]], max(size, 8))
        case "keypoints":
            return np.hstack([boxes_M4, np.tile(middle_M2, (1, (size - 4) // 2))])
        case _:
            return boxes_M4
