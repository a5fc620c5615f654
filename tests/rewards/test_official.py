"""`paper` and `official` against hand-computed tables, and the laws they break.

Sources: [P] arXiv 2510.12798 section 4.2.3; [R] Rex-Omni repository at 478e44f, verl/configs/reward_func.py, whose
behaviour was measured by running that file: [R] rows without a formula are such measurements.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from rewards import Predictions, RewardWeights, Truth, score_group

Shape = tuple[str, list[int]]

BOX = [100, 100, 300, 300]
OTHER = [500, 500, 700, 700]
HALF = [100, 100, 300, 200]
"""IoU 0.5 with BOX."""
FAR = [800, 0, 900, 50]


def score(name: str, true: list[Shape], predicted: list[Shape], faults: tuple[str, ...] = ()) -> float:
    """Total of one answer."""
    truth = Truth(tuple(label for label, _ in true), _boxes(true), tuple({label for label, _ in true}))
    return float(score_group([_predicted(predicted, faults)], truth, weights=RewardWeights(), name=name).total_G[0])


def _boxes(shapes: list[Shape]) -> np.ndarray:
    return np.array([shape for _, shape in shapes], dtype=np.int64).reshape(-1, 4)


def _predicted(shapes: list[Shape], faults: tuple[str, ...] = ()) -> Predictions:
    labels = tuple(label for label, _ in shapes)
    return SimpleNamespace(labels=labels, bins_NK=_boxes(shapes), faults=faults, absent=())


TABLE = {
    # name: (true, predicted, faults, paper, official)
    # [P] F1 = 2 * sum r / (n + m): 2 / (1 + n); [R] precision is the mean over predictions: duplicates are free.
    "once": ([("a", BOX)], [("a", BOX)], (), 1.0, 1.0),
    "2 times": ([("a", BOX)], [("a", BOX)] * 2, (), 2 / 3, 1.0),
    "5 times": ([("a", BOX)], [("a", BOX)] * 5, (), 1 / 3, 1.0),
    "50 times": ([("a", BOX)], [("a", BOX)] * 50, (), 2 / 51, 1.0),
    # [R] measured: one of two right 0.667, the same box ten times still 0.667.
    "1 of 2": ([("a", BOX), ("a", OTHER)], [("a", BOX)], (), 2 / 3, 2 / 3),
    "1 of 2, 10 times": ([("a", BOX), ("a", OTHER)], [("a", BOX)] * 10, (), 1 / 6, 2 / 3),
    # Continuous IoU: r = 0.5, and recall = precision = 0.5.
    "half": ([("a", BOX)], [("a", HALF)], (), 0.5, 0.5),
    # [R] the prompt asks in normalised phrases, the truth keeps raw labels, the comparison is of strings: always 0.
    "label with _": ([("traffic_light", BOX)], [("traffic light", BOX)], (), 0.0, 0.0),
    "label with /": ([("tv/monitor", BOX)], [("tv", BOX)], (), 0.0, 0.0),
    "label with ,": ([("chair, folding", BOX)], [("chair folding", BOX)], (), 0.0, 0.0),
    "raw label with _": ([("traffic_light", BOX)], [("traffic_light", BOX)], (), 1.0, 0.0),
    "raw label with /": ([("tv / monitor", BOX)], [("tv / monitor", BOX)], (), 1.0, 0.0),
    "raw label with ,": ([("chair, folding", BOX)], [("chair, folding", BOX)], (), 1.0, 0.0),
    # [R] n = m = 0 is 1, also for gibberish without coordinates; n = 0 and m > 0 is 0. [P] is silent: as [R].
    "only negatives, None": ([], [], (), 1.0, 1.0),
    "only negatives, gibberish": ([], [], ("stray_tokens",), 1.0, 1.0),
    "only negatives, a box": ([], [("a", BOX)], (), 0.0, 0.0),
    "no prediction": ([("a", BOX)], [], (), 0.0, 0.0),
    # [P] the largest IoU over all predictions decides, then the label; on a tie the right label is taken.
    "wrong label": ([("a", BOX)], [("b", BOX)], (), 0.0, 0.0),
    "wrong label closer": ([("a", BOX)], [("b", BOX), ("a", HALF)], (), 0.0, 2 * 0.5 * 0.25 / 0.75),
    "wrong label as close": ([("a", BOX)], [("b", BOX), ("a", BOX)], (), 2 / 3, 2 * 1.0 * 0.5 / 1.5),
    # [R] measured on an answer with a three-number box before a good one: its reader ignores commas, so it takes the
    # four numbers [three, first of the good one] for a box and drops the rest: 0. Read box by box, the good one
    # counts and the other is a fault ("read by the codec"); [P] does not say how to read.
    "three numbers, read by the codec": ([("a", BOX)], [("a", BOX)], ("bad_count",), 1.0, 1.0),
    "three numbers, read by the released code": ([("a", BOX)], [("a", [700, 600, 800, 100])], (), 0.0, 0.0),
    # [R] its parser sorts swapped corners and drops a box without area; [P] as written: IoU 0, still a prediction.
    "swapped corners": ([("a", BOX)], [("a", [300, 300, 100, 100])], ("swapped_corners",), 0.0, 1.0),
    "a box without area": ([("a", BOX)], [("a", BOX), ("a", [5, 5, 5, 9])], ("zero_area",), 2 / 3, 1.0),
}


@pytest.mark.parametrize("case", TABLE)
@pytest.mark.parametrize("name", ["paper", "official"])
def test_table_by_hand(case: str, name: str) -> None:
    """Every row is computed by hand from the formula its comment names."""
    true, predicted, faults, paper, official = TABLE[case]
    assert score(name, true, predicted, faults) == pytest.approx({"paper": paper, "official": official}[name])


def test_official_breaks_the_law_of_duplicates() -> None:
    """Beside one wrong box, a duplicate of the right one raises its precision from 1/2 to 2/3; `matched` goes down."""
    true: list[Shape] = [("a", BOX)]
    once: list[Shape] = [("a", BOX), ("a", FAR)]
    twice: list[Shape] = [*once, ("a", BOX)]
    assert score("official", true, once) == pytest.approx(2 / 3)
    assert score("official", true, twice) == pytest.approx(0.8)
    assert score("matched", true, twice) < score("matched", true, once)
    assert score("paper", true, twice) < score("paper", true, once)


def test_paper_breaks_the_law_of_the_maximum() -> None:
    """One box serves two overlapping truths (IoU 0.6): 2 * 1.6 / 3 is above the perfect answer's 1."""
    true: list[Shape] = [("a", [0, 0, 100, 100]), ("a", [0, 0, 100, 60])]
    assert score("paper", true, true[:1]) == pytest.approx(2 * 1.6 / 3)
    assert score("paper", true, true) == 1.0
    assert score("matched", true, true[:1]) == pytest.approx(2 / 3)


