"""Pictures: shapes over an image with Pillow (predictions by label, an answer beside the truth), curves as inline SVG.

Colours are from the Okabe-Ito palette, which stays apart for every common kind of colour blindness (Okabe and Ito,
Color Universal Design, 2008), and white. Kinds differ by line too: solid for predictions, dashes for duplicates (so
that the shape below shows through), dots for truth that was missed, thin for truth that was found. Points have rings in
place of dashes and dots.

Axes: A predicted shapes and B true shapes of one image, K numbers of a shape or points of a curve. All in pixels of the
original image, as `rex_rl.language.grid.geometry_of` has them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from rex_rl.evaluation.figures import match_image
from rex_rl.evaluation.image_result import ImageResult
from rex_rl.language.grid import geometry_of
from rex_rl.language.tasks import Geometry
from rex_rl.report.sheet import Sheet
from rex_rl.types import Box, Object

LEGEND: Mapping[str, str] = {
    "true": "#FFFFFF",
    "matched": "#56B4E9",
    "duplicate": "#CC79A7",
    "false": "#E69F00",
    "missed": "#F0E442",
}
"""Kind of box -> colour. Matched, duplicate and false are predicted boxes; a true box is drawn as true where one
matched it and as missed where none did."""
LABEL_COLOURS = ("#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")
"""Okabe-Ito without black, the brightest first; labels beyond the seventh share colours."""
PROMPT_COLOUR = "#FFFFFF"
MAX_POINTS = 400
"""A chart is at most 1,000 px wide; longer series are averaged in equal parts before drawing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One metric over the steps of its stage; both of the same length. NaN values are left out and counted.

    `Series(steps=[1, 2], values=[0.41, 0.44])`
    """

    steps: Sequence[float]
    values: Sequence[float]


def box_kinds(result: ImageResult, threshold: float = 0.5) -> tuple[str, ...]:
    """[A] what each predicted box is, a key of `LEGEND`: matched, else duplicate, else false.

    A duplicate that took a true box of its own is drawn as matched, though `duplicate_rate` counts it.
    """
    matched = match_image(result, threshold)
    return tuple(
        "matched" if truth >= 0 else "duplicate" if is_duplicate else "false"
        for truth, is_duplicate in zip(matched.truth_of_predicted_A, matched.is_duplicate_A, strict=True)
    )


def count_kinds(result: ImageResult, threshold: float = 0.5) -> dict[str, int]:
    """How many boxes of each kind; true = matched + missed, predicted = matched + duplicate + false."""
    kinds, num_true = box_kinds(result, threshold), len(result.truth_labels)
    counts = {kind: kinds.count(kind) for kind in LEGEND}
    return counts | {"true": num_true, "missed": num_true - counts["matched"]}


def overlay(
    image: Image.Image,
    result: ImageResult,
    *,
    scale: float | None = None,
    visual_prompt: Sequence[Box] = (),
) -> Image.Image:
    """The image with all true and predicted shapes, matched at IoU 0.5, in the colours of `LEGEND`, as RGB.

    `scale` is drawn pixels per image pixel; None enlarges small images and leaves others as they are.
    """
    sheet = Sheet(image, scale)
    is_found_B, kinds = match_image(result).is_found_B, box_kinds(result)
    _draw_prompt(sheet, visual_prompt)
    for shape_K in result.truth_NK[is_found_B]:
        sheet.shape(shape_K, result.truth_geometry, LEGEND["true"], thickness=0.5)
    for shape_K in result.truth_NK[~is_found_B]:
        sheet.shape(shape_K, result.truth_geometry, LEGEND["missed"], dash=1.0)
    for kind, dash in (("false", 0.0), ("matched", 0.0), ("duplicate", 4.0)):
        for shape_K, its_kind in zip(result.predicted_NK, kinds, strict=True):
            if its_kind == kind:
                sheet.shape(shape_K, result.geometry, LEGEND[kind], dash=dash)
    for label, shape_K, is_found in zip(result.truth_labels, result.truth_NK, is_found_B, strict=True):
        if not is_found:
            sheet.name(shape_K, label, LEGEND["missed"])
    for label, shape_K, kind in zip(result.predicted_labels, result.predicted_NK, kinds, strict=True):
        sheet.name(shape_K, label, LEGEND[kind])
    return sheet.canvas


def draw_objects(image: Image.Image, objects: Sequence[Object], visual_prompt: Sequence[Box] = ()) -> Image.Image:
    """The image with the objects of an answer, one colour a label in the order they first appear, as RGB.

    Each is drawn with what it has: polygon, key points with their box, box, or point. The boxes of a visual prompt are
    dashed. An image whose longer side is under 420 px comes back enlarged by a whole number, others at their own size.
    """
    sheet, known = Sheet(image, None), list(dict.fromkeys(thing.label for thing in objects))
    _draw_prompt(sheet, visual_prompt)
    drawn = []
    for thing in objects:
        geometry = _geometry_of(thing)
        (shape_K,) = geometry_of([thing], geometry, len(thing.keypoints or ()))
        drawn.append((thing.label, shape_K, LABEL_COLOURS[known.index(thing.label) % len(LABEL_COLOURS)]))
        sheet.shape(shape_K, geometry, drawn[-1][2])
    for label, shape_K, colour in drawn:
        sheet.name(shape_K, label, colour)
    return sheet.canvas


def _draw_prompt(sheet: Sheet, boxes: Sequence[Box]) -> None:
    for box in boxes:
        sheet.box(np.array(box), PROMPT_COLOUR, dash=4.0)
        sheet.name(np.array(box), "example", PROMPT_COLOUR)


def _geometry_of(thing: Object) -> Geometry:
    if thing.polygon is not None:
        return Geometry.POLYGON
    if thing.keypoints is not None:
        return Geometry.KEYPOINTS
    return Geometry.BOX if thing.bbox is not None else Geometry.POINT


def finite_points(series: Series) -> np.ndarray:
    """[K, 2] the points (step, value) that are numbers, in order of step."""
    points_K2 = np.array(list(zip(series.steps, series.values, strict=True)), dtype=float).reshape(-1, 2)
    points_K2 = points_K2[np.isfinite(points_K2).all(axis=1)]
    return np.asarray(points_K2[np.argsort(points_K2[:, 0], kind="stable")])


def nice_ticks(low: float, high: float, count: int) -> list[float]:
    """Round numbers from `low` or below to `high` or above, about `count` intervals of 1, 2 or 5 times a power of ten.

    >>> nice_ticks(0.47, 0.62, 3), nice_ticks(0.0, 0.0, 3)
    ([0.45, 0.5, 0.55, 0.6, 0.65], [0.0, 0.5, 1.0])
    """
    tiny = 1e-300  # below it the power of ten rounds to 0
    if high - low <= 1e-9 * max(abs(low), abs(high)) + tiny:  # one value, but for rounding: ticks would coincide
        high = low + (abs(low) if abs(low) > tiny else 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if rough <= factor * power * 1.0001)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def smooth(values_K: np.ndarray) -> np.ndarray:
    """The centred mean over about a tenth of the points, fewer at the ends; as it is below 20 points."""
    half, one_K = len(values_K) // 20, np.ones(len(values_K))
    window = np.ones(2 * half + 1)
    return np.asarray(np.convolve(values_K, window, "same") / np.convolve(one_K, window, "same"))


def line_chart(name: str, series: Series, *, is_large: bool = False) -> str:
    """A chart of one metric as HTML: a faint dot a step, their moving mean as a line, the last value beside the name.

    The SVG is stretched to its frame with strokes that do not scale, and labels are HTML, so text keeps its size on a
    phone. The page brings the style of the classes used here (`rex_rl/report/page.py`).
    """
    points_K2 = finite_points(series)
    left_out = len(series.values) - len(points_K2)
    title = escape(name) + (f" <small>{left_out} not finite</small>" if left_out else "")
    if not len(points_K2):
        return f'<figure class="chart"><figcaption>{title}</figcaption><p class="note">no data</p></figure>'
    (first_step, first), (last_step, last) = points_K2[0], points_K2[-1]
    spoken = escape(f"{name}: {first:.4g} at step {first_step:g}, {last:.4g} at step {last_step:g}")
    thin_K2 = np.array([part.mean(axis=0) for part in np.array_split(points_K2, min(len(points_K2), MAX_POINTS))])
    style = ("large " if is_large else "") + ("few" if len(thin_K2) < 20 else "")
    return (
        f'<figure class="chart {style}"><figcaption>{title}<b>{last:.4g}</b></figcaption><div class="plot">'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="{spoken}">'
        f"{_plot(thin_K2, float(first_step), float(last_step), is_large)}</div></figure>"
    )


def _plot(points_K2: np.ndarray, x_low: float, x_high: float, is_large: bool) -> str:
    """Rules, dots and line in a frame of 100 x 100, and the labels of both axes."""
    steps_K, values_K = points_K2.T
    y_ticks = nice_ticks(float(values_K.min()), float(values_K.max()), 4 if is_large else 2)
    x_ticks = nice_ticks(x_low, x_high, 6) if is_large else list(dict.fromkeys((x_low, x_high)))
    x_ticks = [tick for tick in x_ticks if x_low <= tick <= x_high]

    def across(steps: ArrayLike) -> list[float]:
        return list(100 * (np.asarray(steps) - x_low) / (x_high - x_low or 1.0))

    def down(values: ArrayLike) -> list[float]:
        return list(100 - 100 * (np.asarray(values) - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]))

    x_K = across(steps_K)
    rules = "".join(f"M0 {y:.2f}h100" for y in down(y_ticks))
    dots = "".join(f"M{x:.2f} {y:.2f}h0" for x, y in zip(x_K, down(values_K), strict=True))
    line = "L".join(f"{x:.2f} {y:.2f}" for x, y in zip(x_K, down(smooth(values_K)), strict=True))
    paths = f'<path class="rule" d="{rules}"/><path class="dots" d="{dots}"/><path class="line" d="M{line}"/></svg>'
    y_places, x_places = zip(y_ticks, down(y_ticks), strict=True), zip(x_ticks, across(x_ticks), strict=True)
    y_labels = "".join(f'<span class="y" style="top:{y:.2f}%">{tick:g}</span>' for tick, y in y_places)
    return paths + y_labels + "".join(f'<span class="x" style="--x:{x:.2f}%">{tick:g}</span>' for tick, x in x_places)
