"""The cheats themselves: the answer they are made from, and that each is what its name says, in every geometry."""

import numpy as np
import pytest

from rewards import RewardWeights, Truth, score_group
from rewards.geometry.boxes import pairwise_iou
from rex_rl.scoring.cheats import CHEATS, imperfect_answer
from rex_rl.types import Shapes

BOXES = np.array([[100 * i, 50 * i, 100 * i + 80, 50 * i + 60] for i in range(6)])
LABELS = ("cat", "dog", "cat", "dog", "cat", "dog")
CATEGORIES = ("cat", "dog", "owl")


def polygons(boxes_N4: np.ndarray) -> np.ndarray:
    """Quadrilaterals, the last vertex written twice: [N, 10]."""
    return boxes_N4[:, [0, 1, 2, 1, 2, 3, 0, 3, 0, 3]]


def people(boxes_N4: np.ndarray) -> np.ndarray:
    """A box and three joints, of which the second is not seen: [N, 10]."""
    unseen_N2 = np.full((len(boxes_N4), 2), -1)
    return np.hstack([boxes_N4, boxes_N4[:, :2] + 9, unseen_N2, boxes_N4[:, 2:] - 9])


def truth_of(geometry: str, boxes_N4: np.ndarray = BOXES, labels: tuple[str, ...] = LABELS) -> Truth:
    """The same things in each geometry; `hit` are points that are right anywhere in their boxes, `text` is OCR."""
    bins_NK = {
        "point": boxes_N4[:, :2] + 2,
        "hit": boxes_N4[:, :2] + 2,
        "polygon": polygons(boxes_N4),
        "keypoints": people(boxes_N4),
    }.get(geometry, boxes_N4)
    kind = {"hit": "point", "text": "box"}.get(geometry, geometry)
    hit_N4 = boxes_N4 if geometry == "hit" else None
    if geometry == "text":
        return Truth(labels, bins_NK, ("word",), geometry=kind, reads_text=True)
    return Truth(labels, bins_NK, CATEGORIES, geometry=kind, boxes_N4=hit_N4)


def scores_of(answers: dict[str, Shapes], truth: Truth, reward: str = "matched") -> dict[str, float]:
    scores = score_group(list(answers.values()), truth, weights=RewardWeights(), name=reward)
    return dict(zip(answers, scores.total_G.tolist(), strict=True))


def cheated(truth: Truth) -> dict[str, Shapes]:
    honest = imperfect_answer(truth)
    answers = {name: cheat(honest, truth) for name, cheat in CHEATS.items()}
    return {"imperfect": honest} | {name: shapes for name, shapes in answers.items() if shapes is not None}


GEOMETRIES = ("box", "point", "polygon", "keypoints")


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_each_shape_of_the_imperfect_answer_has_a_value_of_about_three_fifths(geometry: str) -> None:
    """Two thirds of the truths, each with a value of about 0.6: an F1 of about 0.48, and no fault of any other kind."""
    truth = truth_of(geometry)
    honest = imperfect_answer(truth)
    scores = score_group([honest], truth, weights=RewardWeights())
    assert honest.labels == ("cat", "dog", "dog", "cat")
    assert scores.terms_G["f1"][0] == pytest.approx(2 * 0.6 * 4 / 10, abs=0.04)
    assert scores.total_G[0] == scores.terms_G["f1"][0]
    assert ((honest.bins_NK == -1) == (truth.bins_NK == -1)[[0, 1, 3, 4]]).all()


def test_the_first_box_of_the_imperfect_answer_is_its_best() -> None:
    """So that a reward which pays for more of the best shape is found out."""
    iou_N = pairwise_iou(imperfect_answer(truth_of("box")).bins_NK, BOXES[[0, 1, 3, 4]]).diagonal()
    assert iou_N[0] == iou_N.max() > iou_N.mean() + 0.05


@pytest.mark.parametrize(
    ("place", "size"), [(0, 999), (0, 1), (998, 1), (990, 9), (500, 2), (3, 800)], ids=lambda value: str(value)
)
def test_a_moved_box_stays_a_box_on_the_grid(place: int, size: int) -> None:
    """Wherever it lies and however small it is."""
    truth = Truth(("cat",), np.array([[place, 10, place + size, 60]]), ("cat",))
    x0, y0, x1, y1 = imperfect_answer(truth).bins_NK[0]
    assert 0 <= x0 < x1 <= 999
    assert (y0, y1) == (10, 60)


