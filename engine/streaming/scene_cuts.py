"""Detection of cuts between the scenes of a video."""

from collections import deque

import cv2
import numpy as np

THUMBNAIL = (64, 32)  # width, height: too coarse for motion to matter much
SAMPLES = 4  # pixels of the frame across one of the thumbnail, which are enough for its mean
LEAST_DIFFERENCE = 20.0  # gray levels, mean over the thumbnail
TIMES_THE_USUAL = 3.0
RECENT = 8  # differences of which the median is taken


class SceneCuts:
    """Detects cuts: frames that differ from the last one by much, and by much more than usual."""

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
        # A median, so that one cut does not hide the next one, and sustained motion soon counts as usual.
        usual = float(np.median(self._differences)) if self._differences else difference
        self._differences.append(difference)
        return difference > max(LEAST_DIFFERENCE, TIMES_THE_USUAL * usual)


def _thumbnail(image: np.ndarray) -> np.ndarray:
    step = max(1, min(image.shape[0] // THUMBNAIL[1], image.shape[1] // THUMBNAIL[0]) // SAMPLES)
    sampled = np.ascontiguousarray(image[::step, ::step])  # of a large frame a few pixels are enough
    return cv2.resize(sampled, THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
