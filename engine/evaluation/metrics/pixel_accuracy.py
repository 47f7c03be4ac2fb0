"""Pixel accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.evaluation.metric import Metric, register_metric

if TYPE_CHECKING:
    from torch import Tensor

    from engine.evaluation.confusion_matrix import ConfusionMatrix


class PixelAccuracy(Metric):
    """The share of labeled pixels whose class is predicted."""

    name, title = "accuracy", "pixel accuracy"

    def value(self, confusion: ConfusionMatrix, counts: Tensor | None) -> float:
        return confusion.accuracy()


register_metric(PixelAccuracy())