@pytest.mark.parametrize("geometry", [*GEOMETRIES, "hit", "text"])
def test_no_cheat_pays_under_the_default_reward(geometry: str) -> None:
    """In crowds of up to 12 things of three labels, on the average."""
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for _ in range(12):
        corners_N2 = rng.integers(0, 700, (rng.integers(1, 13), 2))
        boxes_N4 = np.hstack([corners_N2, corners_N2 + rng.integers(30, 300, corners_N2.shape)])
        truth = truth_of(geometry, boxes_N4, tuple(rng.choice(CATEGORIES, len(boxes_N4)).tolist()))
        for name, total in scores_of(cheated(truth), truth).items():
            found.setdefault(name, []).append(total)
    means = {name: np.mean(totals) for name, totals in found.items()}
    assert len(means) >= 9
    assert [name for name in means if means[name] > means["imperfect"]] == []


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_every_cheat_is_an_answer_of_the_same_geometry(geometry: str) -> None:
    """Coordinates on the grid or -1, one label a shape; boxes only where there are corners to swap."""
    truth = truth_of(geometry)
    answers = cheated(truth)
    for shapes in answers.values():
        assert len(shapes.labels) == len(shapes.bins_NK) == len(shapes.spans_N2)
        assert shapes.bins_NK.shape[1] == truth.bins_NK.shape[1]
        assert -1 <= shapes.bins_NK.min(initial=0) <= shapes.bins_NK.max(initial=0) <= 999
    assert ("swapped_corners" in answers) == (geometry in ("box", "keypoints"))
    assert ("giant" in answers) == (geometry != "point")


def test_each_cheat_is_what_its_name_says() -> None:
    answers = cheated(truth_of("box"))
    honest = answers["imperfect"]
    counts = {name: len(shapes.labels) for name, shapes in answers.items()}
    assert counts == {
        "imperfect": 4,
        "copies": 14,
        "near_copies": 12,
        "giant": 4 + 2,
        "grid": 4 + 2 * 16,
        "swapped_corners": 4,
        "truncated": 3,
        "wrong_labels": 4,
        "every_label": 12,
        "all_none": 0,
        "empty": 0,
    }
    assert (answers["copies"].bins_NK[4:] == honest.bins_NK[0]).all()
    assert answers["giant"].bins_NK[4:].tolist() == [[0, 0, 999, 999]] * 2
    assert answers["truncated"].faults == ("truncated",)
    assert answers["wrong_labels"].labels == ("dog", "owl", "owl", "dog")
    assert answers["every_label"].labels == ("cat",) * 4 + ("dog",) * 4 + ("owl",) * 4
    assert [answers[name].absent for name in ("imperfect", "every_label", "all_none", "empty")] == [
        ("owl",),
        (),
        CATEGORIES,
        (),
    ]


def test_polygons_grow_to_the_longest() -> None:
    """A tile has four vertices; beside a triangle its answer gets eight numbers a shape."""
    triangle = np.array([[10, 10, 90, 10, 50, 80]])
    grid = cheated(Truth(("cat",), triangle, ("cat",), geometry="polygon"))["grid"]
    assert grid.bins_NK.shape == (17, 8)
    assert grid.bins_NK[0, 4:].tolist() == grid.bins_NK[0, [4, 5, 4, 5]].tolist()


def test_recognised_texts_are_exchanged_where_labels_are_texts() -> None:
    """In OCR the categories are no labels: wrong ones are the other texts, or question marks if there is one text."""
    truth = Truth(("EXIT", "STOP"), BOXES[:2], ("word",), geometry="box", reads_text=True)
    answers = cheated(truth)
    assert answers["wrong_labels"].labels == ("STOP", "EXIT")
    assert answers["wrong_labels"].faults == ()
    assert answers["all_none"].absent == ("word",)
    assert answers["imperfect"].absent == ()
    alone = cheated(Truth(("EXIT",), BOXES[:1], ("word",), geometry="box", reads_text=True))
    assert alone["wrong_labels"].labels == ("????",)
    assert "every_label" not in alone
