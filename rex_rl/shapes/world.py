"""The synthetic world `shapes`: crowded pictures of outlined shapes, or of short words, made from a seed.

A scene holds 4 to 20 objects of a few labels, 8 on average. Half of the scenes are scattered, half stand in columns
whose objects share x0: answers are written in ascending x0, so the order inside a column is a tie, and a model that was
only teacher-forced loses count there. It repeats boxes and misses others, as the paper saw on VisDrone.

Detection asks for boxes of all objects, pointing for a point in each (their boxes are the truth), visual prompting for
all objects of a label by one or two examples, OCR for the words of a scene of words: one to three letters each, of a
few letters that do not look alike.

The canvas brightens in red to the right and in green downwards. Qwen2.5-VL's positions are relative (rotary)
everywhere; without a cue in the pixels a model of a few million parameters does not learn to localise in minutes.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rex_rl.errors import UserError
from rex_rl.shapes.png import write_png

IMAGE_SIDE_PX = 196
"""Side of a scene: 7 x 7 merged vision patches of 28 px, so the processor never resizes it."""

LOOKS = {
    "red circle": (255, 40, 40),
    "blue square": (50, 70, 255),
    "white triangle": (250, 250, 250),
}
"""Label -> colour of its outline. Three are enough: what is hard here is to count, not to tell things apart."""
LABELS = tuple(LOOKS)
LINE_PX = 2
MAX_IOU = 0.3
"""No two objects overlap more, whatever their labels: a hidden outline teaches nothing."""
MIN_RECORDS_SHARED, RECORDS_A_PIECE, POLL_S = 256, 32, 0.2
"""From so many records on all cores draw, so many at a time: a process takes as long to start as 60 records."""


LETTERS = "ACEHLOSTXZ"
MAX_LETTERS = 3
MIN_WORDS, MAX_WORDS = 2, 7
LETTER_WIDTH_PX, LETTER_HEIGHT_PX, WORD_MARGIN_PX = (13, 19), (20, 31), 4
"""Bounds of a letter's cell, and the margin around a word, or two would read as one. A patch is 14 px."""
FONT_PX = 96
"""Words are drawn at this size and shrunk to their boxes: Pillow's own font, which needs no file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What is on one canvas: `labels[i]` has the box `boxes_N4[i]` = [x0, y0, x1, y1] in pixels."""

    labels: tuple[str, ...]
    boxes_N4: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneKind:
    """How scenes are drawn: bounds on the number of objects, on their sides in pixels, and the share of columns."""

    min_objects: int = 4
    max_objects: int = 20
    min_side_px: int = 20
    max_side_px: int = 40
    max_labels: int = 3
    column_share: float = 0.5


def _iou_1N(box_4: np.ndarray, boxes_N4: np.ndarray) -> np.ndarray:
    overlap_N2 = np.minimum(box_4[2:], boxes_N4[:, 2:]) - np.maximum(box_4[:2], boxes_N4[:, :2])
    overlap_N = np.prod(np.clip(overlap_N2, 0, None), axis=1)
    return overlap_N / (np.prod(box_4[2:] - box_4[:2]) + np.prod(boxes_N4[:, 2:] - boxes_N4[:, :2], axis=1) - overlap_N)


class _Placer:
    """Adds boxes one at a time and refuses those that hide another."""

    def __init__(self, max_iou: float = MAX_IOU) -> None:
        self._max_iou = max_iou
        self.labels: list[str] = []
        self.boxes_N4 = np.zeros((0, 4))

    def add(self, label: str, box: tuple[float, float, float, float]) -> None:
        box_4 = np.array(box, dtype=float)
        if box_4[2] > IMAGE_SIDE_PX - 1 or box_4[3] > IMAGE_SIDE_PX - 1:
            return
        if (_iou_1N(box_4, self.boxes_N4) > self._max_iou).any():
            return
        self.labels.append(label)
        self.boxes_N4 = np.vstack([self.boxes_N4, box_4])


def sample_scene(rng: np.random.Generator, kind: SceneKind) -> Scene:
    """Draw one scene; the same generator state gives the same scene."""
    palette = rng.choice(LABELS, size=rng.integers(1, kind.max_labels + 1), replace=False)
    spread = kind.max_objects + 1 - kind.min_objects
    wanted = kind.min_objects + int(spread * rng.random() ** 3)  # a quarter of the way on average, with a long tail
    placer = _Placer()
    if rng.random() < kind.column_share:
        _fill_columns(rng, kind, placer, palette, wanted)
    for _ in range(wanted * 12):  # a full canvas refuses many tries; a dozen each fill it in practice
        if len(placer.labels) >= wanted:
            break
        placer.add(str(rng.choice(palette)), _random_box(rng, kind))
    order = rng.permutation(len(placer.labels))  # annotation order says nothing about place
    return Scene(labels=tuple(placer.labels[i] for i in order), boxes_N4=placer.boxes_N4[order])