def test_paper_breaks_the_law_of_unmatched_shapes() -> None:
    """A near-duplicate closer to a second truth raises it, though one-to-one it serves none; removed, it falls."""
    missed: list[Shape] = [("a", [100 * column, 500, 100 * column + 40, 540]) for column in range(8)]
    true: list[Shape] = [("a", [0, 0, 100, 100]), ("a", [60, 0, 160, 100]), *missed]
    once: list[Shape] = [("a", [0, 0, 100, 100])]
    near: list[Shape] = [*once, ("a", [16, 0, 116, 100])]  # IoU 0.72 with the first
    assert score("paper", true, near) > score("paper", true, once)
    assert score("matched", true, near) < score("matched", true, once)


def test_both_ignore_format_and_truncation_in_the_total_but_report_them() -> None:
    """The total is the formula alone; every term is there by name."""
    truth = Truth(("a",), np.array([BOX]), ("a", "b"))
    answer = _predicted([("a", BOX), ("a", BOX)], ("stray_tokens", "truncated"))
    for name in ("paper", "official"):
        scores = score_group([answer], truth, weights=RewardWeights(), name=name)
        assert scores.total_G[0] == scores.terms_G[name][0]
        assert scores.terms_G["format"][0] == scores.terms_G["truncated"][0] == scores.terms_G["rejection"][0] == 1.0
        assert scores.terms_G["duplicates"][0] == 1.0
        assert scores.terms_G["f1"][0] == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", ["paper", "official"])
def test_points_without_a_mask_take_the_paper_formula_with_closeness(name: str) -> None:
    """Neither source has one: 25 bins off has value 0.5, so 2 * 0.5 / (1 + 1); a duplicate makes it 2 * 0.5 / 3."""
    truth = Truth(("a",), np.array([[100, 100]]), ("a",))
    answers = [_points("a", [[125, 100]] * duplicates) for duplicates in (1, 2)]
    scores = score_group(answers, truth, weights=RewardWeights(), name=name)
    assert scores.total_G.tolist() == pytest.approx([0.5, 1 / 3])


def _points(label: str, points: list[list[int]]) -> Predictions:
    bins_NK = np.array(points, dtype=np.int64).reshape(-1, 2)
    return SimpleNamespace(labels=(label,) * len(points), bins_NK=bins_NK, faults=(), absent=())


POINT_TABLE = {
    # name: (predicted points of label a, paper, official), two true boxes of label a that overlap in x 200..300.
    # [P] r_j = 1 if any prediction of the label lies in j; F1 = 2 * sum r / (n + m). [R] point_in_box: in the order of
    # the truths, each takes the first free point inside it, one-to-one; F1 of taken / m and taken / n.
    "both": ([[150, 150], [350, 150]], 1.0, 1.0),
    "one": ([[150, 150]], 2 / 3, 2 / 3),
    "one, twice": ([[150, 150]] * 2, 2 / 4, 2 / 4),
    "one in both": ([[250, 150]], 2 * 2 / 3, 2 / 3),
    "both, but the shared one first": ([[250, 150], [150, 150]], 1.0, 2 * 1 / 4),
    "outside": ([[900, 900]], 0.0, 0.0),
    "nothing": ([], 0.0, 0.0),
}


@pytest.mark.parametrize("case", POINT_TABLE)
@pytest.mark.parametrize("name", ["paper", "official"])
def test_point_table_by_hand(case: str, name: str) -> None:
    """Points in boxes; masks go the same way. Greedy, `official` can miss the best (the shared point first)."""
    points, paper, official = POINT_TABLE[case]
    boxes_N4 = np.array([[100, 100, 300, 200], [200, 100, 400, 200]])
    truth = Truth(("a", "a"), np.array([[150, 150], [350, 150]]), ("a",), boxes_N4=boxes_N4)
    total_G = score_group([_points("a", points)], truth, weights=RewardWeights(), name=name).total_G
    assert total_G[0] == pytest.approx({"paper": paper, "official": official}[name])


def test_recognised_text_is_the_paper_s_category() -> None:
    """[P] for OCR the category is the text: another letter is another label, which earns nothing."""
    truth = Truth(("exit",), np.array([BOX]), ("word",), reads_text=True)
    for text, expected in (("exit", 1.0), ("exist", 0.0)):
        scores = score_group([_predicted([(text, BOX)])], truth, weights=RewardWeights(), name="paper")
        assert scores.total_G[0] == expected
