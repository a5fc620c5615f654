"""A data set in which every twentieth record is bad: one of each harmful kind."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

GOOD_PER_BAD, NUM_IMAGES = 19, 10


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """Files of the data set."""

    file: Path
    clean: Path
    """The same records without the bad ones."""
    images: Path
    num_bad: int


def write_poisoned(folder: Path, good: Sequence[dict[str, Any]], *, pixels: bytes) -> Poisoned:
    """Write `good` records in turns, all about images with these `pixels`, with bad records between them."""
    images = folder / "images"
    images.mkdir()
    for i in range(NUM_IMAGES):  # whole images are held out, so one image would not do
        (images / f"good_{i}.png").write_bytes(pixels)
    (images / "corrupt.png").write_bytes(pixels[: len(pixels) // 2])
    (images / "empty.png").write_bytes(b"")
    Image.new("1", (9000, 9000)).save(images / "bomb.png")
    (folder / "secret.png").write_bytes(pixels)
    (images / "link.png").symlink_to(folder / "secret.png")
    not_a_number = [{"label": good[0]["objects"][0]["label"], "bbox": [float("nan"), 1, 2, 3]}]
    poison: list[dict[str, Any]] = [
        {"image": "corrupt.png"},
        {"image": "empty.png"},
        {"image": "bomb.png", "width": 9000, "height": 9000},
        {"image": "../secret.png"},
        {"image": str(folder / "secret.png")},
        {"image": "link.png"},
        {"objects": not_a_number},
    ]
    clean = [
        good[i % len(good)] | {"id": f"good_{i}", "image": f"good_{i % NUM_IMAGES}.png"}
        for i in range(GOOD_PER_BAD * len(poison))
    ]
    lines = list(clean)
    for i, change in enumerate(poison):
        lines.insert(17 * i, good[0] | {"id": f"bad_{i}", "image": "good_0.png"} | change)
    written = Poisoned(file=folder / "train.jsonl", clean=folder / "clean.jsonl", images=images, num_bad=len(poison))
    for file, records in ((written.file, lines), (written.clean, clean)):
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return written