def _random_box(rng: np.random.Generator, kind: SceneKind) -> tuple[float, float, float, float]:
    w, h = rng.integers(kind.min_side_px, kind.max_side_px + 1, size=2)
    x0, y0 = rng.integers(0, IMAGE_SIDE_PX - w), rng.integers(0, IMAGE_SIDE_PX - h)
    return float(x0), float(y0), float(x0 + w), float(y0 + h)


def _fill_columns(rng: np.random.Generator, kind: SceneKind, placer: _Placer, palette: np.ndarray, wanted: int) -> None:
    x0 = int(rng.integers(2, 50))
    while len(placer.labels) < wanted and x0 + kind.min_side_px < IMAGE_SIDE_PX:
        label, y0, widest = str(rng.choice(palette)), int(rng.integers(0, 24)), 0
        while len(placer.labels) < wanted and y0 + kind.min_side_px < IMAGE_SIDE_PX:
            w, h = (int(side) for side in rng.integers(kind.min_side_px, kind.max_side_px + 1, size=2))
            placer.add(label, (x0, y0, x0 + w, y0 + h))
            y0, widest = y0 + h + int(rng.integers(1, 10)), max(widest, w)
        x0 += widest + int(rng.integers(2, 12))


def draw_scene(rng: np.random.Generator, scene: Scene) -> Image.Image:
    """Render a scene of shapes on the gradient canvas with a little pixel noise, as an RGB image."""
    image = _canvas(rng)
    pen = ImageDraw.Draw(image)
    for label, box_4 in zip(scene.labels, scene.boxes_N4, strict=True):
        form, outline = label.split(" ")[1], LOOKS[label]
        x0, y0, x1, y1 = box_4
        if form == "circle":
            pen.ellipse((x0, y0, x1 - 1, y1 - 1), outline=outline, width=LINE_PX)
        elif form == "square":
            pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=outline, width=LINE_PX)
        else:
            corners = [((x0 + x1 - 1) / 2, y0), (x1 - 1, y1 - 1), (x0, y1 - 1)]
            pen.polygon(corners, outline=outline, width=LINE_PX)
    return image


def _canvas(rng: np.random.Generator) -> Image.Image:
    canvas = rng.normal(0, 4, size=(IMAGE_SIDE_PX, IMAGE_SIDE_PX, 3))
    canvas += _ramps()
    return Image.fromarray(np.clip(canvas, 0, 255, out=canvas).astype(np.uint8))


@cache
def _ramps() -> np.ndarray:
    """[side, side, 3] the canvas without its noise."""
    ramp = np.linspace(30, 170, IMAGE_SIDE_PX)
    return np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], 80.0), axis=-1)


def sample_words(rng: np.random.Generator) -> Scene:
    """Draw one scene of words that stand apart; the labels are the words, several of which may be alike."""
    placer = _Placer(max_iou=0.0)
    wanted = int(rng.integers(MIN_WORDS, MAX_WORDS + 1))
    for _ in range(wanted * 12):
        if len(placer.labels) >= wanted:
            break
        word = "".join(rng.choice(list(LETTERS), size=rng.integers(1, MAX_LETTERS + 1)))
        width = len(word) * int(rng.integers(*LETTER_WIDTH_PX, endpoint=True)) + 2 * WORD_MARGIN_PX
        height = int(rng.integers(*LETTER_HEIGHT_PX, endpoint=True)) + 2 * WORD_MARGIN_PX
        x0, y0 = rng.integers(0, IMAGE_SIDE_PX - width), rng.integers(0, IMAGE_SIDE_PX - height)
        placer.add(word, (float(x0), float(y0), float(x0 + width), float(y0 + height)))
    inner_N4 = placer.boxes_N4 + WORD_MARGIN_PX * np.array([1, 1, -1, -1])
    return Scene(labels=tuple(placer.labels), boxes_N4=inner_N4)


