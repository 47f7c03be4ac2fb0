"""The best and worst clips of an evaluation."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from datasets.clips import Clip
from engine.evaluation.confusion_matrix import ConfusionMatrix
from utils import distributed
from utils.resize import resize_labels
from utils.sizes import height_width


@dataclass(frozen=True)
class PickedClip:
    """A clip with its mean IoU, its last frame ``H W 3``, and class indices ``H W`` of prediction and label."""

    number: int
    name: str
    mean_iou: float
    frame: np.ndarray
    prediction: np.ndarray
    label: np.ndarray


@dataclass
class BestAndWorst:
    """Computes the mean IoU of every clip, and keeps the pictures of the ``count`` best and worst.

    ``num_classes`` includes the ignore index, as in ``ConfusionMatrix``.
    """

    clips: list[Clip]
    num_classes: int
    count: int = 3
    scores: dict[str, float] = field(default_factory=dict)
    best: list[PickedClip] = field(default_factory=list)
    worst: list[PickedClip] = field(default_factory=list)

    def __call__(self, number: int, frame: Tensor, prediction: Tensor, label: Tensor) -> None:
        confusion = ConfusionMatrix(self.num_classes)
        confusion.update(prediction, label)
        score = confusion.mean_iou()
        if not np.isfinite(score):
            return
        name, size = self.clips[number].name, height_width(frame.shape)
        self.scores[name] = score
        picture = np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
        # The label is copied, so that memory shared with a worker of the loader is freed.
        predicted, labeled = resize_labels(prediction, size).numpy(), resize_labels(label, size).numpy().copy()
        clip = PickedClip(number, name, score, picture, predicted, labeled)
        self.best = sorted([*self.best, clip], key=lambda kept: -kept.mean_iou)[: self.count]
        self.worst = sorted([*self.worst, clip], key=lambda kept: kept.mean_iou)[: self.count]

    def gather(self) -> None:
        """Merges the clips of all processes into the same result in each; a collective: all processes must call it."""
        scores = {name: score for part in distributed.all_gather(self.scores) for name, score in part.items()}
        self.scores = {clip.name: scores[clip.name] for clip in self.clips if clip.name in scores}
        self.best = self._of_all(self.best, lambda kept: (-kept.mean_iou, kept.number))
        self.worst = self._of_all(self.worst, lambda kept: (kept.mean_iou, kept.number))

    def _of_all(self, own: list[PickedClip], order: Callable[[PickedClip], tuple[float, int]]) -> list[PickedClip]:
        """The first ``count`` clips of all processes; only their pictures are exchanged."""
        places = sorted(place for part in distributed.all_gather([order(clip) for clip in own]) for place in part)
        chosen = set(places[: self.count])
        parts = distributed.all_gather([clip for clip in own if order(clip) in chosen])
        return sorted((clip for part in parts for clip in part), key=order)

    def worst_that_are_not_best(self) -> list[PickedClip]:
        """The worst clips that are not among the best too, as they are where there are few."""
        shown = {clip.number for clip in self.best}
        return [clip for clip in self.worst if clip.number not in shown]
