"""What a single-frame network does on a set of clips: its accuracy, how steady it is, how long its errors last, and
what averaging over time changes. It tells whether drawn clips are like real ones."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from tqdm import tqdm

from datasets.clips import Video
from datasets.images import image_size, read_frame
from datasets.labels import read_label
from datasets.registry import VideoDatasetBase
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.consistency import LENGTHS
from engine.evaluation.temporal_consistency import TemporalConsistency, VideoConsistency
from engine.reports.scores import percent
from models.inference.segmenter import Prediction, VideoSegmenter
from models.inference.smoothing import STILL, RunningAverage
from utils.optical_flow import OpticalFlow

LAGS = (1, 2, 4, 8)  # frames
SINGLE = "single frame"
AVERAGES = (("averaged", 0.3), ("averaged", 0.5), ("along the flow", 0.7), ("along the flow", 0.95))
STILL_KIND = AVERAGES[0][0]


@dataclass
class ErrorsLater:
    """Of the labeled pixels of a frame, followed along the flow: how many are wrong, then, and at both times."""

    pixels: int = 0
    wrong_first: int = 0
    wrong_later: int = 0
    wrong_both: int = 0

    def add(self, first: np.ndarray, later: np.ndarray) -> None:
        """Adds pixels: whether each is wrong in the first frame, and in the later one."""
        self.pixels += first.size
        self.wrong_first += int(first.sum())
        self.wrong_later += int(later.sum())
        self.wrong_both += int((first & later).sum())

    @property
    def again(self) -> float | None:
        """Of the wrong pixels the share that is wrong later too."""
        return self.wrong_both / self.wrong_first if self.wrong_first else None

    @property
    def correlation(self) -> float | None:
        """Correlation of "wrong" at both times, in [-1, 1]: 0 for errors that know nothing of each other."""
        if not self.pixels:
            return None
        first, later = self.wrong_first / self.pixels, self.wrong_later / self.pixels
        spread = (first * (1 - first) * later * (1 - later)) ** 0.5
        return (self.wrong_both / self.pixels - first * later) / spread if spread else None


@dataclass
class ClipFigures:
    """The figures of a set of clips. ``confusions`` and ``consistency`` are by prediction; ``motion`` holds the median
    length of the flow of each video, as a share of the frame's width."""

    frames: int
    labeled: int
    confusions: dict[str, ConfusionMatrix]
    tc: dict[str, float | None]
    mvc: dict[str, dict[str, float | None]]
    motion: list[float]
    followed: float | None
    errors: dict[int, ErrorsLater] = field(default_factory=dict)


