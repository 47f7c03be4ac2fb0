"""``report.html``: one page that holds all it shows, readable on a phone and without a network."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template

import numpy as np

from datasets.classes import CLASSES, IGNORED, PALETTE
from engine.reports.memory_view import MemoryView, telling_cells
from engine.reports.picks import PickedClip
from engine.reports.scores import gain_of, percent
from utils.visualize import ERROR_LEGEND, colorized, data_uri, error_map, narrowed, png_uri

PICTURE_WIDTH = 560
SHOWN_PIXELS = 4


@dataclass(frozen=True)
class InspectedClip:
    """A clip whose attention is shown, with its memory view."""

    clip: PickedClip
    view: MemoryView


@dataclass(frozen=True)
class ReportPage:
    """What the page shows. ``report`` is the content of report.json; parts that are empty are left out."""

    title: str
    report: dict
    baseline: dict | None
    best: Sequence[PickedClip]
    worst: Sequence[PickedClip]
    inspected: InspectedClip | None
    confusion_png: bytes | None

    def html(self) -> str:
        """The whole page."""
        parts = [self._figures(), self._table()]
        parts += [_clips("Best clips", self.best), _clips("Worst clips", self.worst)]
        if self.inspected is not None:
            parts.append(_attention(self.inspected))
        if self.confusion_png:
            parts.append(
                "<section><h2>Confusion matrix</h2>"
                f'<img class="wide" alt="confusion matrix" src="{png_uri(self.confusion_png)}"></section>'
            )
        return PAGE.substitute(title=escape(self.title), style=STYLE, content="\n".join(filter(None, parts)))

    def _figures(self) -> str:
        report = self.report
        shown = []
        if "mean_iou" in report:
            gain = gain_of(report["mean_iou"], None if self.baseline is None else self.baseline["mean_iou"])
            note = "" if gain is None else f"{100 * gain:+.2f} over the baseline"
            shown.append(("mean IoU", f"{percent(report['mean_iou'])} %", note))
            shown.append(("pixel accuracy", f"{percent(report['accuracy'])} %", ""))
        if "original_size" in report:
            shown.append(("mean IoU", f"{percent(report['original_size']['mean_iou'])} %", "at the labels' own size"))
        if "loss" in report:
            shown.append(("loss", f"{report['loss']:.4f}", ""))
        milliseconds = f"{1000 * report['network_seconds_per_frame']:.1f} ms"
        shown.append(("a frame", milliseconds, f"in the network, on {report['device']}"))
        height, width = report["work_size"]
        shown.append(("clips", f"{report['clips']}", f"of {report['frames_per_clip']} frames, {height} x {width}"))
        tiles = (
            f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><small>{escape(note)}</small></div>"
            for name, value, note in shown
        )
        return f'<dl class="figures">{"".join(tiles)}</dl>'

    def _table(self) -> str:
        if "iou" not in self.report:
            return ""
        had = {} if self.baseline is None else {**self.baseline["iou"], "mean": self.baseline["mean_iou"]}
        rows = [*self.report["iou"].items(), ("mean", self.report["mean_iou"])]
        head = "<th>class</th><th>IoU&nbsp;%</th><th></th>" + ("<th>baseline</th><th>gain</th>" if had else "")
        colors = {c.name: _css(c.color) for c in CLASSES}
        lines = []
        for name, value in rows:
            swatch = f'<i style="background:{colors[name]}"></i>' if name in colors else ""
            bar = (
                ""
                if value is None
                else f'<b style="width:{100 * value:.1f}%;background:{colors.get(name, "#555")}"></b>'
            )
            line = f'<td>{swatch}{escape(name)}</td><td class="n">{percent(value)}</td><td class="bar">{bar}</td>'
            if had:
                gain = gain_of(value, had.get(name))
                kind = "" if gain is None else " up" if gain > 0 else " down" if gain < 0 else ""
                line += f'<td class="n">{percent(had.get(name))}</td>'
                line += f'<td class="n{kind}">{"" if gain is None else f"{100 * gain:+.2f}"}</td>'
            lines.append(f"<tr{' class=mean' if name == 'mean' else ''}>{line}</tr>")
        note = "nan: the class is neither labeled nor predicted and does not count."
        return (
            f"<section><h2>IoU per class</h2><table><thead><tr>{head}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table><p>{note}</p></section>"
        )


def _clips(title: str, clips: Sequence[PickedClip]) -> str:
    if not clips:
        return ""
    shown = "".join(
        f"<article><h3>{escape(clip.name)} <span>mean IoU {percent(clip.mean_iou)} %</span></h3>"
        f'<div class="grid">{_pictures(clip)}</div></article>'
        for clip in clips
    )
    present = np.unique(np.concatenate([np.unique([*np.unique(c.label), *np.unique(c.prediction)]) for c in clips]))
    legend = [(c.name, c.color) for c in CLASSES if c.train_id in present]
    legend += [("without a label", PALETTE[IGNORED])] if IGNORED in present else []
    return f"<section><h2>{title}</h2>{_legend('classes', legend)}{_legend('errors', ERROR_LEGEND)}{shown}</section>"


def _pictures(clip: PickedClip) -> str:
    frame = narrowed(clip.frame, PICTURE_WIDTH)
    prediction, label = (narrowed(labels, PICTURE_WIDTH, exact=True) for labels in (clip.prediction, clip.label))
    return "".join(
        (
            _figure("frame", data_uri(frame)),
            _figure("label", data_uri(colorized(label, PALETTE), exact=True)),
            _figure("prediction", data_uri(colorized(prediction, PALETTE), exact=True)),
            _figure("errors", data_uri(error_map(frame, prediction, label, IGNORED), exact=True)),
        )
    )


def _attention(inspected: InspectedClip) -> str:
    view, clip = inspected.view, inspected.clip
    shown = []
    for train_id, row, column in telling_cells(clip.prediction, view.query.shape[-2:], SHOWN_PIXELS):
        pictures = view.pictures(row, column, PICTURE_WIDTH)
        figures = [_figure("current frame: the pixel", data_uri(pictures.current))]
        figures += [
            _figure(caption, data_uri(heat)) for caption, heat in zip(pictures.captions, pictures.past, strict=True)
        ]
        elsewhere = f" <span>{escape(pictures.elsewhere())}</span>" if pictures.elsewhere() else ""
        shown.append(
            f"<article><h3>{escape(CLASSES[train_id].name)}, row {row}, column {column}{elsewhere}</h3>"
            f'<div class="grid">{"".join(figures)}</div></article>'
        )
    if not shown:
        return ""
    reach = f"its {view.config.corr_size} x {view.config.corr_size} neighbors" if view.config.local else "all pixels"
    return (
        f"<section><h2>Attention</h2><p>{escape(clip.name)}: where one pixel of the features looks among {reach} in "
        "each frame of the memory, oldest first. Percentages are shares of all its attention, the blue square is its "
        f"window.</p>{''.join(shown)}</section>"
    )


def _legend(title: str, entries: Sequence[tuple[str, tuple[int, int, int]]]) -> str:
    items = "".join(f'<li><i style="background:{_css(color)}"></i>{escape(name)}</li>' for name, color in entries)
    return f'<ul class="legend" aria-label="{title}">{items}</ul>'


def _figure(caption: str, source: str) -> str:
    return f'<figure><figcaption>{escape(caption)}</figcaption><img alt="{escape(caption)}" src="{source}"></figure>'


def _css(color: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)


PAGE = Template("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<link rel="icon" href="data:,">
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$content
</main>
</body>
</html>
""")

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #666c74; --line: #e3e5e8; --page: #f6f7f8; --card: #fff;
  --up: #0072b2; --down: #c04f00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #9aa0a8; --line: #33373d; --page: #15171a;
  --card: #1e2125; --up: #56b4e9; --down: #f0a04b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.45 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 20px 16px 60px; }
