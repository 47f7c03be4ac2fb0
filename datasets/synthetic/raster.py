"""Rasterization of polygons into a buffer of numbers, in integer arithmetic: every machine fills the same samples.

OpenCV's ``fillPoly`` would be faster, but its edges differ between versions, and labels must not.
"""

import numpy as np

UNIT = 16  # a sample's distance to the next in the corners' fixed-point coordinates
_LIMIT = 1 << 27  # corners are moved to within this distance, so that products fit into 64 bits


def fixed(positions: np.ndarray) -> np.ndarray:
    """Corners in fixed point, int64, from positions in samples (a sample's middle is a whole number)."""
    return np.floor(np.clip(positions * UNIT, -_LIMIT, _LIMIT) + 0.5).astype(np.int64)


def filled(corners: np.ndarray, sizes: np.ndarray, height: int, width: int) -> np.ndarray:
    """The buffer, ``height`` x ``width`` int32: 0 where no polygon is, else the number, from 1, of the last one there.

    corners: N x 2 (x, y) int64 in fixed point, polygon after polygon; sizes: the corners of each. A sample belongs to a
    polygon if its middle is inside by the even-odd rule; one on an edge belongs to the polygon to its right or below.
    """
    number, row, column = _crossings(corners, sizes, height)
    # An even number of edges crosses each row of each polygon: sorted, they are the beginnings and ends of its spans.
    key = np.sort((number * height + row) * (width + 1) + np.clip(column, 0, width))
    begin, length = key[::2], key[1::2] - key[::2]
    begin, length = begin[length > 0], length[length > 0]
    line, first = np.divmod(begin, width + 1)
    number, row = np.divmod(line, height)
    end = np.cumsum(length)
    buffer = np.zeros(height * width, np.int32)
    if len(end):
        samples = np.repeat((row * width + first - end + length).astype(np.int32), length)
        samples += np.arange(end[-1], dtype=np.int32)
        # Of several values for one sample the last one stays, and the spans are in the polygons' order.
        buffer[samples] = np.repeat((number + 1).astype(np.int32), length)
    return buffer.reshape(height, width)


def _crossings(corners: np.ndarray, sizes: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where edges cross the rows of samples: each one's polygon, row, and first column that is not left of it."""
    number = np.repeat(np.arange(len(sizes)), sizes)
    following = np.arange(1, len(corners) + 1)
    ends = np.cumsum(sizes)
    following[ends - 1] = ends - sizes
    here, there = corners, corners[following]
    down = (here[:, 1] < there[:, 1])[:, None]
    upper, lower = np.where(down, here, there), np.where(down, there, here)
    first = np.clip(-(-upper[:, 1] // UNIT), 0, height)
    count = np.clip(-(-lower[:, 1] // UNIT), 0, height) - first
    edge = np.repeat(np.arange(len(corners)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    (x, y), (dx, dy) = upper[edge].T, (lower - upper)[edge].T
    return number[edge], row, -(-(x * dy + (row * UNIT - y) * dx) // (dy * UNIT))
