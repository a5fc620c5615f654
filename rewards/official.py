"""The two published rewards, selectable by name to compare with; both can be gamed (test_official.py shows how).

Axes: N predicted shapes, B true shapes of one answer. `any_NB` is the value (IoU of boxes; 1 or 0 of points in boxes
and masks) of every pair whatever the labels, `same_NB` whether the labels are equal.
"""

import numpy as np

from rewards.geometry.boxes import BoolArray, FloatArray


def paper_f1(any_NB: FloatArray, same_NB: BoolArray) -> float:
    """The paper's box reward, in [0, 2).

    Source: arXiv 2510.12798, section 4.2.3. For each truth take the prediction of largest IoU over *all*
    predictions; r_j is that IoU if its label is the truth's, else 0. Recall = sum r / m, precision = sum r / n, so
    F1 = 2 * sum r / (n + m) for n predictions and m truths. On a tie in IoU the prediction of the right label is
    taken. The paper is silent on an empty truth: here 1 for no prediction, else 0.

    One prediction may serve several truths, so this is not one-to-one, and among overlapping truths precision and
    F1 can exceed 1, the reward of a perfect answer.

    >>> [round(paper_f1(np.ones((copies, 1)), np.ones((copies, 1), dtype=bool)), 3) for copies in (1, 2, 5, 50)]
    [1.0, 0.667, 0.333, 0.039]
    """
    num_predicted, num_true = any_NB.shape
    if num_predicted == 0 or num_true == 0:
        return float(num_predicted == num_true)
    best_B = any_NB.max(axis=0)
    best_right_B = np.where(same_NB, any_NB, 0.0).max(axis=0)
    return float(2.0 * best_right_B[best_right_B == best_B].sum() / (num_predicted + num_true))


def official_box_iou(iou_NB: FloatArray, same_NB: BoolArray) -> float:
    """The released code's box reward, in [0, 1].

    Source: Rex-Omni repository at 478e44f, verl/configs/reward_func.py, `box_iou`. Recall is the mean over truths
    of the best IoU of the same label, precision the mean over predictions of the best IoU of the same label, and
    the reward their F1. An empty truth: 1 for no prediction, else 0. No prediction where something is true: 0.

    Duplicates cost nothing, since each has a precision of 1:

    >>> [official_box_iou(np.ones((copies, 1)), np.ones((copies, 1), dtype=bool)) for copies in (1, 2, 5, 50)]
    [1.0, 1.0, 1.0, 1.0]
    """
    num_predicted, num_true = iou_NB.shape
    if num_predicted == 0 or num_true == 0:
        return float(num_predicted == num_true)
    value_NB = np.where(same_NB, iou_NB, 0.0)
    recall = float(value_NB.max(axis=0).mean())
    precision = float(value_NB.max(axis=1).mean())
    return 2.0 * recall * precision / (recall + precision) if recall + precision > 0.0 else 0.0


def official_points(hits_NB: BoolArray) -> float:
    """The released code's reward of points in boxes or masks, in [0, 1].

    Source: as `official_box_iou`, `point_in_box` and `point_in_mask`. In the order of the truths, each takes the first
    free point of its label inside it; the reward is the F1 of recall taken / B and precision taken / N. Without
    truths and predictions the reward is 1, without only one of the two 0.

    Args:
        hits_NB: which predicted points of the right label lie in which true box or mask.

    Greedy, so not always the best: here the first truth takes the one point that the second needs.

    >>> official_points(np.array([[True, True], [True, False]]))
    0.5
    """
    num_predicted, num_true = hits_NB.shape
    if num_predicted == 0 or num_true == 0:
        return float(num_predicted == num_true)
    free_N = np.ones(num_predicted, dtype=np.bool_)
    for hits_N in hits_NB.T:
        candidates = np.flatnonzero(hits_N & free_N)
        free_N[candidates[:1]] = False
    return float(2.0 * np.count_nonzero(~free_N) / (num_predicted + num_true))


def official_boxes(boxes_N4: FloatArray) -> tuple[FloatArray, BoolArray]:
    """The boxes as the released reward reads them: swapped corners sorted, boxes without area dropped.

    Source: as `official_box_iou`. Returns [N, 4] sorted boxes and [N] which of them count.

    >>> official_boxes(np.array([[9.0, 0, 1, 5], [3, 3, 3, 8]]))[0].tolist()
    [[1.0, 0.0, 9.0, 5.0], [3.0, 3.0, 3.0, 8.0]]
    >>> official_boxes(np.array([[9.0, 0, 1, 5], [3, 3, 3, 8]]))[1].tolist()
    [True, False]
    """
    low_N2 = np.minimum(boxes_N4[:, :2], boxes_N4[:, 2:])
    high_N2 = np.maximum(boxes_N4[:, :2], boxes_N4[:, 2:])
    return np.concatenate([low_N2, high_N2], axis=1), np.asarray((high_N2 > low_N2).all(axis=1))


def official_phrase(label: str) -> str:
    """The phrase under which the released code asks for a label: cut at the first "/", "_" to " ", no ",".

    Source: Rex-Omni repository, finetuning task_fns/grounding_task.py. Its reward compares answers in these phrases
    with the *raw* labels, so a label that the function changes can never be rewarded.

    >>> official_phrase("traffic_light"), official_phrase("tv/monitor"), official_phrase("chair, folding")
    ('traffic light', 'tv', 'chair folding')
    """
    return label.split("/", 1)[0].replace("_", " ").replace(",", "")
