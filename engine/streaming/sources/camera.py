"""A camera of this machine."""

import time
from collections.abc import Iterator

import cv2

from engine.streaming.sources.source import DEFAULT_FPS, SourceFrame
from utils.errors import DataError, IncompleteError

MOST_FPS = 1000.0  # a rate above, as some cameras report, is taken for an error
MOST_CAMERAS = 1000  # a larger number is taken for an error; OpenCV does not take more than 32 bits


class Camera:
    """A camera of this machine, by number, until Ctrl-C."""

    def __init__(self, number: int, option: str = "--stream"):
        self.number, self.count = number, None
        absent = DataError(f"{option} {number}: there is no camera of that number, expected one such as 0, or a file")
        if number >= MOST_CAMERAS:
            raise absent
        previous = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error below reports an absent camera
        try:
            self._capture = cv2.VideoCapture(number)
        finally:
            cv2.utils.logging.setLogLevel(previous)
        if not self._capture.isOpened():
            raise absent
        claimed = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = claimed if 0 < claimed <= MOST_FPS else DEFAULT_FPS
        self.description = f"camera {number}"
        self.names = [self._name(0)]

    def __iter__(self) -> Iterator[SourceFrame]:
        decoded, start = 0, time.monotonic()
        try:
            while True:
                there, image = self._capture.read()
                if not there:
                    raise IncompleteError(f"camera {self.number} gave no frame after {decoded}; those are kept")
                seconds, image = time.monotonic() - start, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                yield SourceFrame(self._name(decoded), image, seconds)
                decoded += 1
        finally:
            self._capture.release()

    def _name(self, number: int) -> str:
        return f"camera{self.number}_{number:06d}"
