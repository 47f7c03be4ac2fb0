"""Where the pixels of one frame of a video are in another one."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 0.01, 0.5  # Sundaram, Brox, Keutzer, ECCV 2010, in pixels squared


class Matches(NamedTuple):
    """The matches of the pixels of a frame in another one, ``H W``: the flow, float32 ``H W 2``; column and row to
    which it leads, float32; and whether the pixel is seen there."""

    flow: np.ndarray
    columns: np.ndarray
    rows: np.ndarray
    seen: np.ndarray


class OpticalFlow:
    """OpenCV's DIS optical flow, preset medium, with a forward-backward check (Sundaram, Brox, Keutzer, ECCV 2010)."""

    def __init__(self) -> None:
        self._forward, self._backward = (cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM) for _ in range(2))

    def matches(self, frame: np.ndarray, other: np.ndarray) -> Matches:
        """The matches of the pixels of ``frame`` in ``other``, both gray, uint8 ``H W``.

        A pixel is not seen where it leaves the frame, or where the flow back from there does not return to it.
        """
        with ThreadPoolExecutor(1) as thread:  # OpenCV's own threads are off where data is loaded by processes
            found = thread.submit(_flow, self._backward, other, frame)
            flow, backward = _flow(self._forward, frame, other), found.result()
        columns, rows = moved(flow)
        back = cv2.remap(backward, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mismatch = ((flow + back) ** 2).sum(2)
        bound = RELATIVE_TOLERANCE * ((flow**2).sum(2) + (back**2).sum(2)) + ABSOLUTE_TOLERANCE
        return Matches(flow, columns, rows, inside(columns, rows) & (mismatch < bound))


def fast_flow() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """A function of two gray frames, uint8 ``H W``, that returns the flow from the first to the other one, float32
    ``H W 2``: OpenCV's DIS optical flow, preset ultrafast, at its finest scale."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    dis.setFinestScale(0)
    return partial(_flow, dis)


def _flow(dis: cv2.DISOpticalFlow, frame: np.ndarray, other: np.ndarray) -> np.ndarray:  # H W, H W -> H W 2
    return dis.calc(frame, other, None)  # type: ignore[call-overload]  # the stub lacks flow=None


def moved(flow: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows, float32 ``H W``, to which a flow ``H W 2`` leads from each pixel."""
    height, width = flow.shape[:2]
    return flow[..., 0] + np.arange(width, dtype=np.float32), flow[..., 1] + np.arange(height, dtype=np.float32)[
        :, None
    ]


def inside(columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Whether columns and rows, ``H W``, round to pixels of the frame."""
    height, width = columns.shape
    return (np.rint(columns) >= 0) & (np.rint(columns) < width) & (np.rint(rows) >= 0) & (np.rint(rows) < height)
