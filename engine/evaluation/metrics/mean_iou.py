"""Mean IoU, as the Cityscapes benchmark defines it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.evaluation.metric import Metric, register_metric

if TYPE_CHECKING:
    from torch import Tensor

    from engine.evaluation.confusion_matrix import ConfusionMatrix


class MeanIou(Metric):
    """The mean of the classes' IoU, over those that are labeled or predicted."""

    name, title = "mean_iou", "mean IoU"

    def value(self, confusion: ConfusionMatrix, counts: Tensor | None) -> float:
        return confusion.mean_iou()


register_metric(MeanIou())
