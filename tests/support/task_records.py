"""Records of every task, for laws that all tasks share: hypothesis strategies, a plain record each, and files."""

import json
import os
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from rewards.geometry.masks import Mask
from rex_rl.data.records import object_fields
from rex_rl.language.rle import compress
from rex_rl.language.tasks import TASKS, Geometry, Task
from rex_rl.types import Object, Record

SIDES = st.integers(1, 5000)
SHARES = st.floats(0, 1)
PLACES = st.tuples(SHARES, SHARES)
REACHES = st.tuples(SHARES, st.sampled_from([True, False]), SHARES)
"""Where a side begins, whether it is at most two pixels long, and what part of the longest it is."""
NAMES = ("cat", "red circle", 'a "b", (c) < d', "tv/monitor", "café", "person1x")
TEXTS = (
    st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=12)
    .map(lambda text: unicodedata.normalize("NFC", text).strip())
    .filter(bool)
)
"""As a reader returns them: composed (NFC), and without blanks around them."""


def record_of(task: str, *objects: Object, size: tuple[int, int] = (1000, 1000), **fields: Any) -> Record:
    """A record whose categories follow from its objects unless they are given."""
    labels = tuple(dict.fromkeys(thing.label for thing in objects))
    asked = TASKS[task].choices[:1] or labels or ("cat",)
    return Record(
        **{
            "id": "a",
            "image": "/images/a.png",
            "task": task,
            "categories": asked,
            "objects": objects,
            "width": size[0],
            "height": size[1],
            "source": "a.jsonl:1",
            "visual_prompt": ((0.0, 0.0, size[0] / 2, size[1] / 2),) if TASKS[task].takes_examples else (),
        }
        | fields
    )


@st.composite
def boxes(draw: st.DrawFn, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """A box with area anywhere in an image, however small."""
    corners = []
    for side, (start, is_short, share) in zip(size, draw(st.tuples(REACHES, REACHES)), strict=True):
        low = start * side
        high = min(low + share * (2 if is_short else side), float(side))
        corners.append((low, high) if low < high else (side * 0.5, side * 0.5 + 1e-6))
    (x0, x1), (y0, y1) = corners
    return x0, y0, x1, y1


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int]) -> Mask:
    """A mask with something in it."""
    rest = size[0] * size[1]
    runs: list[int] = []
    for share in draw(st.lists(SHARES, min_size=2, max_size=8)):
        if rest:
            shortest = min(len(runs), 1)  # only the first run, which is outside, may be empty
            longest = rest if runs else rest - 1
            runs.append(shortest + int(share * (longest - shortest)))
            rest -= runs[-1]
    return Mask(size, compress([*runs, rest] if rest else runs))


@st.composite
def geometries(draw: st.DrawFn, task: Task, size: tuple[int, int]) -> Mapping[str, Any]:
    """What an object of a task brings beside its label."""
    if task.geometry is Geometry.BOX:
        return {"bbox": draw(boxes(size))}
    if task.geometry is Geometry.POINT:
        x0, y0, x1, y1 = box = draw(boxes(size))
        x, y = draw(PLACES)
        inside = (min(x0 + x * (x1 - x0), x1), min(y0 + y * (y1 - y0), y1))
        chosen = draw(st.lists(st.sampled_from(["point", "bbox", "mask"]), min_size=1, unique=True))
        given = {"point": inside, "bbox": box, "mask": draw(masks(size)) if "mask" in chosen else None}
        return {name: given[name] for name in chosen}
    if task.geometry is Geometry.POLYGON:
        x0, y0, x1, y1 = draw(boxes(size))
        if (x1 - x0) * (y1 - y0) < 1e-5:  # refused at load
            x0, y0, x1, y1 = 0.0, 0.0, *map(float, size)
        return {"polygon": ((x0, y0), (x1, y0), (x1, y1), (x0, y1))[: draw(st.integers(3, 4))]}
    first, *others = task.keypoints
    seen = [draw(PLACES), *draw(st.lists(st.none() | PLACES, min_size=len(others), max_size=len(others)))]
    points = [None if place is None else (place[0] * size[0], place[1] * size[1]) for place in seen]
    return {"bbox": draw(boxes(size)), "keypoints": dict(zip([first, *others], points, strict=True))}


@st.composite
def records(draw: st.DrawFn, task: str) -> Record:
    """A record of one task, in any size, with few objects or none."""
    entry = TASKS[task]
    size = draw(SIDES), draw(SIDES)
    choices = entry.choices or NAMES
    num = 1 if entry.is_single else draw(st.integers(1, 3))
    categories = tuple(draw(st.permutations(choices)))[:num]
    labels = draw(st.lists(TEXTS if entry.reads_text else st.sampled_from(categories), max_size=5))
    objects = tuple(Object(label=label, **draw(geometries(entry, size))) for label in labels)
    return record_of(task, *objects, size=size, categories=categories)


def write_records(file: str | Path, records: Iterable[Record]) -> None:
    """Write records as JSON lines for `read_records`; paths of images below the file's folder become relative."""
    folder = Path(os.path.abspath(file)).parent
    with open(file, "w", encoding="utf-8") as stream:
        for record in records:
            stream.write(json.dumps(_fields(record, folder), allow_nan=False) + "\n")


def _fields(record: Record, folder: Path) -> dict[str, Any]:
    """The JSON object of a record."""
    image = Path(record.image)
    return {
        "id": record.id,
        "image": str(image.relative_to(folder) if image.is_relative_to(folder) else image),
        "width": record.width,
        "height": record.height,
        "task": record.task,
        "categories": list(record.categories),
        "objects": [object_fields(thing) for thing in record.objects],
        **({"visual_prompt": [list(corners) for corners in record.visual_prompt]} if record.visual_prompt else {}),
    }
