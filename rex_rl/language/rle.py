"""COCO's run-length masks: the compressed text, and where in a mask to point.

A mask is read column by column from the top left; its runs alternate between outside and inside, outside first. In the
compressed form a run from the fourth on is written as its difference to the run two before it, in groups of five bits
with the lowest first (source: cocoapi, common/maskApi.c).

Axes: R runs, C columns of the grid, S stretches of a run in one column.
"""

from collections.abc import Iterable

import numpy as np

from rewards.geometry.masks import Mask, read_masks


def compress(runs: Iterable[int]) -> bytes:
    """Run lengths as COCO's compressed text.

    >>> compress([3, 2, 40, 2, 38])
    b'32X10N'
    """
    runs = list(runs)
    text = bytearray()
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        while True:
            low, value = value & 31, value >> 5
            is_last = value == (-1 if low & 16 else 0)
            text.append(48 + low + (0 if is_last else 32))
            if is_last:
                break
    return bytes(text)


def middle_of(mask: Mask, grid_steps: int) -> tuple[int, int] | None:
    """The line (x, y) of a grid of `grid_steps` steps over the image that lies deepest in a mask; None where none does.

    Deepest is the middle of the longest stretch of lines that a column of the grid has inside the mask; of several such
    stretches, the one in the middle. A line lies in the pixel that `line / grid_steps * side` falls into, the last one
    in the last pixel.

    >>> middle_of(Mask((10, 4), compress([0, 10 * 4])), 9)
    (5, 4)
    >>> middle_of(Mask((10, 4), compress([4 * 3 + 1, 2, 40 - 15])), 9)
    (3, 4)
    """
    width, height = mask.size
    ends_R = read_masks([mask]).ends_R
    runs_R = np.diff(ends_R, prepend=0)
    is_inside_R = (np.arange(runs_R.size) % 2 == 1) & (runs_R > 0)
    first_R, last_R = (ends_R - runs_R)[is_inside_R], ends_R[is_inside_R] - 1
    columns_C, row_of = pixels_of_lines(width, grid_steps), pixels_of_lines(height, grid_steps)
    # The runs that reach into a column lie between those that end before it and those that begin after it.
    low_C = np.searchsorted(last_R, columns_C * height, side="left")
    num_C = np.maximum(np.searchsorted(first_R, (columns_C + 1) * height, side="left") - low_C, 0)
    line_S = np.repeat(np.arange(columns_C.size), num_C)
    run_S = np.arange(line_S.size) - np.repeat(num_C.cumsum() - num_C - low_C, num_C)
    top_S = np.maximum(first_R[run_S] - columns_C[line_S] * height, 0)
    bottom_S = np.minimum(last_R[run_S] - columns_C[line_S] * height, height - 1)
    above_S = np.searchsorted(row_of, top_S, side="left")
    depth_S = np.searchsorted(row_of, bottom_S, side="right") - above_S
    if not (depth_S > 0).any():
        return None
    longest = np.flatnonzero(depth_S == depth_S.max())
    stretch = int(longest[longest.size // 2])
    return int(line_S[stretch]), int(above_S[stretch] + (depth_S[stretch] - 1) // 2)


def middle_pixel(mask: Mask) -> tuple[int, int]:
    """The pixel (x, y) in the middle of a mask's longest run; it has one, as no record has an empty mask.

    >>> middle_pixel(Mask((10, 4), compress([9, 3, 28])))
    (2, 2)
    """
    runs_R = np.diff(read_masks([mask]).ends_R, prepend=0)
    longest = 2 * int(runs_R[1::2].argmax()) + 1
    place = int(runs_R[:longest].sum() + runs_R[longest] // 2)
    return divmod(place, mask.size[1])


def pixels_of_lines(side: int, grid_steps: int) -> np.ndarray:
    """The pixel each line of the grid falls into along a side of an image, int64 [grid_steps + 1], ascending."""
    return np.minimum(np.arange(grid_steps + 1) * side // grid_steps, side - 1)
