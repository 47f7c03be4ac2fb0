"""Mean intersection over union."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.evaluation.metric import Metric, register_metric

if TYPE_CHECKING:
    from torch import Tensor

    from engine.evaluation.confusion_matrix import ConfusionMatrix


class MeanIou(Metric):
    """Mean IoU over the classes that are labeled or predicted; pixels are summed over all clips first."""

    name, title = "mean_iou", "mean IoU"

    def value(self, confusion: ConfusionMatrix, counts: Tensor | None) -> float:
        return confusion.mean_iou()


register_metric(MeanIou())
