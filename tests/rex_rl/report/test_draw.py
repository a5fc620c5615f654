"""Overlays: which box gets which colour, and at what size. Curves: ticks, smoothing and values that are no numbers."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageColor

from rex_rl.evaluation.image_result import ImageResult
from rex_rl.language.tasks import TASKS, Geometry
from rex_rl.report.draw import (
    LABEL_COLOURS,
    LEGEND,
    MAX_POINTS,
    Series,
    box_kinds,
    count_kinds,
    draw_objects,
    line_chart,
    nice_ticks,
    overlay,
    smooth,
)
from rex_rl.report.sheet import Sheet, drawing_scale
from rex_rl.types import Object

GREY = (90, 90, 90)


def result(
    truth: dict[str, list[list[float]]], predicted: dict[str, list[list[float]]], side: int = 500
) -> ImageResult:
    """One image from label -> boxes."""
    return ImageResult(
        image_id="1",
        width=side,
        height=side,
        truth_labels=tuple(label for label, boxes in truth.items() for _ in boxes),
        truth_NK=np.array([box for boxes in truth.values() for box in boxes], dtype=float).reshape(-1, 4),
        predicted_labels=tuple(label for label, boxes in predicted.items() for _ in boxes),
        predicted_NK=np.array([box for boxes in predicted.values() for box in boxes], dtype=float).reshape(-1, 4),
        faults=(),
    )


FOUND, LOST = [50.0, 50.0, 150.0, 150.0], [300.0, 50.0, 400.0, 150.0]
NEAR, WRONG = [60.0, 60.0, 160.0, 160.0], [300.0, 300.0, 400.0, 400.0]
COPY = [66.0, 66.0, 166.0, 166.0]
CROWD = result({"cat": [FOUND, LOST]}, {"cat": [NEAR, COPY, WRONG]})


def draw_boxes(image: Image.Image, labels: Sequence[str], boxes: Sequence[Sequence[float]]) -> Image.Image:
    """The image with predictions that are boxes."""
    return draw_objects(image, [Object(label=label, bbox=tuple(box)) for label, box in zip(labels, boxes, strict=True)])


def colours_on(image: Image.Image, box: list[float]) -> set[tuple[int, int, int]]:
    """All colours along the left side of a box."""
    array = np.asarray(image)
    column = array[int(box[1]) + 20 : int(box[3]) - 20, int(box[0])]
    return {(red, green, blue) for red, green, blue in column.tolist()}


def test_every_kind_has_its_own_colour_where_its_box_is() -> None:
    """True, matched, duplicate, false and missed boxes carry the colours of the legend, all different."""
    assert len(set(LEGEND.values())) == len(LEGEND) == 5
    drawn = overlay(Image.new("RGB", (500, 500), GREY), CROWD)
    for kind, box in {"true": FOUND, "matched": NEAR, "duplicate": COPY, "false": WRONG, "missed": LOST}.items():
        seen = colours_on(drawn, box)
        assert ImageColor.getrgb(LEGEND[kind]) in seen, kind
        others = {ImageColor.getrgb(colour) for name, colour in LEGEND.items() if name != kind}
        assert not seen & others, kind


def test_kinds_and_counts_add_up() -> None:
    """True = matched + missed and predicted = matched + duplicate + false, whatever is predicted."""
    assert box_kinds(CROWD) == ("matched", "duplicate", "false")
    assert count_kinds(CROWD) == {"true": 2, "matched": 1, "duplicate": 1, "false": 1, "missed": 1}
    assert count_kinds(result({}, {})) == dict.fromkeys(LEGEND, 0)


def test_a_duplicate_that_took_a_true_box_of_its_own_is_matched() -> None:
    """Two true boxes share one place: the duplicate of a predicted box finds the second."""
    assert box_kinds(result({"cat": [FOUND, NEAR]}, {"cat": [FOUND, FOUND, FOUND]})) == (
        "matched",
        "matched",
        "duplicate",
    )


@pytest.mark.parametrize(("size", "expected"), [((196, 196), 588), ((420, 300), 420), ((500, 900), 900), ((1, 1), 420)])
def test_small_images_are_enlarged_and_others_keep_their_size(size: tuple[int, int], expected: int) -> None:
    """The longer side comes to 420 px or more by a whole factor."""
    assert max(draw_boxes(Image.new("RGB", size), [], []).size) == expected
    assert max(overlay(Image.new("RGB", size), result({}, {})).size) == expected


def test_scale_is_taken_and_boxes_follow_it() -> None:
    """At half scale the image halves and the false box stands at half its coordinates."""
    drawn = overlay(Image.new("RGB", (500, 500), GREY), CROWD, scale=0.5)
    assert drawn.size == (250, 250)
    assert ImageColor.getrgb(LEGEND["false"]) in colours_on(drawn, [value / 2 for value in WRONG])
    assert drawing_scale((4000, 1000), max_side_px=800) == 0.2
    assert drawing_scale((100, 50), max_side_px=300) == 3.0


def test_any_predicted_box_is_drawn() -> None:
    """Swapped corners, no area, far outside, one pixel: nothing raises and the picture keeps its size."""
    wild = [
        [400.0, 400.0, 10.0, 20.0],
        [50.0, 50.0, 50.0, 50.0],
        [-1e9, -5.0, 1e9, 7000.0],
        [499.0, 499.0, 500.0, 500.0],
    ]
    image = Image.new("RGB", (500, 500), GREY)
    assert overlay(image, result({"cat": wild}, {"cat": wild, "": wild, "x\ny" * 40: wild})).size == (500, 500)
    assert draw_boxes(image, ["a"] * 4, wild).size == (500, 500)
    assert image.getcolors() == [(500 * 500, GREY)]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_image_mode_becomes_rgb(mode: str) -> None:
    """Grey, palette and transparent images are drawn on in colour."""
    assert overlay(Image.new(mode, (500, 500)), CROWD).mode == "RGB"


def test_predictions_have_one_colour_a_label() -> None:
    """Boxes of a label share a colour, in the order labels first appear; the eighth label shares the first's."""
    labels = ["cat", "dog", "cat"]
    boxes = [FOUND, LOST, WRONG]
    drawn = draw_boxes(Image.new("RGB", (500, 500), GREY), labels, boxes)
    first, second = (ImageColor.getrgb(colour) for colour in LABEL_COLOURS[:2])
    assert [first in colours_on(drawn, box) for box in boxes] == [True, False, True]
    assert second in colours_on(drawn, LOST)
    many = draw_boxes(Image.new("RGB", (500, 500), GREY), list("abcdefgh"), [[0, 0, 9, 9]] * 7 + [FOUND])
    assert first in colours_on(many, FOUND)


