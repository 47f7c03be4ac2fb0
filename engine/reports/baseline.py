"""The report of an earlier evaluation, for a gain over it: refused or said where it was measured on something else."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.clips import Clip
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.metric import shown_metrics
from engine.options.settings import DataSettings
from engine.reports.scores import MEAN_IOU
from utils.class_set import ClassSet
from utils.errors import OptionError
from utils.json_text import from_json
from utils.sizes import format_size

log = logging.getLogger(__name__)

LABELED_PIXELS = "labeled_pixels"
# What an evaluation was measured on, as its report says it; older reports lack some of it.
_MEASURED_ON = ("clips", "clip_mean_iou", "frames_per_clip", "work_size", "control", LABELED_PIXELS)


def read_report(folder: str | Path) -> dict:
    """Metrics, IoU and what they were measured on, from the report of an earlier evaluation.

    Raises ``OptionError`` where it cannot be read.
    """
    path = Path(folder) / "report.json"
    try:
        report = from_json(path.read_text(encoding="utf-8"))
        measured_on = {name: report[name] for name in _MEASURED_ON if name in report}
        values = {metric.name: _number(value, metric.name) for metric, value in shown_metrics(report)}
        iou = {name: _number(value, f"iou of {name}") for name, value in dict(report["iou"]).items()}
        figures = {**values, "iou": iou, MEAN_IOU: _number(report[MEAN_IOU], MEAN_IOU)}
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        raise OptionError(
            f"--baseline-path {folder}: its report.json cannot be read ({reason}): expected the --savedir of an "
            "evaluation"
        ) from error
    return {**measured_on, **figures, "folder": str(folder)}


def check_comparable(baseline: Mapping, clips: Sequence[Clip], classes: ClassSet, data: DataSettings) -> None:
    """Raises ``OptionError`` where a report is of other classes, clips or sizes of frames than the evaluation to come.

    Another window or control is logged: those are what is compared at times, and a single frame has a window of 1.
    """
    label = f"--baseline-path {baseline['folder']}"
    theirs = list(baseline["iou"])
    if "clips" not in baseline:
        log.warning("%s: its report does not say which clips it was measured on", label)
    if theirs != list(classes.names) and ("clips" in baseline or not set(theirs) <= set(classes.names)):
        raise OptionError(
            f"{label}: its report is of {_some(theirs)}, this evaluation of {_some(classes.names)}: expected an "
            "evaluation on the same classes"
        )
    size = baseline.get("work_size", list(data.work_size))
    if size != list(data.work_size):
        raise OptionError(
            f"{label}: its report is of frames of {_size(size)}, this evaluation of {format_size(data.work_size)}: "
            f"evaluate the baseline with --work-size {format_size(data.work_size)}"
        )
    names = {clip.name for clip in clips}
    others = [name for name in _names(baseline.get("clip_mean_iou")) if name not in names]
    count = baseline.get("clips", len(clips))
    if others or count != len(clips):
        among = f", among them {others[0]}, which is not one of them" if others else ""
        found = "1 clip" if count == 1 else f"{count} clips"
        raise OptionError(
            f"{label}: its report is of {found}{among}, this evaluation of {len(clips)}: evaluate the baseline "
            f"on the same --data-root with --win-size {data.window}"
        )
    window = baseline.get("frames_per_clip", data.window)
    if window != data.window and 1 not in (window, data.window):
        log.warning("%s: its clips had %s frames, these have %s", label, window, data.window)
    control = baseline.get("control") or "none"
    if control != (data.control or "none"):
        log.warning("%s: measured with --control %s, this with %s", label, control, data.control or "none")


def labeled_pixels(confusion: ConfusionMatrix, classes: ClassSet) -> dict[str, int]:
    """Pixels of each class in the labels, by its name."""
    return dict(zip(classes.names, confusion.counts.sum(1).tolist(), strict=False))


def on_same_labels(baseline: dict | None, pixels: Mapping[str, int]) -> dict | None:
    """The baseline's report; ``None``, which is logged, where its labels had other pixels."""
    theirs = None if baseline is None else baseline.get(LABELED_PIXELS)
    if baseline is None or not isinstance(theirs, dict) or theirs == pixels:
        return baseline
    name = next((name for name in pixels if theirs.get(name) != pixels[name]), "other classes")
    log.warning(
        "--baseline-path %s: no gain is shown, as it was measured on other labels: they had %s pixels of %s, these %s",
        baseline["folder"],
        theirs.get(name),
        name,
        pixels.get(name),
    )
    return None


def _names(scores: object) -> list[str]:
    return list(scores) if isinstance(scores, dict) else []


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"


def _size(sides: object) -> str:
    if isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) for side in sides):
        return format_size(sides)
    return str(sides)


def _number(value: object, name: str) -> float | None:
    """A figure of a report, ``None`` where it is undefined. Raises ``ValueError`` for anything but a finite number."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, float | int) or not math.isfinite(value):
        raise ValueError(f"{name} is {str(value)[:40]!r}, expected a number")
    return float(value)
