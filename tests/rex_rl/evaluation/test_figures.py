"""The figures of an evaluation against hand-computed cases, a slow reference and pycocotools."""

import contextlib
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rex_rl.errors import DataError
from rex_rl.evaluation.figures import METRICS, TEXT_SIMILARITY, bootstrap_interval, evaluate, match_image
from rex_rl.evaluation.image_result import ImageResult

Box = tuple[float, float, float, float]
Labelled = list[tuple[str, Box]]
A, B = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)


def image(truth: Labelled, predicted: Labelled, *, size: int = 100, faults: tuple[str, ...] = ()) -> ImageResult:
    """One image from lists of (label, box)."""
    return ImageResult(
        image_id="1",
        width=size,
        height=size,
        truth_labels=tuple(label for label, _ in truth),
        truth_NK=np.array([box for _, box in truth], dtype=float).reshape(-1, 4),
        predicted_labels=tuple(label for label, _ in predicted),
        predicted_NK=np.array([box for _, box in predicted], dtype=float).reshape(-1, 4),
        faults=faults,
    )


def test_perfect_answers_give_ones() -> None:
    """Keys are exactly METRICS, every F1 is 1 and nothing is counted as a fault."""
    figures = evaluate([image([("cat", A), ("dog", B)], [("dog", B), ("cat", A)])])
    assert tuple(figures) == METRICS
    assert all(type(value) is float for value in figures.values())
    assert figures == {
        "f1_50": 1,
        "f1_95": 1,
        "f1_miou": 1,
        "precision_50": 1,
        "recall_50": 1,
        "duplicate_rate": 0,
        "repeat_rate": 0,
        "large_box_rate": 0,
        "parse_failure_rate": 0,
        "mean_predictions": 2,
        "num_images": 1,
    }


def test_duplicates_are_counted_and_are_false() -> None:
    """One true box predicted four times: three duplicates, precision 1/4, F1 = 2 * 1/4 / (5/4) = 0.4."""
    figures = evaluate([image([("cat", A)], [("cat", A)] * 4)])
    assert figures["duplicate_rate"] == 0.75
    assert figures["precision_50"] == 0.25
    assert figures["recall_50"] == 1
    assert figures["f1_50"] == figures["f1_95"] == pytest.approx(0.4)


def test_duplicate_needs_the_same_label_the_same_answer_and_more_than_seven_tenths() -> None:
    """IoU 7/10 exactly is no duplicate, 8/10 is; another label or another image never is."""
    seven, eight = (0.0, 0.0, 10.0, 7.0), (0.0, 0.0, 10.0, 8.0)
    assert match_image(image([], [("cat", A), ("cat", seven)])).is_duplicate_A.tolist() == [False, False]
    assert match_image(image([], [("cat", A), ("cat", eight)])).is_duplicate_A.tolist() == [False, True]
    assert match_image(image([], [("cat", A), ("dog", A)])).is_duplicate_A.tolist() == [False, False]
    assert evaluate([image([], [("cat", A)])] * 2)["duplicate_rate"] == 0


def test_a_duplicate_of_a_duplicate_is_one_too() -> None:
    """What is joined to a member is of the group: c overlaps b (IoU 0.8) and not a (0.64), b overlaps a."""
    b, c = (0.0, 0.0, 10.0, 8.0), (0.0, 0.0, 10.0, 6.4)
    assert match_image(image([], [("cat", A), ("cat", b), ("cat", c)])).is_duplicate_A.tolist() == [False, True, True]


@pytest.mark.parametrize("swapped", [(10.0, 0.0, 0.0, 10.0), (0.0, 10.0, 10.0, 0.0), (10.0, 10.0, 0.0, 0.0)])
def test_swapped_corners_match_nothing(swapped: Box) -> None:
    """A box with swapped corners has IoU 0: it is false, no duplicate of its like and never large."""
    result = image([("cat", A)], [("cat", swapped), ("cat", swapped)], size=10)
    assert match_image(result).truth_of_predicted_A.tolist() == [-1, -1]
    figures = evaluate([result])
    assert figures["precision_50"] == figures["recall_50"] == figures["f1_miou"] == 0
    assert figures["duplicate_rate"] == figures["large_box_rate"] == 0
    assert figures["mean_predictions"] == 2


def test_category_absent_from_an_image_still_counts_there() -> None:
    """A cat predicted in an image without cats halves the precision of cats: pooled 1/2, dogs 1, mean 3/4."""
    results = [image([("cat", A)], [("cat", A)]), image([("dog", A)], [("dog", A), ("cat", B)])]
    figures = evaluate(results)
    assert figures["precision_50"] == 0.75
    assert figures["recall_50"] == 1
    assert figures["f1_50"] == pytest.approx(2 * 0.75 / 1.75)


