"""``report.html``: one self-contained page, readable on a phone and without a network.

Values are formatted here, as texts; the markup is in ``report.html.j2``, which escapes each of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np

from engine.evaluation.metric import shown_metrics
from engine.reports.memory_view import MemoryView, telling_cells
from engine.reports.picks import PickedClip
from engine.reports.scores import consistency_shares, gain_of, percent
from utils.class_map import class_map_text
from utils.class_set import ClassSet, Color
from utils.printable import printable
from utils.sizes import format_size, height_width
from utils.visualize import ERROR_LEGEND, colorized, data_uri, error_map, narrowed, png_uri

TEMPLATE = Path(__file__).with_name("report.html.j2")
PICTURE_WIDTH = 560
SHOWN_PIXELS = 4


@dataclass(frozen=True)
class InspectedClip:
    """A clip whose attention is shown, with its memory view."""

    clip: PickedClip
    view: MemoryView


@dataclass(frozen=True)
class ReportPage:
    """The content of the page; empty parts are left out. ``report`` is the content of ``report.json``."""

    title: str
    classes: ClassSet
    report: dict
    baseline: dict | None
    best: Sequence[PickedClip]
    worst: Sequence[PickedClip]
    inspected: InspectedClip | None
    confusion_png: bytes | None

    def html(self) -> str:
        """The whole page."""
        galleries = (("Best clips", self.best), ("Worst clips", self.worst))
        return _template().render(
            title=self.title,
            figures=_figures(self.report, self.baseline),
            rows=_table_rows(self.report, self.baseline, self.classes),
            with_baseline=self.baseline is not None,
            video=_video_rows(self.report),
            galleries=[_gallery(title, clips, self.classes) for title, clips in galleries if clips],
            errors=[_LegendEntry(name, _css(color)) for name, color in ERROR_LEGEND],
            attention=None if self.inspected is None else _attention(self.inspected, self.classes),
            confusion=png_uri(self.confusion_png) if self.confusion_png else None,
        )


@dataclass(frozen=True)
class _Figure:
    """A tile at the top of the page."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class _TableRow:
    """IoU of a class, or their mean; ``color`` is empty for the mean, ``width``, of the bar, where IoU is undefined."""

    name: str
    is_mean: bool
    color: str
    iou: str
    width: str
    baseline: str
    gain: str
    direction: str  # of the gain: "up", "down" or none


@dataclass(frozen=True)
class _LegendEntry:
    name: str
    color: str


@dataclass(frozen=True)
class _Picture:
    caption: str
    source: str  # a data URI


@dataclass(frozen=True)
class _ShownClip:
    name: str
    mean_iou: str
    pictures: Sequence[_Picture]


@dataclass(frozen=True)
class _Gallery:
    """Clips under one title, with a legend of their classes."""

    title: str
    classes: Sequence[_LegendEntry]
    clips: Sequence[_ShownClip]


@dataclass(frozen=True)
class _ShownPixel:
    """A feature pixel: its class, its position, and pictures of its attention."""

    name: str
    row: int
    column: int
    elsewhere: str
    pictures: Sequence[_Picture]


@dataclass(frozen=True)
class _Attention:
    clip: str
    reach: str
    pixels: Sequence[_ShownPixel]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE.parent),
        autoescape=True,
        # What a macro returns is a subclass of str that is escaped already.
        finalize=lambda value: printable(value, keeps="\n") if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE.name)


def _figures(report: dict, baseline: dict | None) -> list[_Figure]:
    shown = []
    for metric, value in shown_metrics(report):
        gain = gain_of(value, None if baseline is None else baseline.get(metric.name))
        note = "" if gain is None else f"{metric.gain_text(gain)} over the baseline"
        shown.append(_Figure(metric.title, metric.text(value), note))
    if "original_size" in report:
        mean_iou = percent(report["original_size"]["mean_iou"])
        shown.append(_Figure("mean IoU", f"{mean_iou} %", "at the labels' own size"))
    if "loss" in report:
        loss = report["loss"]
        shown.append(_Figure("loss", "nan" if loss is None else f"{loss:.4f}"))
    seconds = report["network_seconds_per_frame"]
    time = "not measured" if seconds is None else f"{1000 * seconds:.1f} ms"
    shown.append(_Figure("a frame", time, f"in the network, on {report['device']}"))
    size = format_size(report["work_size"], " x ")
    shown.append(_Figure("clips", f"{report['clips']}", f"of {report['frames_per_clip']} frames, {size}"))
    if "dense" in report:
        dense = report["dense"]
        mean_iou = f"{percent(dense['mean_iou'])} %"
        note = f"all {dense['frames']} labeled frames of {len(dense['videos'])} videos"
        shown.append(_Figure("mean IoU of videos", mean_iou, note))
        shown += [_Figure(name, f"{percent(value)} %") for name, value in dense["mvc"].items() if value is not None]
    if "class_map" in report:
        shown.append(_Figure("classes", f"{len(report['iou'])}", class_map_text(report["class_map"])))
    return shown


