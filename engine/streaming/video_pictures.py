"""Pictures as the encoder of a video takes them: all of one size, and in the source's coding of colors."""

from dataclasses import replace
from typing import cast

import av
import cv2
import numpy as np

from engine.streaming.display import BT601, Display
from engine.streaming.output import LabeledFrame

# Shares of red and blue in brightness, by the code of a matrix in ITU-T H.273: BT.709, FCC, BT.601, SMPTE 240, BT.2020.
RED_AND_BLUE = {
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    BT601: (0.299, 0.114),
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),
}
BLACK = 255  # no class has this index, and no color


def written_display(display: Display) -> Display:
    """The display of a written video: the source's, in a matrix that ``yuv420p`` knows; BT.601 where it says none."""
    return display if display.matrix in RED_AND_BLUE else replace(display, matrix=BT601)


def yuv420p(picture: np.ndarray, display: Display) -> np.ndarray:
    """A picture, RGB uint8 ``H W 3`` with even sides, as planes of brightness and colors, uint8 ``3H/2 W``."""
    if RED_AND_BLUE[display.matrix] == RED_AND_BLUE[BT601] and not display.full_range:
        return cv2.cvtColor(picture, cv2.COLOR_RGB2YUV_I420)  # in a seventh of the time that FFmpeg takes
    height, width = picture.shape[:2]
    coded = cv2.transform(picture, _matrix(display))
    colors = cv2.resize(coded, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    planes = np.empty((height * 3 // 2, width), np.uint8)
    planes[:height] = coded[..., 0]
    planes[height:].reshape(2, height // 2, width // 2)[:] = colors[..., 1:].transpose(2, 0, 1)
    return planes


class Planes:
    """A picture of ``size = (H, W)``, both even, for an encoder, ``frame``; it is put together of strips of RGB."""

    def __init__(self, size: tuple[int, int], display: Display):
        height, width = size
        self._display = display
        self.frame = av.VideoFrame(width, height, "yuv420p")
        self._planes = [
            np.frombuffer(cast(memoryview, plane), np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
            for plane in self.frame.planes
        ]

    def put(self, top: int, strip: np.ndarray) -> None:
        """Puts a strip, RGB uint8 ``h W 3``, at the row ``top``; both ``h`` and ``top`` are even."""
        height, width = strip.shape[:2]
        coded, half = yuv420p(strip, self._display), slice(top // 2, (top + height) // 2)
        self._planes[0][top : top + height] = coded[:height]
        colors = coded[height:].reshape(2, height // 2, width // 2)
        self._planes[1][half], self._planes[2][half] = colors


def fitted(frame: LabeledFrame, size: tuple[int, int]) -> LabeledFrame:
    """The frame in a picture of ``size = (H, W)``, as large as it fits; what is left over is black."""
    if frame.labels.shape == size:
        return frame
    height, width = frame.labels.shape
    scale = min(size[0] / height, size[1] / width)
    inner = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2
    image, labels = np.zeros((*size, 3), np.uint8), np.full(size, BLACK, np.uint8)
    place = np.s_[top : top + inner[0], left : left + inner[1]]
    image[place] = cv2.resize(frame.image, inner[::-1], interpolation=cv2.INTER_LINEAR)
    labels[place] = cv2.resize(frame.labels, inner[::-1], interpolation=cv2.INTER_NEAREST)
    return frame._replace(image=image, labels=labels)


def _matrix(display: Display) -> np.ndarray:
    """From RGB to brightness and color differences, with their offsets, float64 ``3 4``."""
    red, blue = RED_AND_BLUE[display.matrix]
    brightness = np.array([red, 1 - red - blue, blue])
    to_blue = (np.array([0, 0, 1]) - brightness) / (2 * (1 - blue))
    to_red = (np.array([1, 0, 0]) - brightness) / (2 * (1 - red))
    scales = np.array([255, 255, 255] if display.full_range else [219, 224, 224]) / 255
    offsets = [0 if display.full_range else 16, 128, 128]
    return np.column_stack([np.stack([brightness, to_blue, to_red]) * scales[:, None], offsets])
