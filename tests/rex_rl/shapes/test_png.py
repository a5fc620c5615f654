"""Pictures come back from their files as they were."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rex_rl.shapes.png import write_png


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (196, 196)])
def test_another_library_reads_every_pixel(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    write_png(Image.fromarray(pixels), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", size)
        assert (np.asarray(image) == pixels).all()