def _video_rows(report: dict) -> list[list[str]]:
    """A head and a row for each prediction that was followed over whole videos; none where that was not asked for."""
    shares = consistency_shares(report["consistency"]) if "consistency" in report else {}
    rows = [[name.replace("_", " "), *map(percent, each.values())] for name, each in shares.items()]
    titles = next(iter(shares.values()), {})
    return [["prediction", *(f"{title} %" for title in titles)], *rows] if rows else []


def _table_rows(report: dict, baseline: dict | None, classes: ClassSet) -> list[_TableRow]:
    """Rows of each class and, last, of their mean; no rows where IoU was not measured."""
    if "iou" not in report:
        return []
    had = {} if baseline is None else baseline["iou"]
    colors = {name: _css(color) for name, color in zip(classes.names, classes.colors, strict=True)}
    rows = [_table_row(name, value, had.get(name), colors.get(name, "")) for name, value in report["iou"].items()]
    mean_had = None if baseline is None else baseline["mean_iou"]
    return [*rows, _table_row("mean", report["mean_iou"], mean_had, is_mean=True)]


def _table_row(name: str, value: float | None, had: float | None, color: str = "", is_mean: bool = False) -> _TableRow:
    gain = gain_of(value, had)
    return _TableRow(
        name,
        is_mean,
        color,
        percent(value),
        "" if value is None else f"{100 * value:.1f}%",
        percent(had),
        "" if gain is None else f"{100 * gain:+.2f}",
        "" if gain is None else "up" if gain > 0 else "down" if gain < 0 else "",
    )


def _gallery(title: str, clips: Sequence[PickedClip], classes: ClassSet) -> _Gallery:
    present = np.unique(np.concatenate([np.unique([*np.unique(c.label), *np.unique(c.prediction)]) for c in clips]))
    named = zip((*classes.names, "without a label"), classes.palette, strict=True)
    legend = [_LegendEntry(name, _css(color)) for index, (name, color) in enumerate(named) if index in present]
    return _Gallery(title, legend, [_shown_clip(clip, classes) for clip in clips])


def _shown_clip(clip: PickedClip, classes: ClassSet) -> _ShownClip:
    frame = narrowed(clip.frame, PICTURE_WIDTH)
    prediction, label = (narrowed(labels, PICTURE_WIDTH, exact=True) for labels in (clip.prediction, clip.label))
    pictures = (
        _Picture("frame", data_uri(frame)),
        _Picture("label", data_uri(colorized(label, classes.palette), exact=True)),
        _Picture("prediction", data_uri(colorized(prediction, classes.palette), exact=True)),
        _Picture("errors", data_uri(error_map(frame, prediction, label, classes.ignored), exact=True)),
    )
    return _ShownClip(clip.name, percent(clip.mean_iou), pictures)


def _attention(inspected: InspectedClip, classes: ClassSet) -> _Attention | None:
    """The attention of some pixels of the clip; ``None`` where no class has enough pixels."""
    view, clip = inspected.view, inspected.clip
    cells = telling_cells(clip.prediction, height_width(view.query.shape), SHOWN_PIXELS, classes)
    if not cells:
        return None
    reach = f"its {view.config.corr_size} x {view.config.corr_size} neighbors" if view.config.local else "all pixels"
    pixels = [_shown_pixel(classes.names[index], view, row, column) for index, row, column in cells]
    return _Attention(clip.name, reach, pixels)


def _shown_pixel(name: str, view: MemoryView, row: int, column: int) -> _ShownPixel:
    pictures = view.pictures(row, column, PICTURE_WIDTH)
    past = zip(pictures.captions, pictures.past, strict=True)
    shown = [_Picture("current frame: the pixel", data_uri(pictures.current))]
    shown += [_Picture(caption, data_uri(heat)) for caption, heat in past]
    return _ShownPixel(name, row, column, pictures.elsewhere(), shown)


def _css(color: Color) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
