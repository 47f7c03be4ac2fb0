"""The scores of an evaluation: all metrics and the IoU per class, as a table and as JSON."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.metric import Metric, registered_metrics, shown_metrics
from utils.terminal import shaded

MEAN_IOU = "mean_iou"
# Gain, or loss, as a share, that is shown in the deepest color.
DEEPEST_GAIN = 0.1


def percent(value: float | None) -> str:
    """A share as a percentage with two digits; ``nan`` for ``None``."""
    return "nan" if value is None or math.isnan(value) else f"{100 * value:.2f}"


def iou_by_name(names: Sequence[str], iou: Tensor) -> dict[str, float | None]:
    """IoU in [0, 1] by class name; ``None`` for classes neither labeled nor predicted."""
    return {name: _or_none(value) for name, value in zip(names, iou.tolist(), strict=False)}


def iou_table(
    names: Sequence[str],
    confusion: ConfusionMatrix,
    baseline: dict | None = None,
    colored: bool = False,
    metric_counts: Mapping[str, Tensor] | None = None,
) -> str:
    """IoU per class and their mean in percent, then all other metrics; with a ``baseline`` report its IoU and the gain.

    ``colored`` shades the numbers by value, for a terminal; ``metric_counts`` are those of an ``Evaluation``.
    """
    rows = [*iou_by_name(names, confusion.iou()).items(), ("mean", _or_none(confusion.mean_iou()))]
    before = {} if baseline is None else {**baseline["iou"], "mean": baseline["mean_iou"]}
    lines = [f"{'class':<14}{'IoU %':>8}" + (f"{'baseline':>10}{'gain':>8}" if before else "")]
    for position, (name, value) in enumerate(rows):
        if position == len(rows) - 1:
            lines.append("-" * len(lines[0]))
        cells = [_shaded(f"{percent(value):>8}", value, colored)]
        if before:
            gain = gain_of(value, before.get(name))
            depth = None if gain is None else 0.5 + gain / DEEPEST_GAIN / 2
            cells.append(f"{percent(before.get(name)):>10}")
            cells.append(_shaded(f"{'' if gain is None else f'{100 * gain:+.2f}':>8}", depth, colored))
        lines.append(f"{name:<14}{''.join(cells)}")
    values = _values(confusion, metric_counts)
    lines += [f"{metric.title} {metric.text(value)}" for metric, value in values if metric.name != MEAN_IOU]
    return "\n".join(lines)


def scores(
    names: Sequence[str], confusion: ConfusionMatrix, metric_counts: Mapping[str, Tensor] | None = None
) -> dict[str, object]:
    """All metrics and the IoU per class, plain values for JSON."""
    values = {metric.name: _or_none(value) for metric, value in _values(confusion, metric_counts)}
    return {**values, "iou": iou_by_name(names, confusion.iou())}


def _values(confusion: ConfusionMatrix, metric_counts: Mapping[str, Tensor] | None) -> list[tuple[Metric, float]]:
    """Every metric with its value, without those that need counts where ``metric_counts`` lacks them."""
    counts = metric_counts or {}
    found = []
    for metric in registered_metrics():
        needs_counts = type(metric).counts is not Metric.counts
        if not needs_counts or metric.name in counts:
            found.append((metric, metric.value(confusion, counts.get(metric.name))))
    return found


def consistency_shares(consistency: Mapping) -> dict[str, dict[str, float | None]]:
    """TC, mVC and metrics by title for each prediction of a consistency report, by name; ``None`` where undefined."""
    mvc, scored = consistency.get("mvc", {}), consistency.get("scores", {})
    return {
        name: video_shares({"TC": tc, **mvc.get(name, {}), **scored.get(name, {})})
        for name, tc in consistency["tc"].items()
    }


def video_shares(figures: Mapping) -> dict[str, float | None]:
    """TC, mVC and metrics by title of one prediction."""
    of_video = {title: value for title, value in figures.items() if title == "TC" or title.startswith("mVC")}
    return of_video | {metric.title: value for metric, value in shown_metrics(figures)}


def confusion_shares(counts: np.ndarray) -> np.ndarray:
    """Counts ``K K`` as shares of each row, ``K-1 K``; NaN in rows of classes that are not labeled."""
    kept = counts[:-1].astype(np.float64)
    totals = kept.sum(axis=1, keepdims=True)
    return np.divide(kept, totals, out=np.full_like(kept, np.nan), where=totals > 0)


def gain_of(value: float | None, before: float | None) -> float | None:
    """The difference of two shares; ``None`` where either is ``None``."""
    return None if value is None or before is None else value - before


def _shaded(text: str, share: float | None, colored: bool) -> str:
    return shaded(text, share) if colored and share is not None else text


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
