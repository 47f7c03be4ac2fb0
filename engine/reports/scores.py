"""The scores of an evaluation: all metrics and the IoU per class, as a table and as JSON."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.metric import Metric, registered_metrics, shown_metrics
from utils.errors import OptionError
from utils.json_text import from_json
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


def confusion_shares(counts: np.ndarray) -> np.ndarray:
    """Counts ``K K`` as shares of each row, ``K-1 K``; NaN in rows of classes that are not labeled."""
    kept = counts[:-1].astype(np.float64)
    totals = kept.sum(axis=1, keepdims=True)
    return np.divide(kept, totals, out=np.full_like(kept, np.nan), where=totals > 0)


def read_report(folder: str | Path) -> dict:
    """Metrics and IoU from the report of an earlier evaluation. Raises ``OptionError`` where it cannot be read."""
    path = Path(folder) / "report.json"
    try:
        report = from_json(path.read_text(encoding="utf-8"))
        values = {metric.name: _number(value, metric.name) for metric, value in shown_metrics(report)}
        iou = {name: _number(value, f"iou of {name}") for name, value in dict(report["iou"]).items()}
        return {**values, "iou": iou, MEAN_IOU: _number(report[MEAN_IOU], MEAN_IOU)}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise OptionError(
            f"--baseline-path {folder}: its report.json cannot be read ({reason}): expected the --savedir of an "
            "evaluation"
        ) from error


def _number(value: object, name: str) -> float | None:
    """A figure of a report, ``None`` where it is undefined. Raises ``ValueError`` for anything but a finite number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
        raise ValueError(f"{name} is {str(value)[:40]!r}, expected a number")
    return float(value)


def gain_of(value: float | None, before: float | None) -> float | None:
    """The difference of two shares; ``None`` where either is ``None``."""
    return None if value is None or before is None else value - before


def _shaded(text: str, share: float | None, colored: bool) -> str:
    return shaded(text, share) if colored and share is not None else text


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
