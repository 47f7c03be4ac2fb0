"""The interface of metrics: a metric declares its name, value and format, and every report shows it.

Metrics are the files in ``engine/evaluation/metrics/``, and those that a ``--plugin`` registers. Imports no torch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from utils.errors import OptionError
from utils.modules import check_declared, import_all

if TYPE_CHECKING:
    from torch import Tensor

    from engine.evaluation.confusion_matrix import ConfusionMatrix
    from utils.class_set import ClassSet

SHIPPED = "engine.evaluation.metrics"
# Other keys of report.json.
RESERVED = frozenset(
    {
        *("clips", "frames_per_clip", "work_size", "device", "processes", "threads"),
        *("network_seconds_per_frame", "network_seconds_of_clips", "waiting_seconds_per_clip"),
        *("iou", "clip_mean_iou", "original_size", "consistency", "loss", "dense", "class_map"),
    }
)


class Metric(ABC):
    """One figure of an evaluation.

    ``name`` is its key in ``report.json``, ``title`` its name in tables and pages. With ``is_share`` it lies in [0, 1]
    and is shown in percent. Its gain over a baseline is shown where the baseline's report has it too.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    is_share: ClassVar[bool] = True

    def counts(self, prediction: Tensor, label: Tensor, classes: ClassSet) -> Tensor | None:
        """Counts of one clip, to be summed over all clips; from class indices ``H W`` on the CPU.

        ``None``, the default, for metrics that need only the confusion matrix.
        """
        return None

    @abstractmethod
    def value(self, confusion: ConfusionMatrix, counts: Tensor | None) -> float:
        """The metric from the confusion matrix and the summed ``counts`` of all clips; NaN where it is undefined."""

    def text(self, value: float | None) -> str:
        """A value as reports show it; ``None`` as NaN."""
        shown = math.nan if value is None else value
        return f"{100 * shown:.2f} %" if self.is_share else f"{shown:.4f}"

    def gain_text(self, gain: float) -> str:
        """A difference to a baseline as reports show it, in percentage points for shares."""
        return f"{100 * gain:+.2f}" if self.is_share else f"{gain:+.4f}"


class MetricCounts(dict[str, "Tensor"]):
    """The summed counts of all registered metrics that have some, by name."""

    def add(self, prediction: Tensor, label: Tensor, classes: ClassSet) -> None:
        """Adds those of a prediction and its label, class indices ``H W`` on the CPU."""
        for metric in registered_metrics():
            counts = metric.counts(prediction, label, classes)
            if counts is not None:
                before = self.get(metric.name)
                self[metric.name] = counts if before is None else before + counts


_METRICS: dict[str, Metric] = {}


def register_metric(metric: Metric) -> None:
    """Registers a metric, which every report then shows.

    Raises ``OptionError`` for a name that is taken, and for a metric without a name or title.
    """
    if not isinstance(metric, Metric):
        raise OptionError(f"{metric!r} is no metric: expected an instance of a subclass of Metric")
    check_declared("metric", metric, "name", "title")
    if metric.name in RESERVED:
        raise OptionError(f"a metric is named {metric.name!r}, which report.json has already: expected another name")
    if metric.name in _METRICS:
        raise OptionError(f"a metric named {metric.name!r} is registered already: expected another name")
    _METRICS[metric.name] = metric


def registered_metrics() -> Sequence[Metric]:
    """All metrics in the order in which reports show them, the shipped ones first."""
    import_all(SHIPPED)
    return tuple(_METRICS.values())


def shown_metrics(report: Mapping[str, object]) -> list[tuple[Metric, float | None]]:
    """The metrics that a report holds, with their values; ``None`` where a value is undefined."""
    found = [(metric, report[metric.name]) for metric in registered_metrics() if metric.name in report]
    return [(metric, value if isinstance(value, float | int) else None) for metric, value in found]
