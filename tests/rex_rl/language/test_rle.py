"""Run-length masks: pycocotools' own form, and a place to point at that is really inside."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_masks

from rewards.geometry.masks import Mask, read_masks
from rex_rl.language.rle import compress, middle_of, middle_pixel

PIXELS = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda size: arrays(np.uint8, size, elements=st.sampled_from([0, 1]))
)


@given(PIXELS)
def test_the_form_is_cocos(pixels_HW: np.ndarray) -> None:
    """Written as pycocotools does, however long the runs."""
    counts = coco_masks.encode(np.asfortranarray(pixels_HW))["counts"]
    assert compress(run_lengths(counts, pixels_HW.shape)) == counts


@given(st.lists(st.integers(0, 2**24), min_size=1, max_size=30).filter(any))
def test_runs_come_back(runs: list[int]) -> None:
    assert run_lengths(compress(runs), (1, sum(runs))) == runs


def run_lengths(counts: bytes, shape: tuple[int, ...]) -> list[int]:
    height, width = shape
    return np.diff(read_masks([Mask((width, height), counts)]).ends_R, prepend=0).tolist()


@given(PIXELS)
def test_the_place_to_point_at_is_inside(pixels_HW: np.ndarray) -> None:
    """On the grid, as rewards look it up, and in pixels; None of a mask of nothing."""
    height, width = pixels_HW.shape
    counts = coco_masks.encode(np.asfortranarray(pixels_HW))["counts"]
    mask = Mask((width, height), counts)
    target = middle_of(mask, 999)
    assert (target is None) == (not pixels_HW.any())
    if target is not None:
        assert read_masks([mask]).contain(target, 0)
        x, y = middle_pixel(mask)
        assert pixels_HW[y, x] == 1


@given(st.integers(1000, 9000), st.data())
def test_a_mask_between_the_lines_of_the_grid_has_no_place(width: int, data: st.DataObject) -> None:
    """In an image wider than the grid a column of pixels may lie where no line does."""
    column = data.draw(st.integers(0, width - 1))
    counts = compress([column, 1, width - 1 - column])
    hit = any(line * width // 999 == column for line in range(999)) or column == width - 1
    assert (middle_of(Mask((width, 1), counts), 999) is not None) == hit


def test_the_middle_of_a_disc_is_its_centre() -> None:
    y_HW, x_HW = np.mgrid[:1080, :1920]
    inside_HW = (x_HW - 900) ** 2 / 400**2 + (y_HW - 500) ** 2 / 300**2 < 1
    counts = coco_masks.encode(np.asfortranarray(inside_HW.astype(np.uint8)))["counts"]
    x, y = middle_of(Mask((1920, 1080), counts), 999) or (0, 0)
    assert abs(x / 999 * 1920 - 900) < 30
    assert abs(y / 999 * 1080 - 500) < 3