class Followed:
    """Positions of the pixels of earlier frames in the present one, along the optical flow from frame to frame."""

    def __init__(self, most: int):
        self._most = most
        self._flow = OpticalFlow()
        self._before: np.ndarray | None = None
        self._starts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # columns, rows, seen: the latest first
        self.steps: list[float] = []  # median length of the flow, in pixels
        self.seen, self.pixels = 0, 0

    def update(self, gray: np.ndarray) -> None:
        """Moves all positions on to the next frame, uint8 ``H W``, and begins to follow that frame's pixels."""
        height, width = gray.shape
        if self._before is not None:
            flow, _, _, seen = self._flow.matches(self._before, gray)
            self.seen, self.pixels = self.seen + int(seen.sum()), self.pixels + seen.size
            if seen.any():
                self.steps.append(float(np.median(np.hypot(*flow[seen].T))))
            self._starts = [_moved_on(start, flow, seen) for start in self._starts[: self._most]]
        self._before = gray
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        self._starts.insert(0, (columns, rows, np.ones(gray.shape, bool)))

    def since(self, lag: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Where the pixels of the frame ``lag`` frames ago are now: row and column, int, and whether each is seen all
        the way; ``H W`` all. ``None`` where there is no such frame."""
        if lag >= len(self._starts):
            return None
        columns, rows, seen = self._starts[lag]
        height, width = seen.shape
        column, row = np.rint(columns).astype(np.intp), np.rint(rows).astype(np.intp)
        seen = seen & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return row.clip(0, height - 1), column.clip(0, width - 1), seen


def _moved_on(
    start: tuple[np.ndarray, np.ndarray, np.ndarray], flow: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    columns, rows, followed = start
    step = cv2.remap(flow, columns, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    matched = cv2.remap(seen.astype(np.uint8), columns, rows, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT)
    return columns + step[..., 0], rows + step[..., 1], followed & (matched > 0)


def figures_of(segmenter: VideoSegmenter, dataset: VideoDatasetBase, videos: Sequence[Video]) -> ClipFigures:
    """The figures of a single-frame network on videos, in one pass, at the working size.

    ``segmenter`` smooths along the flow.
    """
    classes = dataset.classes
    names = [SINGLE, *(f"{kind}, {weight}" for kind, weight in AVERAGES)]
    confusions = {name: ConfusionMatrix(classes.num_outputs) for name in names}
    consistency = {name: VideoConsistency(LENGTHS, classes.ignored) for name in names}
    temporal = TemporalConsistency(names, classes.num_outputs)
    errors = {lag: ErrorsLater() for lag in LAGS}
    motion: list[float] = []
    frames = labeled = seen = pixels = 0
    for video in tqdm(videos, "videos", unit="video", disable=None, leave=False):
        segmenter.reset()
        temporal.reset()
        followed, wrong_before = Followed(max(LAGS)), dict[int, tuple[np.ndarray, np.ndarray]]()
        averages = {name: RunningAverage(weight) for name, (_, weight) in zip(names[1:], AVERAGES, strict=True)}
        for position, (file, truth) in enumerate(zip(video.frames, video.labels, strict=True)):
            image = segmenter.prepare(read_frame(file, image_size(file)).permute(1, 2, 0).numpy())
            pixels_now = np.ascontiguousarray(image[0].permute(1, 2, 0).numpy())
            prediction = segmenter.step(image)
            labels = {SINGLE: prediction.without_smoothing().labels_at(segmenter.work_size)}
            for name, (kind, _) in zip(names[1:], AVERAGES, strict=True):
                stays = kind == STILL_KIND and prediction.motion is not None
                smoothed = averages[name].update(prediction.logits, STILL if stays else prediction.motion)
                labels[name] = Prediction(prediction.logits, smoothed).labels_at(segmenter.work_size)
            temporal.update(pixels_now, labels)
            followed.update(cv2.cvtColor(pixels_now, cv2.COLOR_RGB2GRAY))
            frames += 1
            if truth is None:
                for each in consistency.values():
                    each.end_video()
                continue
            labeled += 1
            label = read_label(truth, segmenter.work_size, dataset.label_coding(truth))
            for name in names:
                confusions[name].update(torch.from_numpy(labels[name]), label)
                consistency[name].update(labels[name], label.numpy())
            counts = label.numpy() != classes.ignored
            wrong = counts & (labels[SINGLE] != label.numpy())
            for lag in LAGS:
                places = followed.since(lag)
                if places is None or position - lag not in wrong_before:
                    continue
                row, column, there = places
                counted, was_wrong = wrong_before[position - lag]
                there = there & counted & counts[row, column]
                errors[lag].add(was_wrong[there], wrong[row, column][there])
            wrong_before[position] = counts, wrong
            wrong_before.pop(position - max(LAGS), None)
        for each in consistency.values():
            each.end_video()
        motion.append(float(np.median(followed.steps)) / segmenter.work_size[1] if followed.steps else 0.0)
        seen, pixels = seen + followed.seen, pixels + followed.pixels
    return ClipFigures(
        frames,
        labeled,
        confusions,
        {name: temporal.mean_iou(name) for name in names},
        {name: each.means() for name, each in consistency.items()},
        motion,
        seen / pixels if pixels else None,
        errors,
    )


def table(sets: dict[str, ClipFigures]) -> str:
    """The figures of sets of clips, by name, as a Markdown table with a column for each set."""
    rows: list[list[str]] = [["", *sets], ["---"] * (1 + len(sets))]

    def row(title: str, values: list[str]) -> None:
        rows.append([title, *values])

    each = list(sets.values())
    row("videos, frames, labeled frames", [f"{len(s.motion)}, {s.frames}, {s.labeled}" for s in each])
    row("motion, % of the width a frame: least, median, most video",
        [", ".join(f"{100 * value:.2f}" for value in (min(s.motion), float(np.median(s.motion)), max(s.motion)))
         for s in each])  # fmt: skip
    row("pixels that the flow can follow, %", [_percent(s.followed) for s in each])
    for name in each[0].confusions:
        row(f"{name}: accuracy, mIoU, TC, mVC8 %", [
            ", ".join(map(_percent, (s.confusions[name].accuracy(), s.confusions[name].mean_iou(), s.tc[name],
                                    s.mvc[name]["mVC8"])))
            for s in each])  # fmt: skip
    for lag in LAGS:
        row(f"wrong pixels that are wrong again {lag} frames on, %", [_percent(s.errors[lag].again) for s in each])
    for lag in LAGS:
        row(f"correlation of errors, {lag} frames", [_number(s.errors[lag].correlation) for s in each])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "–" if value is None else percent(value)
