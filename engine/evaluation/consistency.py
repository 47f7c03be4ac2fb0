"""Temporal consistency of labels on the videos of a data set: with and without the memory, smoothed and not."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from datasets.clips import Video
from datasets.images import image_size, read_frame
from datasets.labels import read_label
from datasets.registry import VideoDatasetBase
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.metric import MetricCounts
from engine.evaluation.temporal_consistency import TemporalConsistency, VideoConsistency
from engine.reports.scores import consistency_shares, percent, scores, video_shares
from models.inference.segmenter import Prediction, VideoSegmenter
from models.inference.smoothing import RunningAverage
from utils.class_set import ClassSet
from utils.errors import ScoresError

WITH_MEMORY, SINGLE_FRAME = "lmanet", "single_frame"
SMOOTHED = "_smoothed"  # ending of the names of smoothed predictions
LENGTHS = (8, 16)  # of VSPW's mVC
FEW_VIDEOS = 10  # so many are printed one by one; report.json has all
MVC = (
    "VSPW: of the pixels whose label stays the same over n frames, the share predicted right in all n; null where no "
    "sequence has n labeled frames in a row"
)
WHY_MISSING = {
    "TC": "no video has two frames in a row",
    **{f"mVC{length}": f"no video has {length} labeled frames in a row" for length in LENGTHS},
}


def measure_consistency(
    segmenter: VideoSegmenter, dataset: VideoDatasetBase, videos: Sequence[Video], scored: Collection[Path]
) -> dict:
    """TC, mVC and scores of all predictions that are compared, at the working size: plain values for JSON.

    TC and mVC are those of whole videos; the scores are those of the labels in ``scored``, in the same pass. Each of
    the ``videos`` has its own, of all of its labels.
    """
    classes, comparison = dataset.classes, Comparison(segmenter)
    temporal = TemporalConsistency(comparison.names, classes.num_outputs)
    parts: list[dict[str, _Scores]] = []
    totals = {name: _Scores(classes) for name in comparison.names}
    by_video: dict[str, dict] = {}
    for video in tqdm(videos, "consistency", unit="video", disable=None, leave=False):
        segmenter.reset()
        temporal.reset()
        found = {name: _Scores(classes) for name in comparison.names}
        parts.append(found)
        for frame, truth in zip(video.frames, video.labels, strict=True):
            image = read_frame(frame, image_size(frame)).permute(1, 2, 0).numpy()
            prepared = segmenter.prepare(image)
            try:
                labels = comparison.labels(prepared, segmenter.step(prepared))
            except ScoresError as error:
                raise ScoresError(f"{frame}: {error}") from error
            temporal.update(np.ascontiguousarray(prepared[0].permute(1, 2, 0).numpy()), labels)
            if truth is None:
                for each in found.values():
                    each.consistency.end_video()
                continue
            indices = read_label(truth, segmenter.work_size, dataset.label_coding(truth))
            for name, each in found.items():
                each.consistency.update(labels[name], indices.numpy())
                each.add(torch.from_numpy(labels[name]), indices)
                if truth in scored:
                    totals[name].add(torch.from_numpy(labels[name]), indices)
        for each in found.values():
            each.consistency.end_video()
        # Several snippets may be of one name.
        title = video.name if video.name not in by_video else f"{video.name} from {video.frames[0].stem}"
        by_video[title] = {
            name: {"TC": temporal.mean_iou_since_reset(name), **each.consistency.means(), **each.figures()}
            for name, each in found.items()
        }
    none = VideoConsistency(LENGTHS, classes.ignored)
    mvc = {
        name: VideoConsistency.joined([none, *(found[name].consistency for found in parts)]).means()
        for name in comparison.names
    }
    return temporal.report() | {
        "sequences": len(videos),
        "mvc": mvc,
        "mvc_is": MVC,
        "smoothing": smoothing_of(segmenter),
        "scores": {name: each.report() for name, each in totals.items()},
        "videos": by_video,
    }


class _Scores:
    """What one prediction's scores are made of: the confusion matrix, counts of other metrics, runs of right pixels."""

    def __init__(self, classes: ClassSet):
        self._classes = classes
        self._confusion, self._counts = ConfusionMatrix(classes.num_outputs), MetricCounts()
        self.consistency = VideoConsistency(LENGTHS, classes.ignored)

    def add(self, prediction: Tensor, label: Tensor) -> None:
        """Adds a labeled frame, class indices ``H W``."""
        self._confusion.update(prediction, label)
        self._counts.add(prediction, label, self._classes)

    def report(self) -> dict[str, object]:
        """All metrics, and the IoU of each class."""
        return scores(self._classes.names, self._confusion, self._counts)

    def figures(self) -> dict[str, object]:
        """All metrics."""
        return {name: value for name, value in self.report().items() if name != "iou"}


class Comparison:
    """The predictions of one video that are compared: of the single-frame network and, where there is one, of the
    network with its memory; with smoothing, each of them as it is and smoothed.

    ``names`` are their names, the last one that of the network as it runs.
    """

    def __init__(self, segmenter: VideoSegmenter):
        self._segmenter = segmenter
        self._plain: tuple[str, ...] = (
            (SINGLE_FRAME,) if segmenter.model.config.baseline else (SINGLE_FRAME, WITH_MEMORY)
        )
        self.names: tuple[str, ...] = self._plain
        self._single_average: RunningAverage | None = None
        if segmenter.smoother is not None:
            self.names = tuple(name + ending for name in self._plain for ending in ("", SMOOTHED))
            self._single_average = segmenter.smoother.new_average()

    def labels(self, image: Tensor, prediction: Prediction) -> dict[str, np.ndarray]:
        """Class indices at the working size by name, of the next frame, prepared ``1 3 H W``, and its prediction."""
        found = {self._plain[-1]: prediction}
        if WITH_MEMORY in self._plain:
            found[SINGLE_FRAME] = self._segmenter.step(image, use_memory=False)
        if self._single_average is not None:
            single = found[SINGLE_FRAME]
            if single is not prediction:
                smoothed = self._single_average.update(single.logits, prediction.motion)
                found[SINGLE_FRAME + SMOOTHED] = Prediction(single.logits, smoothed)
            found |= {self.names[-1]: prediction, self._plain[-1]: prediction.without_smoothing()}
        return {name: found[name].labels_at(self._segmenter.work_size) for name in self.names}


def smoothing_of(segmenter: VideoSegmenter) -> dict[str, object] | None:
    """Kind and weight of the smoothing: plain values for JSON; ``None`` without."""
    smoother = segmenter.smoother
    return None if smoother is None else {"kind": smoother.kind, "weight": smoother.weight}


def consistency_text(report: dict) -> str:
    """The report of an evaluation or a stream as text: a line for each prediction, why a figure is missing, and where
    there are but a few videos, those of each."""
    lines: list[str] = []
    missing: dict[str, str] = {}
    for name, shares in consistency_shares(report).items():
        lines.append(_line(name, shares))
        missing |= {title: why for title, why in WHY_MISSING.items() if title in shares and shares[title] is None}
    lines += [f"{title} is not defined here: {why}" for title, why in missing.items()]
    videos = report.get("videos", {})
    if 1 < len(videos) <= FEW_VIDEOS:
        for video, predictions in videos.items():
            lines += [video, *(f"  {_line(name, video_shares(figures))}" for name, figures in predictions.items())]
    return "\n".join(lines)


def _line(name: str, shares: Mapping[str, float | None]) -> str:
    return f"{name}: " + ", ".join(f"{title} {percent(share)} %" for title, share in shares.items())
