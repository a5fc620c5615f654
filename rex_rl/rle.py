"""COCO's run-length masks: the compressed text both ways, and where in a mask to point.

A mask is read column by column from the top left; its runs alternate between outside and inside, outside first. In the
compressed form a run from the fourth on is written as its difference to the run two before it, in groups of five bits
with the lowest first (source: cocoapi, common/maskApi.c).

Axes: R runs, C columns of the grid, S stretches of a run in one column.
"""

from collections.abc import Iterable

import numpy as np


def compress(runs: Iterable[int]) -> bytes:
    """Run lengths as COCO's compressed text.

    >>> compress([3, 2, 40, 2, 38]), run_lengths(compress([3, 2, 40, 2, 38])).tolist()
    (b'32X10N', [3, 2, 40, 2, 38])
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


def run_lengths(counts: bytes) -> np.ndarray:
    """Run lengths int64 [R] of a compressed text; some may be negative or much too long where the text is none.

    Raises ValueError for bytes that the form does not have, or an end in the middle of a number.
    """
    codes = np.frombuffer(counts, dtype=np.uint8).astype(np.int64) - 48
    is_last = (codes & 32) == 0
    if codes.size and (codes.min() < 0 or codes.max() > 63 or not is_last[-1]):
        raise ValueError("not COCO's compressed run lengths")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate([[0], ends[:-1] + 1])[: ends.size]
    place = np.arange(codes.size) - np.repeat(starts, ends - starts + 1)
    if codes.size and place.max() > 11:  # 60 bits
        raise ValueError("not COCO's compressed run lengths")
    values_R = np.add.reduceat((codes & 31) << 5 * place, starts) if ends.size else np.zeros(0, dtype=np.int64)
    values_R -= ((codes[ends] & 16) > 0) * (np.int64(32) << 5 * place[ends])
    values_R[1::2] = values_R[1::2].cumsum()
    values_R[2::2] = values_R[2::2].cumsum()
    return values_R


def middle_of(counts: bytes, size: tuple[int, int], grid_steps: int) -> tuple[int, int] | None:
    """The line (x, y) of a grid of `grid_steps` steps over the image that lies deepest in a mask; None where none does.

    Deepest is the middle of the longest stretch of lines that a column of the grid has inside, and of several such
    stretches the one in the middle. A line lies in the pixel
    that `line / grid_steps * side` falls into, the last one in the last pixel.

    >>> middle_of(compress([0, 10 * 4]), (10, 4), 9)
    (5, 4)
    >>> middle_of(compress([4 * 3 + 1, 2, 40 - 15]), (10, 4), 9)
    (3, 4)
    """
    width, height = size
    runs_R = run_lengths(counts)
    ends_R = runs_R.cumsum()
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


def middle_pixel(counts: bytes, size: tuple[int, int]) -> tuple[int, int]:
    """The pixel (x, y) in the middle of a mask's longest run; (0, 0) for a mask of nothing.

    >>> middle_pixel(compress([9, 3, 28]), (10, 4))
    (2, 2)
    """
    runs_R = run_lengths(counts)
    if not runs_R[1::2].any():
        return 0, 0
    longest = 2 * int(runs_R[1::2].argmax()) + 1
    place = int(runs_R[:longest].sum() + runs_R[longest] // 2)
    return place // size[1], place % size[1]


def pixels_of_lines(side: int, grid_steps: int) -> np.ndarray:
    """The pixel each line of the grid falls into along a side of an image, int64 [grid_steps + 1], ascending."""
    return np.minimum(np.arange(grid_steps + 1) * side // grid_steps, side - 1)