h1 { font-size: 1.5rem; margin: 8px 0 18px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 12px; }
h3 { font-size: .95rem; margin: 18px 0 8px; overflow-wrap: anywhere; }
h3 span, small, p, figcaption, dt { color: var(--soft); font-weight: 400; }
p { font-size: .9rem; margin: 8px 0; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px; margin: 16px 0; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0; }
.figures div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
.figures dt { font-size: .85rem; }
.figures dd { margin: 2px 0; font-size: 1.45rem; font-weight: 600; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: right; font-weight: 500; color: var(--soft); padding: 4px 6px; }
th:first-child { text-align: left; }
td { padding: 3px 6px; border-top: 1px solid var(--line); white-space: nowrap; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
td.bar { width: 55%; min-width: 60px; }
td.bar b { display: block; height: 12px; border-radius: 2px; outline: 1px solid rgba(128, 128, 128, .5); }
tr.mean td { font-weight: 600; border-top: 2px solid var(--soft); }
td.up { color: var(--up); } td.down { color: var(--down); }
i { display: inline-block; width: 13px; height: 13px; margin-right: 7px; border-radius: 3px; vertical-align: -1px;
  outline: 1px solid rgba(128, 128, 128, .6); }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 14px; padding: 0; margin: 0 0 6px;
  font-size: .85rem; }
.grid { display: grid; grid-template-columns: repeat(4, 1fr); gap: 8px; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; border-radius: 4px; }
img.wide { max-width: 900px; margin: 0 auto; }
figcaption { font-size: .8rem; padding-bottom: 3px; }
@media (max-width: 900px) { .grid { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 420px) { .grid { gap: 6px; } td, th { padding: 3px 4px; } td.bar { width: 35%; min-width: 30px; }
  section { padding: 12px 10px; } main { padding: 12px 8px 40px; } }
"""
