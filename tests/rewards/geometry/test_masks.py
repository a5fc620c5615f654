"""Points looked up in run lengths: equal to pycocotools' decoded pixels; refusals of what is not COCO's format."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rewards.geometry.masks import Mask, mask_areas, read_masks

SIZES = ((1, 1), (1, 7), (7, 1), (40, 30), (333, 250), (1500, 17), (640, 480))


def _pixels(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """[height, width] uint8: noise of any density, blocks, stripes, nothing or everything."""
    width, height = size
    draw = rng.integers(5)
    if draw == 0:
        return (rng.random((height, width)) < rng.random()).astype(np.uint8)
    pixels = np.full((height, width), draw == 1, dtype=np.uint8)
    if draw >= 3:
        for _ in range(int(rng.integers(1, 5))):
            x, y = int(rng.integers(width)), int(rng.integers(height))
            pixels[y : y + int(rng.integers(1, height + 1)), x : x + int(rng.integers(1, width + 1))] ^= 1
    return pixels


def _encode(pixels: np.ndarray) -> Mask:
    encoded = coco_mask.encode(np.asfortranarray(pixels))
    return Mask((pixels.shape[1], pixels.shape[0]), encoded["counts"])


def test_points_in_masks_are_the_decoded_pixels() -> None:
    """Masks of all sizes in one call, random points and the grid's corners."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        all_pixels = [_pixels(rng, SIZES[rng.integers(len(SIZES))]) for _ in range(int(rng.integers(1, 9)))]
        masks = [_encode(pixels) for pixels in all_pixels]
        points_A2 = np.concatenate([rng.integers(0, 1000, (60, 2)), [[0, 0], [999, 0], [0, 999], [999, 999]]])
        inside_AB = read_masks(masks).contain(points_A2[:, None], np.arange(len(masks)))
        for mask, inside_A in zip(masks, inside_AB.T, strict=True):
            width, height = mask.size
            decoded = coco_mask.decode({"size": [height, width], "counts": mask.counts})
            columns_A = np.minimum(points_A2[:, 0] * width // 999, width - 1)
            rows_A = np.minimum(points_A2[:, 1] * height // 999, height - 1)
            np.testing.assert_array_equal(inside_A, decoded[rows_A, columns_A] == 1)


def test_every_pixel_is_found() -> None:
    """Where the image has at most 999 pixels a side, some bin lies in each pixel: the whole mask comes back."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        pixels = _pixels(rng, (40, 30))
        bins_x, bins_y = -(-np.arange(40) * 999 // 40), -(-np.arange(30) * 999 // 30)  # the first bin of each pixel
        x, y = np.meshgrid(bins_x, bins_y)
        inside = read_masks([_encode(pixels)]).contain(np.stack([x, y], axis=2), np.zeros((30, 40)))
        np.testing.assert_array_equal(inside, pixels == 1)


def test_areas_are_the_number_of_pixels() -> None:
    """As pycocotools counts them."""
    rng = np.random.default_rng(2)
    all_pixels = [_pixels(rng, size) for size in SIZES for _ in range(4)]
    assert mask_areas([_encode(pixels) for pixels in all_pixels]).tolist() == [
        int(pixels.sum()) for pixels in all_pixels
    ]


def test_the_pixel_of_a_point_is_the_floor_in_whole_numbers() -> None:
    """Bin 333 of 999 pixels is pixel 333 exactly, which 333 / 999 * 999 in floating point need not be."""
    pixels = np.eye(999, dtype=np.uint8)
    bins_A = np.arange(999)
    runs = read_masks([_encode(pixels)])
    assert runs.contain(np.stack([bins_A, bins_A], axis=1), 0).all()
    assert runs.contain([999, 999], 0)  # the last line lies on the last pixel


def test_no_points_or_masks() -> None:
    """No point or no mask: empty results."""
    for masks in ([], [Mask((3, 2), b"132")]):
        assert read_masks(masks).contain(np.zeros((0, 2)), np.zeros(0)).shape == (0,)
    assert mask_areas([]).shape == (0,)


GOOD = Mask((3, 2), b"132")
BAD = {
    "no runs": (Mask((3, 2), b""), "mask 1: no run length"),
    "too few pixels": (Mask((3, 2), b"131"), "mask 1: runs of 5 pixels, expected 6"),
    "too many pixels": (Mask((2, 2), b"132"), "mask 1: runs of 6 pixels, expected 4"),
    "cut short": (Mask((3, 2), b"13R"), "not COCO's compressed run lengths"),
    "other characters": (Mask((3, 2), b"13\xff"), "not COCO's compressed run lengths"),
    "text of numbers": (Mask((3, 2), b"1,3,2"), "not COCO's compressed run lengths"),
    "negative run": (Mask((3, 2), b"5N3"), "mask 1: a run length is negative"),
    "endless number": (Mask((3, 2), b"ooooooo0"), "a mask's run length has 8 characters"),
}


@pytest.mark.parametrize("case", BAD)
def test_other_bytes_are_refused(case: str) -> None:
    """An error is never turned into a reward."""
    mask, message = BAD[case]
    for read in (mask_areas, read_masks):
        with pytest.raises(ValueError, match=message):
            read([GOOD, mask])


def test_cut_masks_do_not_borrow_from_the_next() -> None:
    """A mask whose last number goes on is refused, though the next mask's first character would end it."""
    with pytest.raises(ValueError, match="not COCO's compressed run lengths"):
        mask_areas([Mask((3, 2), b"13R"), GOOD])
