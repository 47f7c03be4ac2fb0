"""Measurements of a running stream: frames, labels, speed, memory; of constant size, however long the video is."""

import statistics
import time
from collections import deque
from typing import NamedTuple

import cv2
import numpy as np

from engine.streaming.threads import REMEMBERED
from utils.class_set import ClassSet
from utils.timing import resident_mebibytes

SETTLED_AFTER = 10  # frames of warm-up: queues fill, memory is allocated, code is compiled
MOST_SAMPLES = 400  # of these every second one is dropped
ALONE_IS = (
    "the network's steps on the last frame, timed once reading and writing had ended; frames per second are those from "
    f"frame {SETTLED_AFTER} to the last, while all went on side by side"
)


LATENCY_IS = (
    f"of the last {REMEMBERED} frames, from capture to label: for a camera from the moment at which it gave the frame, "
    "for a network stream from its arrival at this machine; max: of all frames"
)


class Sample(NamedTuple):
    """Memory and times at one frame; the memory is ``None`` where the system does not report it.

    The latency, from capture to label, is ``None`` where the frames are those of a recording.
    """

    frame: int
    resident_mebibytes: float | None
    network_milliseconds: float
    latency_milliseconds: float | None


class StreamRecord:
    """Counts frames and their labels, and records the network's time for each."""

    def __init__(self, classes: ClassSet):
        self.classes = classes
        self.frames, self.seconds = 0, 0.0
        self.frame_size: tuple[int, int] | None = None  # of the first frame
        self.cuts: list[int] = []
        self.size_changes: list[int] = []
        self.samples: list[Sample] = []
        self.stopped_by: str | None = None
        self.network_ms: deque[float] = deque(maxlen=REMEMBERED)
        self.network_alone_ms: list[float] = []
        self.latency_ms: deque[float] = deque(maxlen=REMEMBERED)
        self._highest_latency_ms = 0.0
        self._pixels = np.zeros(classes.num_outputs, np.int64)
        self._sample_every = 1
        self._settled_at = self._last_at = 0.0

    def add(self, labels: np.ndarray, network_ms: float, latency_ms: float | None = None) -> None:
        """Adds a frame: class indices ``H W`` at the working size, the network's time and, of a live source, the
        latency, both in milliseconds."""
        self.network_ms.append(network_ms)
        if latency_ms is not None:
            self.latency_ms.append(latency_ms)
            self._highest_latency_ms = max(self._highest_latency_ms, latency_ms)
        self._pixels += _counts(labels, len(self._pixels))
        if self.frames % self._sample_every == 0:
            self._sample(network_ms, latency_ms)
        self._last_at = time.perf_counter()
        if self.frames == SETTLED_AFTER:
            self._settled_at = self._last_at
        self.frames += 1

    @property
    def is_settled(self) -> bool:
        """Whether enough frames have followed the warm-up to measure the pace."""
        return self.frames > 2 * SETTLED_AFTER

    def pace(self) -> dict | None:
        """Frames per second after the warm-up, and those of the network alone; ``None`` for too few frames."""
        if not self.is_settled:
            return None
        found: dict = {
            "frames_per_second": round((self.frames - 1 - SETTLED_AFTER) / (self._last_at - self._settled_at), 3)
        }
        if self.network_alone_ms:
            alone = 1000 / statistics.median(self.network_alone_ms)
            found |= {
                "network_alone": round(alone, 3),
                "share_of_network_alone": round(found["frames_per_second"] / alone, 4),
                "network_alone_steps": len(self.network_alone_ms),
                "network_alone_is": ALONE_IS,
            }
        return found

    def class_shares(self) -> dict[str, float]:
        """Share of all pixels in [0, 1] by class name, for the classes that occurred."""
        total = max(1, int(self._pixels.sum()))
        return {
            name: round(int(n) / total, 6) for name, n in zip(self.classes.output_names, self._pixels, strict=True) if n
        }

    def latency(self) -> dict:
        """Median, 95th percentile and highest latency from capture to label, in milliseconds."""
        median, p95 = np.percentile(self.latency_ms, (50, 95)) if self.latency_ms else (0.0, 0.0)
        found = {"median": median, "p95": p95, "max": self._highest_latency_ms}
        return {
            "latency_milliseconds": {name: round(float(value), 3) for name, value in found.items()},
            "latency_is": LATENCY_IS,
        }

    def _sample(self, network_ms: float, latency_ms: float | None) -> None:
        resident, latency = resident_mebibytes(), None if latency_ms is None else round(latency_ms, 3)
        shown = None if resident is None else round(resident, 1)
        self.samples.append(Sample(self.frames, shown, round(network_ms, 3), latency))
        if len(self.samples) == MOST_SAMPLES:
            self.samples, self._sample_every = self.samples[::2], 2 * self._sample_every


def _counts(labels: np.ndarray, classes: int) -> np.ndarray:
    """How many pixels ``H W`` have each class index; NumPy's ``bincount`` takes twice as long, and 8 bytes a pixel."""
    return cv2.calcHist([labels], [0], None, [classes], [0, classes]).ravel().astype(np.int64)