def test_category_without_truth_anywhere_is_not_averaged() -> None:
    """Unicorns have no truth: they change no precision, only the number of predictions."""
    figures = evaluate([image([("cat", A)], [("cat", A), ("unicorn", B)])])
    assert figures["precision_50"] == figures["recall_50"] == 1
    assert figures["mean_predictions"] == 2


def test_no_prediction_is_precision_zero() -> None:
    """Cats found, dogs never predicted: precision (1 + 0) / 2, recall (1 + 0) / 2."""
    figures = evaluate([image([("cat", A), ("dog", B)], [("cat", A)])])
    assert figures["precision_50"] == figures["recall_50"] == figures["f1_50"] == 0.5
    empty = evaluate([image([("cat", A)], [])])
    assert empty["precision_50"] == empty["f1_miou"] == empty["duplicate_rate"] == empty["mean_predictions"] == 0


def test_two_images_are_pooled_not_averaged() -> None:
    """1 of 1 and 1 of 3 boxes right is precision 2/4, not (1 + 1/3) / 2; recall is 2 of 3."""
    wrong = [("cat", (50.0, 50.0, 60.0, 60.0)), ("cat", (70.0, 70.0, 80.0, 80.0))]
    results = [image([("cat", A)], [("cat", A)]), image([("cat", A), ("cat", B)], [("cat", A), *wrong])]
    figures = evaluate(results)
    assert figures["precision_50"] == 0.5
    assert figures["recall_50"] == pytest.approx(2 / 3)
    assert figures["mean_predictions"] == 2
    assert figures["num_images"] == 2


@pytest.mark.parametrize("percent", range(50, 100, 5))
def test_iou_exactly_at_a_threshold_matches(percent: int) -> None:
    """A box of `percent` of the truth's area matches at that threshold and at all below, not above."""
    result = image([("cat", (0.0, 0.0, 100.0, 100.0))], [("cat", (0.0, 0.0, 100.0, float(percent)))])
    matched = (percent - 50) // 5 + 1
    assert evaluate([result])["f1_miou"] == pytest.approx(matched / 10)
    assert match_image(result, percent / 100).is_found_B.tolist() == [True]
    assert match_image(result, (percent + 1) / 100).is_found_B.tolist() == [False]


def test_boxes_take_truth_in_the_order_written() -> None:
    """The first box takes the truth it overlaps best, though that leaves the exact second one without."""
    near, exact = (0.0, 0.0, 10.0, 9.0), A
    assert match_image(image([("cat", A)], [("cat", near), ("cat", exact)])).truth_of_predicted_A.tolist() == [0, -1]
    assert match_image(image([("cat", A)], [("cat", exact), ("cat", near)])).truth_of_predicted_A.tolist() == [0, -1]


def test_ties_take_the_earlier_truth_and_then_the_free_one() -> None:
    """One box between two true boxes of equal IoU takes the first; its duplicate takes the second."""
    left, middle, right = (0.0, 0.0, 10.0, 10.0), (2.0, 0.0, 12.0, 10.0), (4.0, 0.0, 14.0, 10.0)
    result = image([("cat", left), ("cat", right)], [("cat", middle)] * 3)
    matched = match_image(result)
    assert matched.truth_of_predicted_A.tolist() == [0, 1, -1]
    assert matched.is_duplicate_A.tolist() == [False, True, True]
    assert matched.is_found_B.tolist() == [True, True]


def test_highest_free_iou_wins_over_order_of_truth() -> None:
    """Both true boxes are over the threshold; the better one is taken though it stands second."""
    result = image([("cat", (0.0, 0.0, 10.0, 6.0)), ("cat", A)], [("cat", A)])
    assert match_image(result).truth_of_predicted_A.tolist() == [1]


def test_large_boxes_and_faults_are_shares_of_images() -> None:
    """Over 95 % of the area counts, 95 % exactly does not; any number of faults is one failure."""
    results = [
        image([], [("cat", (0.0, 0.0, 100.0, 95.0))]),
        image([], [("cat", (0.0, 0.0, 100.0, 96.0)), ("dog", (0.0, 0.0, 100.0, 100.0))]),
        image([], [], faults=("truncated", "bad_count")),
        image([], [], faults=()),
    ]
    figures = evaluate(results)
    assert figures["large_box_rate"] == 0.25
    assert figures["parse_failure_rate"] == 0.25


def test_without_any_truth_f1_is_undefined_and_rates_are_not() -> None:
    """Only negatives: NaN for what averages over categories with truth, numbers for the rest."""
    figures = evaluate([image([], [("cat", A), ("cat", A)])])
    assert all(math.isnan(figures[name]) for name in METRICS[:5])
    assert figures["duplicate_rate"] == 0.5


