"""`rex-rl bench rewards`: how long it takes to decode and to score answers, on one core.

The baselines are the published ways: plain Python loops over all pairs of boxes (as in the released reward_func.py),
and masks decoded to pixels.
"""

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_masks

from rewards import RewardWeights, Truth, score_group, score_groups
from rewards.geometry.masks import Mask
from rex_rl.bench.figure import Figure, faster
from rex_rl.language.codec import Codec
from rex_rl.language.grid import MIN_POLYGON
from rex_rl.language.tasks import TASKS, Task
from rex_rl.language.vocabulary import load_vocabulary
from rex_rl.policy.model_folder import SHIPPED_BASE
from rex_rl.types import Shapes

CATEGORIES = ("red circle", "blue square")
GROUP_SIZE = 8
GROWTH = (5, 10, 20, 50, 100, 200, 400)
"""Predicted boxes, and as many true ones, in the growth table."""
MASK_SIZE = (1920, 1080)
MAX_BROKEN = 60
"""Most tokens of a broken answer: answers of key points are cut."""
ROUNDS = 7


def bench_rewards() -> list[Figure]:
    """The figures of issue "Every task of Rex-Omni": four fixed cases, then growth with the number of boxes."""
    rng = np.random.default_rng(0)
    vocabulary = load_vocabulary(SHIPPED_BASE)
    codec = Codec(vocabulary)
    return [
        _from_tokens(rng, codec, num_answers=512, num_boxes=20),
        _from_boxes(rng, num_boxes=100, name="rewards_100x100_ms"),
        _points(rng, num=50),
        _broken(rng, codec, vocabulary.size + 20, num_answers=2400),
        *(_from_boxes(rng, num_boxes=num, name=f"rewards_{num}x{num}_ms") for num in GROWTH if num != 100),
    ]


