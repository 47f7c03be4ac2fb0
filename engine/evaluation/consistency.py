"""Temporal consistency of a network's labels on the videos of a data set, with and without its memory."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from tqdm import tqdm

from datasets.clips import Video
from datasets.images import image_size, read_frame
from datasets.labels import read_label
from datasets.registry import VideoDatasetBase
from engine.evaluation.temporal_consistency import TemporalConsistency, VideoConsistency
from engine.reports.scores import percent
from models.inference.segmenter import Prediction, VideoSegmenter
from utils.errors import ScoresError

WITH_MEMORY, SINGLE_FRAME = "lmanet", "single_frame"
LENGTHS = (8, 16)  # of VSPW's mVC
MVC = (
    "VSPW: of the pixels whose label stays the same over n frames, the share predicted right in all n; null where no "
    "sequence has n labeled frames in a row"
)


def measure_consistency(segmenter: VideoSegmenter, dataset: VideoDatasetBase, videos: Sequence[Video]) -> dict:
    """TC and mVC of the labels with and without the memory, at the working size: plain values for JSON."""
    names, classes = prediction_names(segmenter), dataset.classes
    temporal = TemporalConsistency(names, classes.num_outputs)
    per_name = {name: VideoConsistency(LENGTHS, classes.ignored) for name in names}
    for video in tqdm(videos, "consistency", unit="video", disable=None, leave=False):
        segmenter.reset()
        temporal.reset()
        for each in per_name.values():
            each.end_video()
        for frame, truth in zip(video.frames, video.labels, strict=True):
            image = read_frame(frame, image_size(frame)).permute(1, 2, 0).numpy()
            prepared = segmenter.prepare(image)
            try:
                labels = labels_to_compare(segmenter, prepared, segmenter.step(prepared))
            except ScoresError as error:
                raise ScoresError(f"{frame}: {error}") from error
            temporal.update(np.ascontiguousarray(prepared[0].permute(1, 2, 0).numpy()), labels)
            for name, each in per_name.items():
                if truth is None:
                    each.end_video()
                else:
                    indices = read_label(truth, segmenter.work_size, dataset.label_coding(truth))
                    each.update(labels[name], indices.numpy())
    for each in per_name.values():
        each.end_video()
    return temporal.report() | {
        "sequences": len(videos),
        "mvc": {n: v.means() for n, v in per_name.items()},
        "mvc_is": MVC,
    }


def labels_to_compare(segmenter: VideoSegmenter, image: Tensor, prediction: Prediction) -> dict[str, np.ndarray]:
    """Class indices at the working size by name: those of ``prediction``, and those of the single-frame network.

    ``image`` is the frame prepared, ``1 3 H W``.
    """
    predictions = {prediction_names(segmenter)[-1]: prediction}
    if WITH_MEMORY in predictions:
        predictions[SINGLE_FRAME] = segmenter.step(image, use_memory=False)
    return {name: each.labels_at(segmenter.work_size) for name, each in predictions.items()}


def prediction_names(segmenter: VideoSegmenter) -> tuple[str, ...]:
    """Names of the predictions that are compared; the last one is of the network as it is."""
    return (SINGLE_FRAME,) if segmenter.model.config.baseline else (SINGLE_FRAME, WITH_MEMORY)


def consistency_text(report: dict) -> str:
    """A report of ``measure_consistency`` or ``TemporalConsistency`` as text, one line per prediction."""
    lines = []
    for name, tc in report["tc"].items():
        mvc = report.get("mvc", {}).get(name, {})
        lines.append(", ".join([f"{name}: TC {percent(tc)} %", *(f"{k} {percent(v)} %" for k, v in mvc.items())]))
    return "\n".join(lines)
