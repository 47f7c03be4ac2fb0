"""What a metric of an evaluation is: it declares its name, its value and its format, and every report shows it.

Metrics are the files in ``engine/evaluation/metrics/``, and those that a ``--plugin`` registers.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from utils.errors import OptionError
from utils.modules import import_all

if TYPE_CHECKING:
    from torch import Tensor

    from engine.evaluation.confusion_matrix import ConfusionMatrix
    from utils.class_set import ClassSet

SHIPPED = "engine.evaluation.metrics"


class Metric(ABC):
    """One figure of an evaluation.

    ``name`` is its key in ``report.json``, ``title`` what tables and pages call it. ``is_share`` says that it lies in
    [0, 1] and is shown in percent; a gain over a baseline is shown for each that the baseline's report has too.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    is_share: ClassVar[bool] = True

    def counts(self, prediction: Tensor, label: Tensor, classes: ClassSet) -> Tensor | None:
        """What is added up over all clips, of one clip's prediction and label ``H W``, class indices on the CPU.

        ``None``, the default, for metrics that need the confusion matrix alone.
        """
        return None

    @abstractmethod
    def value(self, confusion: ConfusionMatrix, counts: Tensor | None) -> float:
        """The metric, from the confusion matrix of all clips and the sum of all ``counts``; ``nan`` where there is
        none."""

    def text(self, value: float | None) -> str:
        """The value as reports show it."""
        shown = math.nan if value is None else value
        return f"{100 * shown:.2f} %" if self.is_share else f"{shown:.4f}"

    def gain_text(self, gain: float) -> str:
        """A difference to a baseline as reports show it."""
        return f"{100 * gain:+.2f}" if self.is_share else f"{gain:+.4f}"


_METRICS: dict[str, Metric] = {}


def register_metric(metric: Metric) -> None:
    """Makes every report show a metric. Raises ``OptionError`` for a name that is taken."""
    if metric.name in _METRICS:
        raise OptionError(f"a metric named {metric.name!r} is registered already: expected another name")
    _METRICS[metric.name] = metric


def registered_metrics() -> Sequence[Metric]:
    """All metrics, those of the project first, in the order in which reports show them."""
    import_all(SHIPPED)
    return tuple(_METRICS.values())


def shown_metrics(report: Mapping[str, object]) -> list[tuple[Metric, float | None]]:
    """The metrics that a report holds, with their values."""
    found = [(metric, report[metric.name]) for metric in registered_metrics() if metric.name in report]
    return [(metric, value if isinstance(value, float | int) else None) for metric, value in found]