def test_names_stand_beside_one_another() -> None:
    """Of two boxes at one place the first has its name above, the second below."""
    for labels, above, below in ((["cat"], True, False), (["cat", "cat"], True, True)):
        drawn = draw_boxes(Image.new("RGB", (500, 500), GREY), labels, [FOUND] * len(labels))
        is_dark = np.asarray(drawn).max(axis=2) < 50
        assert (is_dark[35:45].any(), is_dark[155:165].any()) == (above, below)


SEEN = dict.fromkeys(TASKS["keypoint_hand"].keypoints) | {"wrist": (250.0, 300.0), "thumb1": (350.0, 300.0)}


@pytest.mark.parametrize(
    ("thing", "places", "free"),
    [
        (Object(label="", bbox=(100, 100, 400, 400)), [(100, 250), (400, 250), (250, 400)], [(250, 250)]),
        (Object(label="", point=(200, 200)), [(200, 200)], [(200, 240), (240, 200)]),
        (Object(label="", polygon=((100, 100), (400, 100), (100, 400))), [(250, 100), (250, 250)], [(400, 400)]),
        (Object(label="", bbox=(100, 100, 400, 400), keypoints=SEEN), [(100, 250), (250, 300), (350, 300)], [(0, 0)]),
    ],
)
def test_every_geometry_is_drawn_where_it_is(
    thing: Object, places: list[tuple[int, int]], free: list[tuple[int, int]]
) -> None:
    """Its colour at its sides, vertices' edges or points, and nothing of it elsewhere; unseen points are not drawn."""
    drawn = draw_objects(Image.new("RGB", (500, 500), GREY), [thing])
    colour = ImageColor.getrgb(LABEL_COLOURS[0])

    def near(place: tuple[int, int]) -> set[object]:
        x, y = place
        return {drawn.getpixel((i, j)) for i in range(max(x - 2, 0), x + 3) for j in range(max(y - 2, 0), y + 3)}

    assert all(colour in near(place) for place in places)
    assert not any(colour in near(place) for place in free)


