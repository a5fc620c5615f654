"""Records of every task, for laws that all tasks share: hypothesis strategies and one plain record each."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from rewards.masks import Mask
from rex_rl.rle import compress
from rex_rl.tasks import TASKS, Geometry, Task
from rex_rl.types import Object, Record

SIDES = st.integers(1, 5000)
SHARES = st.floats(0, 1)
NAMES = ("cat", "red circle", 'a "b", (c) < d', "tv/monitor", "café", "person1x")
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=12).filter(str.strip)


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
    for side in size:
        low = draw(SHARES) * side
        high = min(low + draw(st.floats(0, 2) | st.floats(0, side)), float(side))
        corners.append((low, high) if low < high else (side * 0.5, side * 0.5 + 1e-6))
    (x0, x1), (y0, y1) = corners
    return x0, y0, x1, y1


def points(size: tuple[int, int]) -> st.SearchStrategy[tuple[float, float]]:
    return st.tuples(SHARES.map(lambda x: x * size[0]), SHARES.map(lambda y: y * size[1]))


@st.composite
def masks(draw: st.DrawFn, size: tuple[int, int]) -> Mask:
    """A mask with something in it."""
    rest, runs = size[0] * size[1], [0]
    before = draw(st.integers(0, rest - 1))
    runs = [before, draw(st.integers(1, rest - before))]
    while (rest := size[0] * size[1] - sum(runs)) > 0:
        runs.append(draw(st.integers(1, rest)) if len(runs) < 8 else rest)
    return Mask(size, compress(runs))


@st.composite
def geometries(draw: st.DrawFn, task: Task, size: tuple[int, int]) -> Mapping[str, Any]:
    """What an object of a task brings beside its label."""
    if task.geometry is Geometry.BOX:
        return {"bbox": draw(boxes(size))}
    if task.geometry is Geometry.POINT:
        x0, y0, x1, y1 = box = draw(boxes(size))
        x, y = draw(SHARES), draw(SHARES)
        inside = (min(x0 + x * (x1 - x0), x1), min(y0 + y * (y1 - y0), y1))
        given = {"point": inside, "bbox": box, "mask": draw(masks(size))}
        chosen = draw(st.lists(st.sampled_from(list(given)), min_size=1, unique=True))
        return {name: given[name] for name in chosen}
    if task.geometry is Geometry.POLYGON:
        x0, y0, x1, y1 = draw(boxes(size))
        if (x1 - x0) * (y1 - y0) < 1e-5:  # refused at load
            x0, y0, x1, y1 = 0.0, 0.0, *map(float, size)
        return {"polygon": ((x0, y0), (x1, y0), (x1, y1), (x0, y1))[: draw(st.integers(3, 4))]}
    seen = draw(st.lists(st.none() | points(size), min_size=len(task.keypoints), max_size=len(task.keypoints)))
    keypoints = dict(zip(task.keypoints, seen, strict=True)) | {task.keypoints[0]: draw(points(size))}
    return {"bbox": draw(boxes(size)), "keypoints": keypoints}


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