def test_wrong_input_is_named() -> None:
    """No image, boxes without labels, an impossible threshold and an unknown metric are errors."""
    with pytest.raises(DataError, match="0 images"):
        evaluate([])
    with pytest.raises(ValueError, match=r"predicted_NK of image 1 must be \(2, 4\) but is \(1, 4\)"):
        replace(image([], [("cat", A)]), predicted_labels=("cat", "dog"))
    with pytest.raises(ValueError, match="threshold 0"):
        match_image(image([], []), 0)
    with pytest.raises(ValueError, match="unknown metric 'f1'"):
        bootstrap_interval([image([], [])], "f1", seed=0)


def slow_iou(first: Box, second: Box) -> float:
    """IoU of two boxes by the book; 0 for an empty or swapped one."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    area = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return width * height / (area - width * height)


def slow_figures(results: list[ImageResult]) -> dict[str, float]:
    """The definitions of rex_rl/evaluation/figures.py word by word, one box at a time."""
    categories = sorted({label for result in results for label in result.truth_labels})
    f1s: list[float] = []
    first = (0.0, 0.0)
    for threshold in [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]:
        precisions, recalls = [], []
        for category in categories:
            true = predicted = hits = 0
            for result in results:
                truth = [b for c, b in zip(result.truth_labels, result.truth_NK, strict=True) if c == category]
                boxes = [b for c, b in zip(result.predicted_labels, result.predicted_NK, strict=True) if c == category]
                true, predicted = true + len(truth), predicted + len(boxes)
                for box in boxes:
                    best = max(truth, key=lambda other: slow_iou(tuple(box), tuple(other)), default=None)
                    if best is not None and slow_iou(tuple(box), tuple(best)) >= threshold:
                        hits += 1
                        truth = [other for other in truth if other is not best]
            precisions.append(hits / predicted if predicted else 0.0)
            recalls.append(hits / true)
        precision, recall = sum(precisions) / len(categories), sum(recalls) / len(categories)
        first = first if f1s else (precision, recall)
        f1s.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
    duplicates = total = 0
    for result in results:
        for j, (label, box) in enumerate(zip(result.predicted_labels, result.predicted_NK, strict=True)):
            total += 1
            earlier = zip(result.predicted_labels[:j], result.predicted_NK[:j], strict=True)
            duplicates += any(c == label and slow_iou(tuple(box), tuple(b)) > 0.7 for c, b in earlier)
    return {
        "f1_50": f1s[0],
        "f1_95": f1s[-1],
        "f1_miou": sum(f1s) / 10,
        "precision_50": first[0],
        "recall_50": first[1],
        "duplicate_rate": duplicates / total if total else 0.0,
        "mean_predictions": total / len(results),
    }


corner = st.integers(0, 6).map(float)
labelled = st.lists(st.tuples(st.sampled_from("ab"), st.tuples(corner, corner, corner, corner)), max_size=7)
ordered = labelled.map(lambda boxes: [(c, (x, y, x + 1 + w, y + 1 + h)) for c, (x, y, w, h) in boxes])
images = st.lists(
    st.builds(lambda truth, predicted: image(truth, predicted, size=20), ordered, labelled | ordered), max_size=4
)


@given(images, ordered.filter(bool), ordered)
def test_equals_a_slow_reference(results: list[ImageResult], truth: Labelled, predicted: Labelled) -> None:
    """Crowded boxes on a coarse grid (many ties, duplicates, swapped corners): every figure as by the book."""
    everything = [*results, image(truth, predicted, size=20)]
    figures = evaluate(everything)
    for name, value in slow_figures(everything).items():
        assert figures[name] == pytest.approx(value), name


def coco_recall_50(results: list[ImageResult]) -> float:
    """Mean recall at IoU 0.5 by pycocotools, the boxes scored in the order written."""
    names = ["a", "b", "c"]
    truths: list[dict[str, object]] = []
    answers: list[dict[str, object]] = []
    for i, result in enumerate(results):
        for label, (x0, y0, x1, y1) in zip(result.truth_labels, result.truth_NK.tolist(), strict=True):
            row = {"id": len(truths) + 1, "image_id": i, "category_id": names.index(label), "iscrowd": 0}
            truths.append(row | {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)})
        for rank, (label, (x0, y0, x1, y1)) in enumerate(
            zip(result.predicted_labels, result.predicted_NK.tolist(), strict=True)
        ):
            row = {"image_id": i, "category_id": names.index(label)}
            answers.append(row | {"score": 1 - rank / 1000, "bbox": [x0, y0, x1 - x0, y1 - y0]})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        images = [{"id": i, "width": 100, "height": 100} for i in range(len(results))]
        categories = [{"id": k, "name": name} for k, name in enumerate(names)]
        coco.dataset = {"info": {}, "images": images, "categories": categories, "annotations": truths}
        coco.createIndex()
        run = COCOeval(coco, coco.loadRes(answers), "bbox")
        run.params.maxDets = [1, 10, 1000]
        run.evaluate()
        run.accumulate()
    recall_K = run.eval["recall"][0, :, 0, 2]
    return float(recall_K[recall_K > -1].mean())


def jittered(rng: np.random.Generator) -> ImageResult:
    """Crowded true boxes, predicted with jitter, some left out, some twice."""
    num_true = int(rng.integers(1, 12))
    corner_N2, side_N2 = rng.uniform(0, 60, (num_true, 2)), rng.uniform(15, 40, (num_true, 2))
    truth_NK = np.hstack([corner_N2, corner_N2 + side_N2])
    labels = [str(label) for label in rng.choice(["a", "b", "c"], num_true)]
    kept = rng.choice(num_true, size=int(rng.integers(1, num_true + 4)))
    predicted_NK = truth_NK[kept] + rng.normal(0, 3, (len(kept), 4))
    predicted = [(labels[k], tuple(box)) for k, box in zip(kept, predicted_NK.tolist(), strict=True)]
    return image([(c, tuple(b)) for c, b in zip(labels, truth_NK.tolist(), strict=True)], predicted)


@pytest.mark.parametrize("seed", range(5))
def test_recall_equals_pycocotools(seed: int) -> None:
    """With scores falling in the order written, COCO's greedy matching is this one: the same mean recall."""
    rng = np.random.default_rng(seed)
    results = [jittered(rng) for _ in range(30)]
    recall = evaluate(results)["recall_50"]
    assert 0.2 < recall < 0.98
    assert recall == pytest.approx(coco_recall_50(results), abs=1e-12)