def test_a_visual_prompt_is_dashed() -> None:
    """Along its side the picture shows through."""
    drawn = draw_objects(Image.new("RGB", (500, 500), GREY), [], visual_prompt=[(100, 100, 400, 400)])
    column = [drawn.getpixel((101, y)) for y in range(120, 380)]
    assert {(255, 255, 255), GREY} <= set(column)


@pytest.mark.parametrize("geometry", Geometry)
def test_any_predicted_shape_is_drawn(geometry: Geometry) -> None:
    """Outside, on one spot, unseen, dashed or not: nothing raises."""
    size = {Geometry.KEYPOINTS: 8, Geometry.POLYGON: 6}.get(geometry, geometry.size or 0)
    for shape_K in (np.full(size, 50.0), np.linspace(-1e9, 1e9, size), np.array([1.0, 1, 9, 9, np.nan, np.nan, 5, 5])):
        for dash in (0.0, 1.0, 4.0):
            if geometry is Geometry.KEYPOINTS or not np.isnan(shape_K[:size]).any():
                sheet = Sheet(Image.new("RGB", (60, 60)), None)
                sheet.shape(shape_K[:size], geometry, LEGEND["false"], dash=dash)
                sheet.name(shape_K[:size], "name", LEGEND["false"])


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), st.integers(2, 6))
def test_ticks_hold_the_range(low: float, width: float, count: int) -> None:
    """Ticks rise evenly, the first and last enclose the range, and there are few of them."""
    ticks = nice_ticks(low, low + width, count)
    slack = 1e-6 * (ticks[1] - ticks[0])
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + width - slack
    assert 2 <= len(ticks) <= count + 3
    assert np.all(np.diff(ticks) > 0)


def test_smoothing_keeps_short_and_constant_series() -> None:
    """Under 20 points nothing is averaged; a constant stays itself, ends included; a spike is spread."""
    assert smooth(np.arange(19.0)).tolist() == list(range(19))
    assert smooth(np.full(100, 0.25)) == pytest.approx(np.full(100, 0.25))
    spike = smooth(np.eye(1, 41, 20)[0])
    assert spike.max() == pytest.approx(1 / 5)
    assert spike.sum() == pytest.approx(1)


def test_chart_leaves_out_what_is_not_a_number_and_says_so() -> None:
    """NaN, infinity and None are not drawn but counted; the last finite value stands beside the name."""
    values = [0.5, math.nan, 0.75, math.inf, None]
    chart = line_chart("kl", Series(steps=[1, 2, 3, 4, 5], values=values))  # type: ignore[arg-type]
    assert "3 not finite" in chart
    assert "<b>0.75</b>" in chart
    assert "nan" not in chart
    assert "inf" not in chart
    assert "no data" in line_chart("kl", Series(steps=[1], values=[math.nan]))
    assert "no data" in line_chart("kl", Series(steps=[], values=[]))


@pytest.mark.parametrize(
    "values", [[0.0], [1.0, 1.0], [-3.0, -3.0, -3.0], [1.0, 1.0 + 1e-15], [1e-12, 2e-12], [0.0, 5e-324]]
)
@pytest.mark.parametrize("is_large", [False, True])
def test_chart_of_nearly_nothing_has_finite_places(values: list[float], is_large: bool) -> None:
    """One step, one value, differences of rounding: no place in the drawing is NaN."""
    chart = line_chart("reward", Series(steps=range(len(values)), values=values), is_large=is_large)
    assert "nan" not in chart
    assert "inf" not in chart


def test_long_series_are_thinned_and_names_escaped() -> None:
    """A hundred thousand steps make a drawing of at most 400 dots; a name from outside stays text."""
    chart = line_chart("<b>&", Series(steps=range(100_000), values=np.linspace(0, 1, 100_000).tolist()))
    assert chart.count("h0") == MAX_POINTS
    assert "&lt;b&gt;&amp;" in chart
    assert "<b>&" not in chart
    assert ">0</span>" in chart
    assert ">99999</span>" in chart
