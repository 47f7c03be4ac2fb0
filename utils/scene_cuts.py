"""Detection of cuts between the scenes of a video."""

from collections import deque

import cv2
import numpy as np

THUMBNAIL = (64, 32)  # width, height: so coarse that motion changes it little
SAMPLES = 4  # pixels of the frame that are averaged along each side of a thumbnail's pixel
LEAST_DIFFERENCE = 20.0  # gray levels, mean over the thumbnail
TIMES_THE_USUAL = 3.0
RECENT = 8  # differences whose median is the usual one


class SceneCuts:
    """Detects cuts: frames that differ from the last one by much, and by several times the recent difference."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._differences: deque[float] = deque(maxlen=RECENT)

    def begins_scene(self, image: np.ndarray) -> bool:
        """Whether the next frame, RGB uint8 ``H W 3``, begins a scene; the first one of a video does not."""
        thumbnail = _thumbnail(image)
        last, self._last = self._last, thumbnail
        if last is None:
            return False
        difference = float(np.abs(thumbnail - last).mean())
        # The median adapts to sustained motion, and one cut does not raise it and so hide the next one.
        usual = float(np.median(self._differences)) if self._differences else difference
        self._differences.append(difference)
        return difference > max(LEAST_DIFFERENCE, TIMES_THE_USUAL * usual)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    step = max(1, min(image.shape[0] // THUMBNAIL[1], image.shape[1] // THUMBNAIL[0]) // SAMPLES)
    sampled = np.ascontiguousarray(image[::step, ::step])  # faster than averaging all pixels
    return cv2.resize(sampled, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