def draw_words(rng: np.random.Generator, scene: Scene) -> Image.Image:
    """Render a scene of words, each stretched to its box in one of the shapes' colours, as an RGB image."""
    image, font = _canvas(rng), ImageFont.load_default(FONT_PX)
    for word, box_4 in zip(scene.labels, scene.boxes_N4.astype(int).tolist(), strict=True):
        stencil = Image.new("L", (len(word) * FONT_PX, 2 * FONT_PX))
        ImageDraw.Draw(stencil).text((0, 0), word, fill=255, font=font)
        stencil = stencil.crop(stencil.getbbox())  # to the ink
        x0, y0, x1, y1 = box_4
        ink = LOOKS[str(rng.choice(LABELS))]
        image.paste(ink, (x0, y0, x1, y1), stencil.resize((x1 - x0, y1 - y0), Image.Resampling.BOX))
    return image


def asked_categories(rng: np.random.Generator, scene: Scene) -> tuple[str, ...]:
    """The labels of a scene and, half the time, one absent label if there is any (answered `None`)."""
    present = list(dict.fromkeys(scene.labels))
    absent = [label for label in LABELS if label not in present]
    if absent and rng.random() < 1 / 2:
        present.append(str(rng.choice(absent)))
    return tuple(str(label) for label in rng.permutation(present))


def sample_record(rng: np.random.Generator, kind: SceneKind, task: str) -> tuple[Image.Image, dict[str, Any]]:
    """Draw one picture, and the fields of its record that the task needs."""
    scene = sample_words(rng) if task == "ocr_box" else sample_scene(rng, kind)
    image = draw_words(rng, scene) if task == "ocr_box" else draw_scene(rng, scene)
    fields: dict[str, Any] = {"task": task}
    kept = list(range(len(scene.labels)))
    if task == "ocr_box":
        fields["categories"] = ["word"]
    elif task == "visual_prompting":
        label = str(rng.choice(scene.labels))
        kept = [i for i in kept if scene.labels[i] == label]
        examples = rng.permutation(kept)[: rng.integers(1, 3)]
        fields |= {"categories": [label], "visual_prompt": scene.boxes_N4[examples].tolist()}
    else:
        fields["categories"] = list(asked_categories(rng, scene))
    return image, fields | {"objects": [{"label": scene.labels[i], "bbox": scene.boxes_N4[i].tolist()} for i in kept]}


def write_split(
    folder: Path,
    *,
    name: str,
    num_images: int,
    seed: int,
    tasks: Sequence[str] = ("detection",),
    kind: SceneKind = SceneKind(),
) -> Path:
    """Write `num_images` scenes a task as `images/NAME_000000.png` plus `NAME.jsonl`, like any user's data set.

    Tasks take turns. Every image has its own generator, seeded by (seed, index): a longer split starts with the
    shorter one.

    Raises:
        UserError: the folder cannot be written to.
    """
    write, numbers = partial(_write_record, folder, name, seed, tasks, kind), range(num_images * len(tasks))
    file = folder / f"{name}.jsonl"
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        lines = list(map(write, numbers)) if len(numbers) < MIN_RECORDS_SHARED else _on_all_cores(write, numbers)
        beside = file.with_suffix(".partial")
        beside.write_text("".join(json.dumps(line) + "\n" for line in lines))
        beside.replace(file)  # where the file is, its split is whole
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return file


def _on_all_cores(write: Callable[[int], dict[str, Any]], numbers: Sequence[int]) -> list[dict[str, Any]]:
    """What `write` gives for each number. A pool that lost a process would wait for its share for ever."""
    with get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:  # a fork would copy locks of other threads
        workers = active_children()
        drawing = pool.map_async(write, numbers, chunksize=RECORDS_A_PIECE)
        while not drawing.ready():
            drawing.wait(POLL_S)
            if not all(worker.is_alive() for worker in workers):
                raise UserError("a process that draws the synthetic world has ended: out of memory, or no main module")
        return drawing.get()


def _write_record(
    folder: Path, name: str, seed: int, tasks: Sequence[str], kind: SceneKind, index: int
) -> dict[str, Any]:
    """Draw one picture into its file; returns its record."""
    rng = np.random.default_rng([seed, index])
    path = folder / "images" / f"{name}_{index:06d}.png"
    image, fields = sample_record(rng, kind, tasks[index % len(tasks)])
    write_png(image, path)
    about = {"id": path.stem, "image": f"images/{path.name}", "width": IMAGE_SIDE_PX, "height": IMAGE_SIDE_PX}
    return about | fields