def _from_tokens(rng: np.random.Generator, codec: Codec, *, num_answers: int, num_boxes: int) -> Figure:
    truths = [_truth(rng, num_boxes) for _ in range(num_answers // GROUP_SIZE)]
    tokens_PG = [[_answer_tokens(rng, codec, truth) for _ in range(GROUP_SIZE)] for truth in truths]

    def decode() -> list[list[Shapes]]:
        return codec.decode_groups(tokens_PG, [CATEGORIES] * len(tokens_PG), task=TASKS["detection"])

    def score() -> None:
        score_groups(decode(), truths, weights=RewardWeights())

    predicted_PG = decode()

    def loop() -> None:
        for truth, predicted_G in zip(truths, predicted_PG, strict=True):
            for predicted in predicted_G:
                _looped_reward(predicted, truth)

    meaning = (
        f"{num_answers} answers of {num_boxes} boxes, token ids to all terms; baseline: loops, decoding not counted"
    )
    return faster(f"rewards_{num_answers}x{num_boxes}_ms", score, loop, meaning=meaning, rounds=ROUNDS)


def _from_boxes(rng: np.random.Generator, *, num_boxes: int, name: str) -> Figure:
    truth = _truth(rng, num_boxes)
    predicted_G = [_jittered(rng, truth) for _ in range(GROUP_SIZE)]
    return faster(
        name,
        lambda: score_group(predicted_G, truth, weights=RewardWeights()),
        lambda: [_looped_reward(predicted, truth) for predicted in predicted_G],
        meaning=f"one answer of {num_boxes} boxes against {num_boxes}, all terms; baseline: loops",
        rounds=ROUNDS if num_boxes <= 100 else 2,
        per=GROUP_SIZE,
    )


def _points(rng: np.random.Generator, *, num: int) -> Figure:
    width, height = MASK_SIZE
    masks = tuple(_blob(rng) for _ in range(num))
    points_N2 = rng.integers(0, 1000, size=(num, 2))
    labels = ("cat",) * num
    predicted = Shapes(labels=labels, bins_NK=points_N2, spans_N2=np.zeros((num, 2), dtype=np.int64), faults=())

    def score() -> None:
        truth = Truth(labels, points_N2, ("cat",), geometry="point", masks=masks)
        score_group([predicted], truth, weights=RewardWeights())

    def decode_to_pixels() -> None:
        for mask in masks:
            pixels_HW = coco_masks.decode({"size": [height, width], "counts": mask.counts})
            for x, y in points_N2:
                pixels_HW[min(int(y / 999 * height), height - 1), min(int(x / 999 * width), width - 1)]

    meaning = f"{num} points against {num} masks of 1080p, from compressed run lengths, nothing kept; baseline: decoded"
    return faster(f"points_{num}_masks_ms", score, decode_to_pixels, meaning=meaning, rounds=3)


def _broken(rng: np.random.Generator, codec: Codec, num_ids: int, *, num_answers: int) -> Figure:
    """Broken answers, equally many of every task. A third are random ids, the others real answers with ids exchanged,
    dropped and repeated.
    """
    num_groups = num_answers // (GROUP_SIZE * len(TASKS))
    tokens_of = {
        name: [
            [_broken_tokens(rng, codec, num_ids, task, is_random=i % 3 == 0) for i in range(GROUP_SIZE)]
            for _ in range(num_groups)
        ]
        for name, task in TASKS.items()
    }

    def decode() -> None:
        for name, tokens_PG in tokens_of.items():
            codec.decode_groups(tokens_PG, [("cat",)] * num_groups, task=TASKS[name])

    def decode_alone() -> None:
        for name, tokens_PG in tokens_of.items():
            for tokens_G in tokens_PG:
                for tokens_T in tokens_G:
                    codec.decode(tokens_T, categories=("cat",), task=TASKS[name])

    meaning = "decoding an answer of about 50 tokens, random or broken, all tasks by turns; baseline: one by one"
    per = sum(map(len, tokens_of.values())) * GROUP_SIZE
    return faster("decode_us", decode, decode_alone, meaning=meaning, rounds=ROUNDS, per=per, unit="us")


def _broken_tokens(rng: np.random.Generator, codec: Codec, num_ids: int, task: Task, *, is_random: bool) -> np.ndarray:
    if is_random:
        return rng.integers(0, num_ids, size=rng.integers(100))
    num_numbers = task.num_numbers or MIN_POLYGON
    labels = ("cat",) * max(1, 50 // (num_numbers + 1))
    bins_NK = np.sort(rng.integers(0, 1000, size=(len(labels), num_numbers)), axis=1)  # so that boxes have areas
    tokens_T = codec.encode_shapes(labels, bins_NK, ("cat",), task=task)
    exchanged = rng.integers(tokens_T.size, size=rng.integers(1, 6))
    tokens_T[exchanged] = rng.integers(0, num_ids, size=exchanged.size)
    tokens_T = np.delete(tokens_T, rng.integers(tokens_T.size, size=rng.integers(4)))
    return np.repeat(tokens_T, rng.choice([1, 1, 1, 1, 1, 1, 2], tokens_T.size))[:MAX_BROKEN]


def _truth(rng: np.random.Generator, num: int) -> Truth:
    """Boxes of two categories, of 20 to 100 bins a side, anywhere."""
    near_N2, sides_N2 = rng.integers(0, 890, size=(num, 2)), rng.integers(20, 100, size=(num, 2))
    labels = tuple(CATEGORIES[i] for i in rng.integers(len(CATEGORIES), size=num))
    return Truth(labels, np.concatenate([near_N2, near_N2 + sides_N2], axis=1), CATEGORIES)


def _jittered(rng: np.random.Generator, truth: Truth) -> Shapes:
    """The truth with every side off by a few bins: predictions of a trained model."""
    bins_N4 = np.clip(truth.bins_NK + rng.integers(-4, 5, size=truth.bins_NK.shape), 0, 999)
    return Shapes(
        labels=truth.labels, bins_NK=bins_N4, spans_N2=np.zeros((len(truth.labels), 2), dtype=np.int64), faults=()
    )


def _answer_tokens(rng: np.random.Generator, codec: Codec, truth: Truth) -> np.ndarray:
    predicted = _jittered(rng, truth)
    return codec.encode_shapes(predicted.labels, predicted.bins_NK, CATEGORIES)


def _blob(rng: np.random.Generator) -> Mask:
    """A filled ellipse of some hundred pixels' radius, as compressed run lengths."""
    width, height = MASK_SIZE
    rows_H1, columns_1W = np.ogrid[:height, :width]
    (x, y), (a, b) = rng.uniform((200, 200), (width - 200, height - 200)), rng.uniform(60, 300, size=2)
    inside_HW = ((columns_1W - x) / a) ** 2 + ((rows_H1 - y) / b) ** 2 < 1
    return Mask(size=MASK_SIZE, counts=coco_masks.encode(np.asfortranarray(inside_HW, dtype=np.uint8))["counts"])


def _looped_reward(predicted: Shapes, truth: Truth) -> float:
    """F1 from the best IoU of the same label for every true and every predicted box, by plain loops over all pairs."""
    boxes: Sequence[list[int]] = predicted.bins_NK.tolist()
    truths: Sequence[list[int]] = truth.bins_NK.tolist()
    best_predicted, best_true = [0.0] * len(boxes), [0.0] * len(truths)
    for i, (label, (ax0, ay0, ax1, ay1)) in enumerate(zip(predicted.labels, boxes, strict=True)):
        for j, (name, (bx0, by0, bx1, by1)) in enumerate(zip(truth.labels, truths, strict=True)):
            if label != name:
                continue
            inter = max(0, min(ax1, bx1) - max(ax0, bx0)) * max(0, min(ay1, by1) - max(ay0, by0))
            iou = inter / ((ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - inter)
            best_predicted[i], best_true[j] = max(best_predicted[i], iou), max(best_true[j], iou)
    precision, recall = sum(best_predicted) / len(boxes), sum(best_true) / len(truths)
    return 2 * precision * recall / (precision + recall)
