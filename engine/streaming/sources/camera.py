"""A camera of this machine."""

import os
import re
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from engine.streaming.sources.feed import Arrival
from engine.streaming.sources.source import DEFAULT_FPS
from utils.errors import DataError

MOST_FPS = 1000.0  # a rate above, as some cameras report, is taken for an error
MOST_CAMERAS = 1000  # a larger number is taken for an error; OpenCV does not take more than 32 bits


def camera_number(source: str) -> int | None:
    """The number of the camera that a text names, such as ``0`` or ``/dev/video0``; ``None`` where it names none."""
    path = Path(source)
    if source.isdecimal() and not path.exists():
        return int(source)
    device = re.fullmatch(r"/dev/video(\d+)", os.path.realpath(source))  # also by another name, as in /dev/v4l/by-id
    return int(device[1]) if device and path.is_char_device() else None


class CameraFeed:
    """A camera of this machine, by number. Raises ``DataError`` where there is none."""

    count, ends, damaged = None, False, 0

    def __init__(self, number: int, option: str = "--stream"):
        absent = DataError(f"{option} {number}: there is no camera of that number, expected one such as 0, or a file")
        if number >= MOST_CAMERAS:
            raise absent
        # macOS asks its user by itself; OpenCV would ask too, and does that in the main thread only.
        os.environ.setdefault("OPENCV_AVFOUNDATION_SKIP_AUTH", "1")
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
        self.description, self.names = f"camera {number}", [f"camera{number}_000000"]

    def arrivals(self, stopped: threading.Event) -> Iterator[Arrival]:
        try:
            while not stopped.is_set():
                there, image = self._capture.read()
                if not there:
                    raise ConnectionError("it gave no frame")
                yield Arrival(partial(_rgb, image), None, time.monotonic())
        finally:
            self._capture.release()


def _rgb(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
