"""Temporal consistency of predictions: TC, which needs no labels, and mVC, which needs a label for every frame."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np
import torch

from engine.evaluation.confusion_matrix import iou_of_counts
from utils.optical_flow import OpticalFlow

FLOW = "OpenCV DIS optical flow, preset medium, on gray frames of the working size"
OCCLUSION_CHECK = (
    "forward-backward: pixels with |f + b|^2 >= 0.01 (|f|^2 + |b|^2) + 0.5, and those that leave the frame, do not "
    "count"
)


class TemporalConsistency:
    """TC: mean IoU of the labels of frame t + 1, warped back to frame t, with those of frame t (Liu et al., ECCV 2020).

    Several predictions of one video, by name, share the optical flow. Pixels are counted over all pairs of frames;
    classes that occur in neither frame of any pair are left out of the mean.
    """

    def __init__(self, names: Sequence[str], num_classes: int):
        self.pairs = 0
        self._num_classes = num_classes
        self._counts = {name: np.zeros((num_classes, num_classes), np.int64) for name in names}
        self._before = dict(self._counts)  # those at the last reset
        self._flow = OpticalFlow()
        self._kept, self._pixels = 0, 0
        self.reset()

    def reset(self) -> None:
        """Starts a new video or scene: the next frame has no predecessor."""
        self._gray: np.ndarray | None = None
        self._labels: dict[str, np.ndarray] = {}
        self._before = {name: counts.copy() for name, counts in self._counts.items()}

    def update(self, image: np.ndarray, labels: Mapping[str, np.ndarray]) -> None:
        """Adds a frame, RGB uint8 ``H W 3``, and the class indices ``H W`` of each prediction."""
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if self._gray is not None:
            _, columns, rows, seen = self._flow.matches(self._gray, gray)
            there = np.rint(rows[seen]).astype(np.intp), np.rint(columns[seen]).astype(np.intp)
            self.pairs += 1
            self._kept, self._pixels = self._kept + int(seen.sum()), self._pixels + seen.size
            for name, now in labels.items():
                self._count(name, self._labels[name][seen], now[there])
        self._gray, self._labels = gray, {name: each.copy() for name, each in labels.items()}

    def mean_iou(self, name: str) -> float | None:
        """TC in [0, 1] of one prediction; ``None`` before the first pair of frames."""
        return _mean_iou(self._counts[name])

    def mean_iou_since_reset(self, name: str) -> float | None:
        """TC of the video or scene that the last ``reset`` started."""
        return _mean_iou(self._counts[name] - self._before[name])

    def report(self) -> dict[str, object]:
        """Plain values for JSON; TC by prediction is in ``tc``."""
        return {
            "flow": FLOW,
            "occlusions": OCCLUSION_CHECK,
            "pairs": self.pairs,
            "share_of_pixels_compared": self._kept / self._pixels if self._pixels else None,
            "tc": {name: self.mean_iou(name) for name in self._counts},
        }

    def _count(self, name: str, before: np.ndarray, after: np.ndarray) -> None:
        k = self._num_classes
        self._counts[name] += np.bincount(before.astype(np.intp) * k + after, minlength=k * k).reshape(k, k)


def _mean_iou(counts: np.ndarray) -> float | None:
    iou = iou_of_counts(torch.from_numpy(counts)).numpy()
    present = iou[~np.isnan(iou)]
    # NumPy's sum rounds in another order than PyTorch's nanmean: reported figures stay the same to the last digit.
    return float(present.mean()) if present.size else None


class VideoConsistency:
    """mVC_n of VSPW (Miao et al., CVPR 2021), for each n of ``lengths``.

    Of the pixels whose label stays the same over n consecutive frames, the share that is predicted right in all n;
    mean over the windows of a video, then over the videos. Pixels labeled with the ignore index do not count.
    """

    def __init__(self, lengths: Sequence[int], ignored: int):
        self._ignored = ignored
        self._videos: dict[int, list[float]] = {length: [] for length in lengths}
        self._windows: dict[int, list[float]] = {}
        self._label: np.ndarray | None = None
        self._start_video()

    def update(self, prediction: np.ndarray, label: np.ndarray) -> None:
        """Adds the next frame of the video: class indices ``H W``."""
        labeled, right = label != self._ignored, prediction == label
        if self._label is None:
            self._steady, self._right = np.zeros(label.shape, np.int32), np.zeros(label.shape, np.int32)
        else:
            stays = label == self._label
            self._steady *= stays
            self._right *= stays
        # Number of frames, up to this one, over which the label is constant; and over which it is predicted right too.
        self._steady = (self._steady + 1) * labeled
        self._right = (self._right + 1) * (labeled & right)
        self._label = label
        for length, windows in self._windows.items():
            steady = int((self._steady >= length).sum())
            if steady:
                windows.append(int((self._right >= length).sum()) / steady)

    def end_video(self) -> None:
        """Adds the video's mean over its windows and starts the next video; short videos have no window of length n."""
        for length, windows in self._windows.items():
            if windows:
                self._videos[length].append(sum(windows) / len(windows))
        self._start_video()

    @classmethod
    def joined(cls, parts: "Sequence[VideoConsistency]") -> "VideoConsistency":
        """One over the videos of several, of the same lengths."""
        joined = cls(list(parts[0]._videos), parts[0]._ignored)
        joined._videos = {
            length: [mean for part in parts for mean in part._videos[length]] for length in joined._videos
        }
        return joined

    def means(self) -> dict[str, float | None]:
        """Means over the videos in [0, 1] by name (``mVC8``); ``None`` where no video was long enough."""
        return {f"mVC{n}": sum(each) / len(each) if each else None for n, each in self._videos.items()}

    def _start_video(self) -> None:
        self._label = None
        self._steady = self._right = np.zeros((0, 0), np.int32)  # thousands of videos keep their means alone
        self._windows = {length: [] for length in self._videos}
