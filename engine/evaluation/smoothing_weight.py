"""``--smooth-weight auto``: the weight of the past that is best on training clips."""

from collections.abc import Sequence

import torch
from tqdm import tqdm

from datasets.clips import Video
from datasets.images import image_size, read_frame
from datasets.labels import read_label
from datasets.registry import VideoDatasetBase
from engine.evaluation.confusion_matrix import ConfusionMatrix
from models.inference.segmenter import Prediction, VideoSegmenter
from models.inference.smoothing import RunningAverage

WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.95)
MOST_VIDEOS = 30  # spread over the data set


def mean_iou_by_weight(
    segmenter: VideoSegmenter, dataset: VideoDatasetBase, videos: Sequence[Video], weights: Sequence[float] = WEIGHTS
) -> dict[float, float]:
    """Mean IoU in [0, 1] at the working size on the labeled frames of videos, for each weight of the smoothing.

    The videos are at most ``MOST_VIDEOS`` of those given; the network runs once for all weights. ``segmenter`` smooths.
    """
    assert segmenter.smoother is not None
    confusions = {weight: ConfusionMatrix(dataset.classes.num_outputs) for weight in weights}
    step = -(-len(videos) // MOST_VIDEOS)
    for video in tqdm(videos[::step], "weight of the smoothing", unit="video", disable=None, leave=False):
        segmenter.reset()
        averages = {weight: RunningAverage(weight) for weight in weights}
        labeled = [position for position, label in enumerate(video.labels) if label is not None]
        for frame, truth in list(zip(video.frames, video.labels, strict=True))[: labeled[-1] + 1]:
            image = read_frame(frame, image_size(frame)).permute(1, 2, 0).numpy()
            prediction = segmenter.step(segmenter.prepare(image))
            smoothed = {weight: each.update(prediction.logits, prediction.motion) for weight, each in averages.items()}
            if truth is None:
                continue
            label = read_label(truth, segmenter.work_size, dataset.label_coding(truth))
            for weight, probabilities in smoothed.items():
                found = Prediction(prediction.logits, probabilities).labels_at(segmenter.work_size)
                confusions[weight].update(torch.from_numpy(found), label)
    segmenter.reset()
    return {weight: confusion.mean_iou() for weight, confusion in confusions.items()}


def best_weight(mean_ious: dict[float, float]) -> float:
    """The weight with the highest mean IoU, of equal ones the least."""
    return max(sorted(mean_ious), key=lambda weight: mean_ious[weight])
