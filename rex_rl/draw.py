"""Pictures: boxes over an image with Pillow (predictions by label, an answer beside the truth), curves as inline SVG.

Colours are from the Okabe-Ito palette, which stays apart for every common kind of colour blindness (Okabe and Ito,
Color Universal Design, 2008), and white. Kinds differ by line too: solid for what was said once, dashes for copies (so
that the box below shows through), dots for what was not said, thin for the truth that was found. Every line has a dark
rim, so it stands out on any photograph.

Axes: A said boxes and B true boxes of one image, K points of a curve. Boxes are [x0, y0, x1, y1] in pixels of the
original image.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from rex_rl.evaluation import ImageResult, match_image

LEGEND: Mapping[str, str] = {
    "true": "#FFFFFF",
    "matched": "#56B4E9",
    "duplicate": "#CC79A7",
    "false": "#E69F00",
    "missed": "#F0E442",
}
"""Kind of box -> colour. Matched, duplicate and false are said boxes; a true box is drawn as true where one matched it
and as missed where none did."""
LABEL_COLOURS = ("#56B4E9", "#E69F00", "#F0E442", "#CC79A7", "#009E73", "#D55E00", "#0072B2")
"""Okabe-Ito without black, the brightest first; labels beyond the seventh share colours."""
MIN_SIDE_PX = 420
"""Smaller images are enlarged before drawing: at 196 px a name is as large as the object it names."""
MAX_NAME_LENGTH = 28
MAX_POINTS = 400
"""A chart is at most 1,000 px wide; longer series are averaged in equal parts before drawing."""
RIM = (0, 0, 0, 150)
BACKING = (12, 16, 20, 190)


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """One metric over the steps of its stage; both of the same length. Values may be NaN: they are left out, and said.

    `Series(steps=[1, 2], values=[0.41, 0.44])`
    """

    steps: Sequence[float]
    values: Sequence[float]


def drawing_scale(size: tuple[int, int], *, max_side_px: int | None = None) -> float:
    """The factor from image pixels to drawn pixels: a whole number >= 1 for small images, at most 1 for large ones.

    The longer side becomes at least 420 px, and at most `max_side_px` where that is given.

    >>> drawing_scale((196, 196)), drawing_scale((4000, 3000)), drawing_scale((4000, 3000), max_side_px=1000)
    (3.0, 1.0, 0.25)
    """
    longer = max(size)
    enlarged = float(-(-MIN_SIDE_PX // longer)) if longer < MIN_SIDE_PX else 1.0
    return enlarged if max_side_px is None else min(enlarged, max_side_px / longer)


def box_kinds(result: ImageResult, threshold: float = 0.5) -> tuple[str, ...]:
    """[A] what each said box is, a key of `LEGEND`: matched, else duplicate, else false.

    A copy that took a true box of its own is drawn as matched, though `duplicate_rate` counts it.
    """
    matched = match_image(result, threshold)
    return tuple(
        "matched" if truth >= 0 else "duplicate" if is_duplicate else "false"
        for truth, is_duplicate in zip(matched.truth_of_said_A, matched.is_duplicate_A, strict=True)
    )


def count_kinds(result: ImageResult, threshold: float = 0.5) -> dict[str, int]:
    """How many boxes of each kind; true = matched + missed, said = matched + duplicate + false."""
    kinds, num_true = box_kinds(result, threshold), len(result.truth_labels)
    counts = {kind: kinds.count(kind) for kind in LEGEND}
    return counts | {"true": num_true, "missed": num_true - counts["matched"]}


def overlay(image: Image.Image, result: ImageResult, *, scale: float | None = None) -> Image.Image:
    """The image with all true and said boxes, matched at IoU 0.5, in the colours of `LEGEND`, as RGB.

    `scale` is drawn pixels per image pixel; None enlarges small images and leaves others as they are.
    """
    sheet = _Sheet(image, scale)
    is_found_B, kinds = match_image(result).is_found_B, box_kinds(result)
    for box_4 in result.truth_N4[is_found_B]:
        sheet.box(box_4, LEGEND["true"], thickness=0.5)
    for box_4 in result.truth_N4[~is_found_B]:
        sheet.box(box_4, LEGEND["missed"], dash=1.0)
    for kind, dash in (("false", 0.0), ("matched", 0.0), ("duplicate", 4.0)):
        for box_4, its_kind in zip(result.said_N4, kinds, strict=True):
            if its_kind == kind:
                sheet.box(box_4, LEGEND[kind], dash=dash)
    for label, box_4, is_found in zip(result.truth_labels, result.truth_N4, is_found_B, strict=True):
        if not is_found:
            sheet.name(box_4, label, LEGEND["missed"])
    for label, box_4, kind in zip(result.said_labels, result.said_N4, kinds, strict=True):
        sheet.name(box_4, label, LEGEND[kind])
    return sheet.canvas


def draw_predictions(image: Image.Image, labels: Sequence[str], boxes_N4: np.ndarray) -> Image.Image:
    """The image with the boxes of an answer, one colour a label in the order they first appear, as RGB.

    An image whose longer side is under 420 px comes back enlarged by a whole number, others at their own size.
    """
    sheet, known = _Sheet(image, None), list(dict.fromkeys(labels))
    colours = [LABEL_COLOURS[known.index(label) % len(LABEL_COLOURS)] for label in labels]
    for box_4, colour in zip(boxes_N4, colours, strict=True):
        sheet.box(box_4, colour)
    for label, box_4, colour in zip(labels, boxes_N4, colours, strict=True):
        sheet.name(box_4, label, colour)
    return sheet.canvas


class _Sheet:
    """A canvas that takes boxes in image pixels and draws them in line widths that fit its size."""

    def __init__(self, image: Image.Image, scale: float | None) -> None:
        self._scale = drawing_scale(image.size) if scale is None else scale
        size = tuple(max(1, round(side * self._scale)) for side in image.size)
        self.canvas = image.convert("RGB").resize((size[0], size[1]), Image.Resampling.LANCZOS)
        longer = max(self.canvas.size)
        self._line_px = max(2, round(longer / 220))
        self._font = ImageFont.load_default(max(10, longer / 52))
        self._pen = ImageDraw.Draw(self.canvas, "RGBA")
        self._names: list[tuple[int, int, int, int]] = []

    def _drawn(self, box_4: np.ndarray) -> tuple[int, int, int, int]:
        """Corners in drawn pixels, put in order and inside the canvas."""
        limit = np.array([*self.canvas.size, *self.canvas.size]) - 1
        corners_22 = np.clip(np.rint(box_4 * self._scale), 0, limit).astype(int).reshape(2, 2)
        (x0, y0), (x1, y1) = corners_22.min(axis=0), corners_22.max(axis=0)
        return int(x0), int(y0), int(x1), int(y1)

    def box(self, box_4: np.ndarray, colour: str, *, dash: float = 0.0, thickness: float = 1.0) -> None:
        """Draw one outline; `thickness` and `dash` are in line widths, dash 0 is a solid line."""
        width = max(1, int(thickness * self._line_px))
        strokes = _strokes(self._drawn(box_4), width, round(dash * self._line_px))
        rim = max(1, self._line_px // 4)
        for x0, y0, x1, y1 in strokes:
            self._pen.rectangle((x0 - rim, y0 - rim, x1 + rim, y1 + rim), fill=RIM)
        for stroke in strokes:
            self._pen.rectangle(stroke, fill=colour)

    def name(self, box_4: np.ndarray, label: str, colour: str) -> None:
        """Write a label at its box where no other name stands: above, below, inside; above when all are taken."""
        text = " ".join(label.split())
        if len(text) > MAX_NAME_LENGTH:
            text = text[: MAX_NAME_LENGTH - 3] + "..."
        left, top, right, bottom = (round(edge) for edge in self._font.getbbox(text))
        pad = self._line_px
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x0, y0, _, y1 = self._drawn(box_4)
        places = [self._place(x0, y, width, height) for y in (y0 - height, y1 + 1, y0 + self._line_px + 1)]
        place = next((place for place in places if not any(_overlap(place, name) for name in self._names)), places[0])
        self._names.append(place)
        self._pen.rectangle(place, fill=BACKING)
        self._pen.text((place[0] + pad - left, place[1] + pad - top), text, fill=colour, font=self._font)

    def _place(self, x: int, y: int, width: int, height: int) -> tuple[int, int, int, int]:
        """A rectangle of this size at (x, y), pushed inside the canvas."""
        x = max(0, min(x, self.canvas.width - width))
        y = max(0, min(y, self.canvas.height - height))
        return x, y, x + width - 1, y + height - 1


def _strokes(box: tuple[int, int, int, int], width: int, length: int) -> list[tuple[int, int, int, int]]:
    """The filled rectangles of an outline drawn inward from `box`: its sides, cut into dashes where `length` > 0."""
    x0, y0, x1, y1 = box
    step_x, step_y = (length, length) if length else (x1 - x0 + 1, y1 - y0 + 1)
    strokes = []
    for x in range(x0, x1 + 1, 2 * step_x):
        end = min(x + step_x - 1, x1)
        strokes += [(x, y0, end, min(y0 + width - 1, y1)), (x, max(y1 - width + 1, y0), end, y1)]
    for y in range(y0, y1 + 1, 2 * step_y):
        end = min(y + step_y - 1, y1)
        strokes += [(x0, y, min(x0 + width - 1, x1), end), (max(x1 - width + 1, x0), y, x1, end)]
    return strokes


def _overlap(first: tuple[int, int, int, int], second: tuple[int, int, int, int]) -> bool:
    return first[0] <= second[2] and second[0] <= first[2] and first[1] <= second[3] and second[1] <= first[3]


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
    phone. The page brings the style of the classes used here (`rex_rl/report.py`).
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