def test_bootstrap_interval_is_seeded_and_holds_the_estimate() -> None:
    """The same seed gives the same interval; it brackets the figure and shrinks with more images."""
    rng = np.random.default_rng(0)
    results = [jittered(rng) for _ in range(80)]
    low, high = bootstrap_interval(results, "f1_miou", seed=1)
    assert (low, high) == bootstrap_interval(results, "f1_miou", seed=1)
    assert low < evaluate(results)["f1_miou"] < high
    few_low, few_high = bootstrap_interval(results[:8], "f1_miou", seed=1)
    assert few_high - few_low > high - low


def test_bootstrap_interval_knows_known_cases() -> None:
    """One image has no spread; a share of 1/2 over 100 images has a 95 % interval near 0.5 +- 0.098."""
    assert bootstrap_interval([image([("cat", A)], [("cat", A)])], "f1_50", seed=0) == (1.0, 1.0)
    half = [image([], [], faults=("truncated",))] * 50 + [image([], [])] * 50
    low, high = bootstrap_interval(half, "parse_failure_rate", num_samples=2000, seed=0)
    assert low == pytest.approx(0.402, abs=0.02)
    assert high == pytest.approx(0.598, abs=0.02)
    assert all(math.isnan(bound) for bound in bootstrap_interval(half, "f1_50", seed=0))


def test_a_word_counts_where_its_text_is_right_and_texts_are_compared_by_place() -> None:
    """ABC is predicted as ABX: the box is not counted, the text is 2/3 right; a false text lowers precision though no
    truth has it; the same box under another text is a duplicate."""
    result = replace(image([("ABC", A), ("E", B)], [("ABX", A), ("E", B), ("H", A)]), task="ocr_box")
    figures = evaluate([result])
    assert (figures["precision_50"], figures["recall_50"]) == (pytest.approx(1 / 3), 0.5)
    assert figures[TEXT_SIMILARITY] == pytest.approx((2 / 3 + 1) / 2)
    assert figures["duplicate_rate"] == pytest.approx(1 / 3)
    assert tuple(figures) == (*METRICS, TEXT_SIMILARITY)


def test_the_interval_of_a_gain_draws_the_images_for_both() -> None:
    """Equal answers gain exactly nothing however hard the images are; a gain on every image is sure."""
    half = [image([("cat", A)], [("cat", A)] if i % 2 else []) for i in range(40)]
    best = [image([("cat", A)], [("cat", A)])] * 40
    assert bootstrap_interval(half, "f1_50", before=half, seed=0) == (0, 0)
    low, high = bootstrap_interval(best, "f1_50", before=half, seed=0)
    assert 0 < low < 1 / 3 < high
    with pytest.raises(ValueError, match="several tasks"):
        bootstrap_interval([*half, replace(half[0], task="ocr_box")], "f1_50", seed=0)
    with pytest.raises(ValueError, match="not of the same images"):
        bootstrap_interval(half, "f1_50", before=half[1:], seed=0)
