"""Where the pixels of one frame of a video are in another one."""

from typing import NamedTuple

import cv2
import numpy as np

RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 0.01, 0.5  # Sundaram, Brox, Keutzer, ECCV 2010, in pixels squared


class Matches(NamedTuple):
    """For each pixel of a frame, ``H W``: its column and row in another one, and whether it is visible there."""

    columns: np.ndarray
    rows: np.ndarray
    seen: np.ndarray


class OpticalFlow:
    """OpenCV's DIS optical flow, preset medium, with a forward-backward check (Sundaram, Brox, Keutzer, ECCV 2010)."""

    def __init__(self) -> None:
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def matches(self, frame: np.ndarray, other: np.ndarray) -> Matches:
        """The matches of the pixels of ``frame`` in ``other``, both gray, uint8 ``H W``.

        A pixel is not seen where it leaves the frame, or where the flow back from there does not return to it.
        """
        forward, backward = self._between(frame, other), self._between(other, frame)
        height, width = frame.shape
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        columns, rows = columns + forward[..., 0], rows + forward[..., 1]
        back = cv2.remap(backward, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        mismatch = ((forward + back) ** 2).sum(2)
        bound = RELATIVE_TOLERANCE * ((forward**2).sum(2) + (back**2).sum(2)) + ABSOLUTE_TOLERANCE
        columns, rows = np.rint(columns).astype(np.intp), np.rint(rows).astype(np.intp)
        inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        return Matches(columns, rows, inside & (mismatch < bound))

    def _between(self, frame: np.ndarray, other: np.ndarray) -> np.ndarray:  # H W, H W -> H W 2
        return self._dis.calc(frame, other, None)  # type: ignore[call-overload]  # the stub lacks flow=None
