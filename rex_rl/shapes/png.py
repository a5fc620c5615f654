"""Pictures of noise as PNG, three times as fast as by a library that looks for what compresses best.

Pillow tries five filters on every row, and zlib looks for repeats: of a picture of the synthetic world that is two
thirds of the time it takes to draw, for a file of the same size.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

_UP = 2
"""The filter of every row: less what stands above it."""


def write_png(image: Image.Image, file: Path) -> None:
    """Write an RGB image, without loss; raises OSError where the file cannot be written."""
    rows_HX = np.asarray(image).reshape(image.height, -1)
    lines_HX = np.full((image.height, rows_HX.shape[1] + 1), _UP, dtype=np.uint8)
    lines_HX[0, 1:] = rows_HX[0]
    np.subtract(rows_HX[1:], rows_HX[:-1], out=lines_HX[1:, 1:])
    packer = zlib.compressobj(level=1, strategy=zlib.Z_HUFFMAN_ONLY)
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    pixels = packer.compress(lines_HX.tobytes()) + packer.flush()
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b""))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
