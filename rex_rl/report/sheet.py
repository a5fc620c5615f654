"""A sheet to draw shapes and their names on with Pillow.

Every line has a dark rim, so that it stands out on any photograph. Axes: K numbers of a shape, V points of it.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rex_rl.language.tasks import Geometry

MIN_SIDE_PX = 420
"""Smaller images are enlarged before drawing: at 196 px a name is as large as the object it names."""
MAX_NAME_LENGTH = 28
RIM = (0, 0, 0, 150)
BACKING = (12, 16, 20, 190)


def drawing_scale(size: tuple[int, int], *, max_side_px: int | None = None) -> float:
    """The factor from image pixels to drawn pixels: a whole number >= 1 for small images, at most 1 for large ones.

    The longer side becomes at least 420 px, and at most `max_side_px` where that is given.

    >>> drawing_scale((196, 196)), drawing_scale((4000, 3000)), drawing_scale((4000, 3000), max_side_px=1000)
    (3.0, 1.0, 0.25)
    """
    longer = max(size)
    enlarged = float(-(-MIN_SIDE_PX // longer)) if longer < MIN_SIDE_PX else 1.0
    return enlarged if max_side_px is None else min(enlarged, max_side_px / longer)


class Sheet:
    """A canvas that takes shapes in image pixels and draws them in line widths that fit its size."""

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

    def shape(
        self, shape_K: np.ndarray, geometry: Geometry, colour: str, *, dash: float = 0.0, thickness: float = 1.0
    ) -> None:
        """Draw one shape, as `rex_rl.language.grid.geometry_of` has it; `thickness` and `dash` as in `box`."""
        points_V2 = np.asarray(shape_K, dtype=float).reshape(-1, 2)
        if geometry is Geometry.POLYGON:
            self._polygon(points_V2, colour, dash=dash, thickness=thickness)
        elif geometry is Geometry.POINT:
            self._dots(points_V2, colour, radius=2.5 * thickness, is_hollow=dash > 0)
        else:
            self.box(points_V2[:2].ravel(), colour, dash=dash, thickness=thickness)
            self._dots(points_V2[2:], colour, radius=1.5 * thickness, is_hollow=dash > 0)

    def _polygon(self, points_V2: np.ndarray, colour: str, *, dash: float, thickness: float) -> None:
        width, rim = max(1, int(thickness * self._line_px)), max(1, self._line_px // 4)
        corners_V2 = np.clip(points_V2 * self._scale, 0, np.array(self.canvas.size) - 1)
        strokes = [
            stroke
            for start_2, end_2 in zip(corners_V2, np.roll(corners_V2, -1, axis=0), strict=True)
            for stroke in _dashes(start_2, end_2, dash * self._line_px)
        ]
        for fill, stroke_width in ((RIM, width + 2 * rim), (colour, width)):
            for stroke in strokes:
                self._pen.line(stroke, fill=fill, width=stroke_width)

    def _dots(self, points_V2: np.ndarray, colour: str, *, radius: float, is_hollow: bool) -> None:
        """Discs, or rings with a hole to look through; none for points that are NaN."""
        rim, outer = max(1, self._line_px // 4), max(2.0, radius * self._line_px)
        for x, y in points_V2[np.isfinite(points_V2).all(axis=1)] * self._scale:
            x, y = np.clip((x, y), 0, np.array(self.canvas.size) - 1)
            self._pen.ellipse(
                (x - outer - rim, y - outer - rim, x + outer + rim, y + outer + rim), outline=RIM, width=rim
            )
            fill, width = (None, max(1, int(outer / 2))) if is_hollow else (colour, 1)
            self._pen.ellipse((x - outer, y - outer, x + outer, y + outer), fill=fill, outline=colour, width=width)

    def box(self, box_4: np.ndarray, colour: str, *, dash: float = 0.0, thickness: float = 1.0) -> None:
        """Draw one outline; `thickness` and `dash` are in line widths, dash 0 is a solid line."""
        width = max(1, int(thickness * self._line_px))
        strokes = _strokes(self._drawn(box_4), width, round(dash * self._line_px))
        rim = max(1, self._line_px // 4)
        for x0, y0, x1, y1 in strokes:
            self._pen.rectangle((x0 - rim, y0 - rim, x1 + rim, y1 + rim), fill=RIM)
        for stroke in strokes:
            self._pen.rectangle(stroke, fill=colour)

    def name(self, shape_K: np.ndarray, label: str, colour: str) -> None:
        """Write a label at its shape where no other name stands: above, below, inside; above when all are taken."""
        text = " ".join(label.split())
        if len(text) > MAX_NAME_LENGTH:
            text = text[: MAX_NAME_LENGTH - 3] + "..."
        left, top, right, bottom = (round(edge) for edge in self._font.getbbox(text))
        pad = self._line_px
        width, height = right - left + 2 * pad, bottom - top + 2 * pad
        x0, y0, _, y1 = self._drawn(bounds(shape_K))
        if len(shape_K) == 2:  # beside the disc, not on it
            x0, y0, y1 = x0 - 3 * pad, y0 - 3 * pad, y1 + 3 * pad
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


def bounds(shape_K: np.ndarray) -> np.ndarray:
    """The box [4] around a shape; points that are NaN do not count.

    >>> bounds(np.array([5.0, 5.0, 9.0, 6.0, 7.0, 1.0]))
    array([5., 1., 9., 6.])
    """
    points_V2 = np.asarray(shape_K, dtype=float).reshape(-1, 2)
    points_V2 = points_V2[np.isfinite(points_V2).all(axis=1)]
    return np.concatenate([points_V2.min(axis=0), points_V2.max(axis=0)])


def _dashes(start_2: np.ndarray, end_2: np.ndarray, length: float) -> list[tuple[float, ...]]:
    """A line (x0, y0, x1, y1), cut into an odd number of dashes and gaps of about `length` where that is above 0."""
    distance = float(np.hypot(*(end_2 - start_2)))
    num = 2 * math.ceil(distance / length / 2) - 1 if length and distance else 1
    cuts = [tuple(start_2 + (end_2 - start_2) * (place / max(num, 1))) for place in range(max(num, 1) + 1)]
    return [(*cuts[place], *cuts[place + 1]) for place in range(0, max(num, 1), 2)]
