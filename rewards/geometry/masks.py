"""Points in masks, looked up in the masks' run lengths: no mask is ever decoded to pixels.

Axes: L points, B masks, C characters of all masks, R runs of all masks, one mask after the other.

COCO's compressed run lengths (pycocotools, common/maskApi.c, rleToString): pixels go down the columns; runs of 0 and 1
take turns, the first is of 0 and may be empty. From a mask's fourth run on, the difference to the run two before is
written. A number is groups of 5 bits, lowest first, one character (code 48 + group) each; bit 6 says that more follow,
and bit 5 of the last group is the sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rewards.geometry.boxes import GRID_SPAN_BINS, BoolArray, IntArray

_FIRST_CODE, _MORE, _SIGN, _GROUP_BITS = 48, 0x20, 0x10, 5
_MAX_GROUPS = 6
"""30 bits: a run of at most 536,870,911 pixels."""


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask as COCO writes it, checked where it is read: `Mask(size=(1920, 1080), counts=b"..")`."""

    size: tuple[int, int]
    """(width, height) in pixels; COCO itself writes (height, width)."""
    counts: bytes
    """Compressed run lengths."""


def mask_areas(masks_B: Sequence[Mask]) -> IntArray:
    """[B] number of pixels in each mask.

    Raises ValueError, naming the mask by its place, unless the run lengths are well formed and add up to its size.

    >>> mask_areas([Mask((3, 2), b"132")]).tolist()  # runs 1, 3, 2: the lower left pixel and the middle column
    [3]
    """
    runs = read_masks(masks_B)
    first_B, runs_R = runs.first_B, np.diff(runs.ends_R, prepend=0)
    odd_R = (np.arange(len(runs_R)) - np.repeat(first_B[:-1], np.diff(first_B))) & 1
    areas_R = np.concatenate([[0], np.cumsum(runs_R * odd_R)])
    return np.asarray(areas_R[first_B[1:]] - areas_R[first_B[:-1]])


@dataclass(frozen=True, slots=True, eq=False)
class MaskRuns:
    """Where the runs of B masks end."""

    sizes_B2: IntArray
    """[B, 2] width and height."""
    ends_R: IntArray
    """[R] the pixel after each run, counted through all masks."""
    first_B: IntArray
    """[B + 1] the place of each mask's first run."""

    def contain(self, points_L2: ArrayLike, mask_L: ArrayLike) -> BoolArray:
        """Which points lie in their masks.

        Args:
            points_L2: [..., L, 2] bins, whole numbers in 0..999. A point's pixel is floor(bin * size / 999), the last
                pixel at most.
            mask_L: [..., L] the place of each point's mask.

        Returns:
            inside_L: [..., L].

        >>> read_masks([Mask((3, 2), b"132")]).contain([[0, 999], [0, 0], [500, 0]], [0, 0, 0]).tolist()
        [True, False, True]
        """
        mask_L = np.asarray(mask_L, dtype=np.int64)
        size_L2 = self.sizes_B2[mask_L]
        pixel_L2 = np.clip(np.asarray(points_L2, dtype=np.int64) * size_L2 // GRID_SPAN_BINS, 0, size_L2 - 1)
        before_B = np.cumsum(self.sizes_B2.prod(axis=1)) - self.sizes_B2.prod(axis=1)
        place_L = before_B[mask_L] + pixel_L2[..., 0] * size_L2[..., 1] + pixel_L2[..., 1]
        run_L = self.ends_R.searchsorted(place_L, side="right")
        return np.asarray((run_L - self.first_B[mask_L]) & 1 == 1)


def read_masks(masks_B: Sequence[Mask]) -> MaskRuns:
    """Read run lengths; raises ValueError as `mask_areas` does."""
    numbers_R, first_B = _numbers(masks_B)
    num_runs_B = np.diff(first_B)
    # Sums over every second number undo the differences; what lies before a mask's second and third run is taken off.
    sums_R = np.empty(len(numbers_R), dtype=np.int64)
    np.cumsum(numbers_R[0::2], out=sums_R[0::2])
    np.cumsum(numbers_R[1::2], out=sums_R[1::2])
    starts_B = first_B[:-1]
    before_2B = np.stack([sums_R[starts_B], np.where(starts_B > 0, sums_R[starts_B - 1], 0)])  # even runs, odd runs
    chain_R = np.repeat(2 * np.arange(len(masks_B)), num_runs_B)
    chain_R += (np.arange(len(numbers_R)) - np.repeat(starts_B, num_runs_B)) & 1
    runs_R = sums_R - before_2B.T.ravel()[chain_R]
    runs_R[starts_B] = numbers_R[starts_B]
    ends_R = np.cumsum(runs_R)
    total_B = np.diff(ends_R[first_B[1:] - 1], prepend=0)
    sizes_B2 = np.array([mask.size for mask in masks_B], dtype=np.int64).reshape(-1, 2)
    expected_B = sizes_B2.prod(axis=1)
    if len(runs_R) and runs_R.min() < 0:
        raise ValueError(f"mask {int(chain_R[runs_R.argmin()]) // 2}: a run length is negative")
    for mask in np.flatnonzero(total_B != expected_B).tolist():
        raise ValueError(
            f"mask {mask}: runs of {total_B[mask]} pixels, expected {expected_B[mask]} of {masks_B[mask].size}"
        )
    return MaskRuns(sizes_B2, ends_R, first_B)


def _numbers(masks_B: Sequence[Mask]) -> tuple[IntArray, IntArray]:
    """([R] the numbers as written, [B + 1] the place of each mask's first one), for all masks in one pass."""
    codes_C = np.frombuffer(b"".join([mask.counts for mask in masks_B]), dtype=np.uint8) - np.uint8(_FIRST_CODE)
    chars_B = np.cumsum([len(mask.counts) for mask in masks_B], dtype=np.int64)
    last_R = np.flatnonzero(codes_C < _MORE)
    first_B = np.concatenate([[0], last_R.searchsorted(chars_B)])
    for mask in np.flatnonzero(np.diff(first_B) == 0).tolist():
        raise ValueError(f"mask {mask}: no run length")
    if not np.array_equal(last_R[first_B[1:] - 1], chars_B - 1) or codes_C.max(initial=0) >= 2 * _MORE:
        raise ValueError(
            "a mask's counts are not COCO's compressed run lengths (characters '0' to 'o', the last below 'P')"
        )
    groups_R = np.diff(last_R, prepend=-1)
    num_groups = int(groups_R.max(initial=0))
    if num_groups > _MAX_GROUPS:
        raise ValueError(f"a mask's run length has {num_groups} characters; at most {_MAX_GROUPS} are read")
    numbers_R = codes_C[last_R].astype(np.int64)
    numbers_R -= (numbers_R & _SIGN) << 1  # the last group is the highest one and has the sign
    for group in range(1, num_groups):  # earlier groups, from high to low; most numbers have one or two
        longer_R = np.flatnonzero(groups_R > group)
        numbers_R[longer_R] = (numbers_R[longer_R] << _GROUP_BITS) | (codes_C[last_R[longer_R] - group] & (_MORE - 1))
    return numbers_R, first_B
