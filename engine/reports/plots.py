"""Plots of a run as PNG: curves over the epochs, IoU per class, the confusion matrix, a stream's memory and time.

Colors that are not those of classes are from the Okabe-Ito palette, which the color-blind can distinguish; lines differ
in their dashes too.
"""

import io
import math
from collections.abc import Iterable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.reports.scores import confusion_shares, iou_by_name
from engine.run_folder import EpochRow, RunFolder
from utils.class_set import ClassSet
from utils.files import write_bytes

BLUE, VERMILION, GREEN, INK, GRAY = "#0072B2", "#D55E00", "#009E73", "#222222", "#8a8a8a"
LOOKS = matplotlib.RcParams(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": GRAY,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.grid": True,
        "grid.color": "#e4e4e4",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)
# Background of numbers that lines may cross.
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}
# Least share whose number is written in a cell of the confusion matrix.
WRITTEN_FROM = 0.01


def write_training_plots(
    folder: RunFolder,
    rows: Sequence[EpochRow],
    best_epoch: int,
    confusion: ConfusionMatrix,
    classes: ClassSet,
    baseline: dict | None,
) -> None:
    """Writes ``curves.png`` of all epochs, ``iou.png`` and ``confusion.png`` of the last epoch's validation."""
    title = f"validation of epoch {rows[-1].epoch}"
    iou, mean = iou_by_name(classes.names, confusion.iou()), confusion.mean_iou()
    write_bytes(folder.curves_file, curves_png(rows, best_epoch))
    write_bytes(folder.iou_file, iou_png(iou, mean, classes.colors, f"IoU per class, {title}", baseline))
    counts = confusion.counts.cpu().numpy()
    write_bytes(folder.confusion_file, confusion_png(counts, classes.output_names, f"Confusion matrix, {title}"))


