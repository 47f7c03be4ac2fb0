"""Messages for the visdom server: contents of windows; plots are in Plotly's format.

Colors are from the Okabe-Ito palette, which the color-blind can distinguish; lines differ in their dashes too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from utils.class_set import Color
from utils.visualize import data_uri

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
PLOT_SIZE = {"width": 520, "height": 330}
# In visdom's page the height of a pane is a number of rows of 15 pixels, minus 9; its title bar takes 15 of them.
ROW, LOST, BAR = 15, 9, 15


class Curve(NamedTuple):
    """A line of a plot; ``nan`` and ``None`` are gaps."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: str
    dash: str = "solid"


def plot_of_curves(title: str, x_title: str, y_title: str, curves: Sequence[Curve], marks: bool = True) -> dict:
    """A plot of lines; ``marks`` draws their points too."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if marks else "lines",
            "name": curve.name,
            "x": list(curve.x),
            "y": [None if value is None or math.isnan(value) else value for value in curve.y],
            "line": {"color": curve.color, "dash": curve.dash, "width": 2 if marks else 1.2},
            "marker": {"size": 6, "color": curve.color},
        }
        for curve in curves
    ]
    return _plot(title, traces, {"title": x_title}, {"title": y_title}, PLOT_SIZE)


def plot_of_iou(
    title: str, iou: dict[str, float | None], colors: Mapping[str, Color], baseline: dict | None = None
) -> dict:
    """A bar per class, in percent and in the class's color; diamonds at the IoU of ``baseline``, a report."""
    names = list(iou)
    fills = ["#{:02x}{:02x}{:02x}".format(*colors[name]) for name in names]
    traces = [
        {
            "type": "bar",
            "name": "IoU",
            "x": names,
            "y": [_percent(value) for value in iou.values()],
            "marker": {"color": fills, "line": {"color": "#222", "width": 1}},
        }
    ]
    if baseline is not None:
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "baseline",
                "x": names,
                "y": [_percent(baseline["iou"].get(name)) for name in names],
                "marker": {"symbol": "diamond-open", "size": 9, "color": VERMILION, "line": {"width": 2}},
            }
        )
    axes = {"tickangle": -50, "automargin": True}, {"title": "IoU, %", "range": [0, 100]}
    return _plot(title, traces, *axes, {"width": 760, "height": 380})


def plot_of_confusion(title: str, shares: np.ndarray, names: Sequence[str]) -> dict:
    """A heat map of shares ``K-1 K`` in percent: rows are labels (NaN without pixels), columns predictions."""
    rows, columns = shares.shape
    trace = {
        "type": "heatmap",
        "x": list(names[:columns]),
        "y": list(names[:rows]),
        "z": [[_percent(float(share), 2) for share in row] for row in shares],
        "zmin": 0,
        "zmax": 100,
        "colorscale": "Cividis",
        "colorbar": {"title": "% of row"},
        "hovertemplate": "%{y} taken for %{x}: %{z} %<extra></extra>",
    }
    x_axis = {"title": "predicted", "tickangle": -50, "automargin": True}
    y_axis = {"title": "labeled", "autorange": "reversed", "automargin": True}
    return _plot(title, [trace], x_axis, y_axis, {"width": 760, "height": 640})


def pane_height(height: int) -> int:
    """Height in pixels to request for a pane that shows all of a picture of ``height``."""
    rows = -(-(height + 2 * BAR + LOST) // ROW)
    return ROW * rows - ROW - LOST


def top_in_pane(height: int) -> float:
    """Offset in pixels of the picture in such a pane below its bar, where the page counts clicks from."""
    return (pane_height(height) + ROW - height) / 2


def picture(title: str, image: np.ndarray, caption: str = "", exact: bool = False, history: bool = False) -> dict:
    """A picture ``H W 3`` in a pane of its size; ``history`` adds it to a pane with a slider, ``exact`` encodes PNG."""
    content = {"src": data_uri(image, exact), "caption": caption}
    height, width = image.shape[:2]
    below = 26 * history + 22 * bool(caption)
    # The page draws it one pixel wider than requested: in its own size then, so that clicks are in its pixels.
    opts = {"title": title, "width": width - 1, "height": pane_height(height + below)}
    return {"data": [{"content": content, "type": "image_history" if history else "image"}], "opts": opts}


def text(title: str, html: str, width: int, height: int) -> dict:
    """A pane with HTML, of a size in pixels."""
    return {
        "data": [{"content": html, "type": "text"}],
        "layout": {},
        "opts": {"title": title, "width": width, "height": height},
    }


def _plot(title: str, traces: list[dict], x_axis: dict, y_axis: dict, size: dict) -> dict:
    layout = {
        "xaxis": x_axis,
        "yaxis": y_axis,
        "showlegend": True,
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 64, "r": 20, "t": 40, "b": 64},
    }
    return {"data": traces, "layout": layout, "opts": {"title": title, **size}}


def _percent(share: float | None, digits: int = 3) -> float | None:
    return None if share is None or math.isnan(share) else round(100 * share, digits)