def curves_png(rows: Sequence[EpochRow], best_epoch: int) -> bytes:
    """Losses, mean IoU and learning rate over the epochs; the best epoch is marked."""
    with matplotlib.rc_context(LOOKS):
        figure = Figure(figsize=(12, 3.6), layout="constrained")
        losses, ious, rates = figure.subplots(1, 3)
        _draw_pair(losses, rows, "loss", [row.train_loss for row in rows], [row.val_loss for row in rows])
        train_iou, val_iou = ([100 * getattr(row, name) for row in rows] for name in ("train_iou", "val_iou"))
        _draw_pair(ious, rows, "mean IoU, %", train_iou if any(train_iou) else None, val_iou if any(val_iou) else None)
        epochs = [row.epoch for row in rows]
        rates.plot(epochs, [row.learning_rate for row in rows], color=GREEN, marker=_marker(rows), label="of Adam")
        rates.set_title("learning rate")
        rates.set_ylim(bottom=0)
        rates.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        for axes in (losses, ious, rates):
            axes.axvline(best_epoch, color=GRAY, linestyle=":", linewidth=1.2, label=f"best epoch ({best_epoch})")
            axes.set_xlabel("epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.legend()
        return _png(figure)


def iou_png(
    iou: dict[str, float | None],
    mean: float,
    colors: Sequence[tuple[int, int, int]],
    title: str,
    baseline: dict | None = None,
) -> bytes:
    """A bar per class in the class's color, a line at the mean, and diamonds at the IoU of ``baseline``, a report."""
    with matplotlib.rc_context(LOOKS):
        figure = Figure(figsize=(8, 0.32 * len(iou) + 1.6), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(iou))
        values = [0 if value is None else 100 * value for value in iou.values()]
        fills = [tuple(channel / 255 for channel in color) for color in colors[: len(iou)]]
        axes.barh(places, values, color=fills, edgecolor=INK, linewidth=0.6, height=0.72)
        for place, (name, value) in enumerate(iou.items()):
            text = "neither labeled nor predicted" if value is None else f"{100 * value:.1f}"
            right = 100 * (value or 0)
            had = _share(baseline, name)
            if value is not None and had is not None:
                right = max(right, 100 * had)
                text += f"  ({100 * (value - had):+.1f})"
            ink = GRAY if value is None else INK
            axes.text(right + 1.6, place, text, va="center", color=ink, fontsize=9, bbox=PAPER)
        if not math.isnan(mean):
            axes.axvline(100 * mean, color=BLUE, linewidth=1.6, label=f"mean {100 * mean:.2f} %")
        if baseline is not None:
            _draw_baseline(axes, list(iou), baseline)
        axes.set_yticks(places, _plain(iou))
        axes.set_ylim(len(iou) - 0.4, -0.6)
        axes.set_xlim(0, 116)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("IoU, %")
        axes.grid(axis="y", visible=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower right", ncols=3)
        return _png(figure)


def confusion_png(counts: np.ndarray, names: Sequence[str], title: str) -> bytes:
    """The confusion matrix in percent of the labeled pixels of each class, a row.

    ``counts`` is ``K K``, rows labels, columns predictions; the last row, of the ignore index, is left out.
    """
    shares = confusion_shares(counts)
    rows, columns = shares.shape
    with matplotlib.rc_context(matplotlib.RcParams({**LOOKS, "axes.grid": False})):
        figure = Figure(figsize=(9.4, 8.4), layout="constrained")
        axes = figure.subplots()
        painted = axes.imshow(100 * shares, cmap="cividis", vmin=0, vmax=100)
        for row in range(rows):
            for column in range(columns):
                share = shares[row, column]
                if share >= WRITTEN_FROM:
                    ink = "black" if share > 0.5 else "white"
                    axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=ink, fontsize=7.5)
        axes.set_xticks(range(columns), _plain(names[:columns]), rotation=55, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(rows), _plain(names[:rows]))
        axes.set_xlabel("predicted")
        axes.set_ylabel("labeled")
        axes.spines[:].set_visible(False)
        axes.set_facecolor("#dddddd")
        axes.set_title(title)
        figure.colorbar(painted, ax=axes, shrink=0.6, label="% of the labeled pixels (gray: none is labeled)")
        return _png(figure)


def stream_png(samples: dict[str, Sequence[float | None]]) -> bytes:
    """Resident memory and the network's time for a frame over the frames of a stream, both axes from 0."""
    with matplotlib.rc_context(LOOKS):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        panels = (("resident_mebibytes", "resident memory, MiB", BLUE), ("network_milliseconds", "network, ms", GREEN))
        for axes, (name, title, color) in zip(figure.subplots(1, 2), panels, strict=True):
            values = [math.nan if value is None else value for value in samples[name]]
            axes.plot(samples["frame"], values, color=color, linewidth=1.2)
            axes.set_title(title)
            axes.set_xlabel("frame")
            axes.set_ylim(bottom=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        return _png(figure)


def _draw_pair(
    axes: Axes, rows: Sequence[EpochRow], title: str, train: list[float] | None, val: list[float] | None
) -> None:
    epochs = [row.epoch for row in rows]
    for values, name, color, dashes in ((train, "training", VERMILION, "--"), (val, "validation", BLUE, "-")):
        if values is not None:
            axes.plot(epochs, values, color=color, linestyle=dashes, marker=_marker(rows), markersize=4, label=name)
    axes.set_title(title)


def _plain(names: Iterable[str]) -> list[str]:
    """Names as labels of an axis; between dollar signs Matplotlib would read formulas."""
    return [name.replace("$", r"\$") for name in names]


def _draw_baseline(axes: Axes, names: list[str], baseline: dict) -> None:
    shares = {place: share for place, name in enumerate(names) if (share := _share(baseline, name)) is not None}
    axes.scatter(
        [100 * share for share in shares.values()],
        list(shares),
        marker="D",
        s=26,
        facecolor="white",
        edgecolor=VERMILION,
        linewidth=1.4,
        zorder=3,
        label="baseline",
    )
    if baseline["mean_iou"] is not None:
        mean = 100 * baseline["mean_iou"]
        axes.axvline(mean, color=VERMILION, linestyle="--", linewidth=1.4, label=f"its mean {mean:.2f} %")


def _share(baseline: dict | None, name: str) -> float | None:
    share = None if baseline is None else baseline["iou"].get(name)
    return None if share is None or math.isnan(share) else share


def _marker(rows: Sequence[EpochRow]) -> str:
    return "o" if len(rows) <= 30 else ""


def _png(figure: Figure) -> bytes:
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=130)
    return encoded.getvalue()
