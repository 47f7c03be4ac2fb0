"""The windows of a run in visdom: an environment of pictures and one of graphs, named after the run's folder."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from torch import Tensor

from engine.dashboard import windows
from engine.dashboard.client import Dashboard, environment_name, saved_window
from engine.dashboard.windows import BLUE, GREEN, PURPLE, VERMILION, Curve
from engine.evaluation.evaluate import Evaluation
from engine.evaluation.metric import registered_metrics
from engine.reports.clip_writers import class_legend
from engine.reports.memory_view import MemoryView, PixelPictures, telling_cells
from engine.reports.scores import MEAN_IOU, confusion_shares, iou_by_name, percent
from engine.run_folder import EpochRow, RunFolder
from utils.class_set import ClassSet
from utils.resize import resize_labels
from utils.sizes import height_width
from utils.visualize import colorized, error_map, narrowed

PICTURE_WIDTH = 560
# Points of the loss by step; of more, every second one is dropped.
MOST_POINTS = 4000


@dataclass(frozen=True)
class _Shot:
    """The first clip: its last frame ``H W 3``, and class indices ``H W`` of prediction and label."""

    frame: np.ndarray
    prediction: np.ndarray
    label: np.ndarray


class RunDashboard:
    """Shows a training or an evaluation. Calls return at once: the client's thread draws the pictures.

    ``look`` returns the memory view of the first clip, or ``None`` without a memory; ``rows`` are the epochs of a
    resumed training. Windows are updated every ``steps_plot`` steps, or batches of an evaluation.
    """

    def __init__(
        self,
        port: int,
        folder: RunFolder,
        classes: ClassSet,
        steps_plot: int,
        look: Callable[[], MemoryView | None],
        baseline: dict | None = None,
        rows: Sequence[EpochRow] = (),
    ):
        self.classes, self.steps_plot, self.look, self.baseline = classes, steps_plot, look, baseline
        self.pictures, self.graphs = (environment_name(f"{folder.name}_{kind}") for kind in ("pictures", "graphs"))
        self.client = Dashboard(port, (self.pictures, self.graphs))
        self._saved = folder.dashboard_folder
        self._view: MemoryView | None = None
        self._cell: tuple[int, int] | None = None
        self._shot: _Shot | None = None
        self._step_points: tuple[list[float], list[float]] = ([], [])
        self._milliseconds: tuple[list[float], list[float]] = ([], [])
        self._losses: list[float] = []
        self._keep_every = 1
        if rows:
            self._restore(rows)

    def see_clip(self, number: int, frame: Tensor, prediction: Tensor, label: Tensor) -> None:
        """Keeps the first clip of an evaluation; an ``OnClip`` callback."""
        if number == 0:
            size = height_width(frame.shape)
            self._shot = _Shot(
                np.ascontiguousarray(frame.permute(1, 2, 0).numpy()),
                resize_labels(prediction, size).numpy(),
                resize_labels(label, size).numpy().copy(),
            )

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Adds the loss of a training step; the graph shows means over ``steps_plot`` steps."""
        self._losses.append(loss)
        if len(self._losses) < self.steps_plot and step < steps:
            return
        x, y = self._step_points
        x.append(epoch - 1 + step / steps)
        y.append(sum(self._losses) / len(self._losses))
        self._losses.clear()
        if len(x) > MOST_POINTS:
            del x[::2], y[::2]
        shown = Curve("training", tuple(x), tuple(y), VERMILION)
        self._graph("loss by step", "epoch", "loss", (shown,), marks=len(x) < 40)

    def epoch(self, rows: Sequence[EpochRow], validation: Evaluation) -> None:
        """Shows a completed epoch, and saves both environments in the run's folder."""
        epochs = [row.epoch for row in rows]
        seconds = validation.network_seconds_per_frame()
        if seconds is not None:
            self._milliseconds[0].append(epochs[-1])
            self._milliseconds[1].append(1000 * seconds)
        self._curves_of(rows)
        self._scores(validation, f"validation of epoch {epochs[-1]}")
        self._times("epoch")
        self._first_clip(f"epoch {epochs[-1]}, mean IoU {percent(rows[-1].val_iou)} %")
        self.client.save(self._saved)

    def progress(self, evaluation: Evaluation) -> None:
        """Shows the scores so far after every ``steps_plot``-th batch; to be called after each batch."""
        batches = len(evaluation.network_seconds)
        if batches % self.steps_plot == 0:
            self._scores(evaluation, f"the first {evaluation.clips} clips")

    def evaluation(self, result: Evaluation) -> None:
        """Shows a completed evaluation, and saves both environments in the run's folder."""
        seconds, first = result.network_seconds[result.warm_up :], result.warm_up + 1
        self._milliseconds = list(range(first, first + len(seconds))), [1000 * value for value in seconds]
        self._scores(result, f"{result.clips} clips")
        self._times("clip")
        self._first_clip(f"mean IoU {percent(result.confusion.mean_iou())} % over all clips")
        self.client.save(self._saved)

    def wait_for_interrupt(self) -> None:
        """Answers clicks until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()

    def close(self) -> None:
        """Sends the remaining windows, for a few seconds at most."""
        self.client.close()

    def _restore(self, rows: Sequence[EpochRow]) -> None:
        """Shows the saved windows of a resumed training again, up to the last of ``rows``."""
        last = rows[-1].epoch
        for window, points in (("loss by step", self._step_points), ("time", self._milliseconds)):
            saved = saved_window(self._saved, self.graphs, window)
            for trace in (saved or {}).get("content", {}).get("data", [])[:1]:
                kept = [(x, y) for x, y in zip(trace["x"], trace["y"], strict=True) if x <= last and y is not None]
                points[0].extend(x for x, _ in kept)
                points[1].extend(y for _, y in kept)
        for window in ("prediction", "errors"):
            saved = saved_window(self._saved, self.pictures, window) or {}
            for content in saved.get("content", []):
                if _epoch_of(content) <= last:
                    self.client.add(self.pictures, window, partial(_saved_picture, saved, content))
        self._curves_of(rows)

    def _curves_of(self, rows: Sequence[EpochRow]) -> None:
        epochs = tuple(row.epoch for row in rows)

        def curve(name: str, field: str, color: str, dash: str = "solid", scale: float = 1) -> Curve:
            return Curve(name, epochs, tuple(scale * getattr(row, field) for row in rows), color, dash)

        pairs = (("loss", "loss", "loss", 1), ("mean IoU", "mean IoU, %", "iou", 100))
        for window, y_title, field, scale in pairs:
            train = curve("training", f"train_{field}", VERMILION, "dash", scale)
            val = curve("validation", f"val_{field}", BLUE, scale=scale)
            measured = [pair for pair in (train, val) if field == "loss" or any(pair.y)]
            self._graph(window, "epoch", y_title, measured or [val])
        self._graph("learning rate", "epoch", "learning rate", (curve("of Adam", "learning_rate", GREEN),))

    def _scores(self, evaluation: Evaluation, of_what: str) -> None:
        counts = evaluation.confusion.counts.cpu().clone()
        names, output_names = self.classes.names, self.classes.output_names
        iou, colors = iou_by_name(names, evaluation.confusion.iou()), dict(zip(names, self.classes.colors, strict=True))
        title, baseline = f"IoU per class: {of_what}, mean {percent(evaluation.confusion.mean_iou())} %", self.baseline
        metrics = [metric for metric in registered_metrics() if metric.name != MEAN_IOU]
        shown = [f"{metric.title} {metric.text(evaluation.value(metric))}" for metric in metrics]
        others = ", ".join([f"confusion: {of_what}", *shown])
        self.client.show(self.graphs, "IoU per class", lambda: windows.plot_of_iou(title, iou, colors, baseline))
        self.client.show(
            self.graphs,
            "confusion matrix",
            lambda: windows.plot_of_confusion(others, confusion_shares(counts.numpy()), output_names),
        )

    def _times(self, of_what: str) -> None:
        x, y = (tuple(values) for values in self._milliseconds)
        self._graph("time", of_what, "ms a frame in the network", (Curve("validation", x, y, PURPLE),))

    def _graph(self, window: str, x_title: str, y_title: str, curves: Sequence[Curve], marks: bool = True) -> None:
        self.client.show(self.graphs, window, lambda: windows.plot_of_curves(window, x_title, y_title, curves, marks))

    def _first_clip(self, caption: str) -> None:
        shot = self._shot
        if shot is None:
            return
        first, self._view = self._view is None, self.look()
        view = self._view
        if view is None:
            self._picture("frame", lambda: windows.picture("current frame", narrowed(shot.frame, PICTURE_WIDTH)))
        else:
            if self._cell is None:
                height, width = height_width(view.query.shape)
                found = telling_cells(shot.label, (height, width), 1, self.classes)
                self._cell = found[0][1:] if found else (height // 2, width // 2)
            if first:
                for name, frame in zip([*view.names(), "current frame"], [*view.past, view.frame], strict=True):
                    self._input(name, frame)
            self._inspect(view, *self._cell)
            self.client.on_click(self.pictures, "frame", self._clicked)
        self._picture("target", lambda: windows.picture("target", self._colored(shot.label), exact=True))
        self.client.add(
            self.pictures,
            "prediction",
            lambda: windows.picture("prediction", self._colored(shot.prediction), caption, exact=True, history=True),
        )
        self.client.add(
            self.pictures,
            "errors",
            lambda: windows.picture("errors", self._errors_of(shot), caption, exact=True, history=True),
        )
        self._picture(
            "legend", lambda: windows.picture("legend", class_legend(self.classes, PICTURE_WIDTH), exact=True)
        )

    def _clicked(self, down: float, right: float) -> None:
        view = self._view
        if view is not None:
            height, width = narrowed(view.frame, PICTURE_WIDTH).shape[:2]
            self._cell = view.cell_at((down - windows.top_in_pane(height)) / height, right / width)
            self._inspect(view, *self._cell)

    def _inspect(self, view: MemoryView, row: int, column: int) -> None:
        """Shows the attention of the feature pixel at ``row, column``."""

        @cache
        def pictures() -> PixelPictures:  # drawn once, by the client's thread
            return view.pictures(row, column, PICTURE_WIDTH)

        def current() -> dict:
            # A caption would shift the pixels in which the page counts clicks.
            elsewhere = f", {pictures().elsewhere()}" if pictures().elsewhere() else ""
            return windows.picture(f"pixel {row}, {column} (click twice for another){elsewhere}", pictures().current)

        def memory(number: int) -> dict:
            return windows.picture(f"{pictures().captions[number]} of the attention", pictures().past[number])

        self._picture("frame", current)
        for number in range(len(view.past)):
            self._picture(f"memory {number + 1}", partial(memory, number))

    def _input(self, name: str, frame: np.ndarray) -> None:
        def render() -> dict:
            return windows.picture("inputs", narrowed(frame, PICTURE_WIDTH), name, history=True)

        self.client.add(self.pictures, "inputs", render)

    def _colored(self, labels: np.ndarray) -> np.ndarray:
        return colorized(narrowed(labels, PICTURE_WIDTH, exact=True), self.classes.palette)

    def _errors_of(self, shot: _Shot) -> np.ndarray:
        prediction, label = (narrowed(labels, PICTURE_WIDTH, exact=True) for labels in (shot.prediction, shot.label))
        return error_map(narrowed(shot.frame, PICTURE_WIDTH), prediction, label, self.classes.ignored)

    def _picture(self, window: str, render: Callable[[], dict]) -> None:
        self.client.show(self.pictures, window, render)


def _epoch_of(content: dict) -> float:
    """The epoch in a picture's caption; infinity where there is none."""
    words = content.get("caption", "").replace(",", " ").split()
    return int(words[1]) if len(words) > 1 and words[0] == "epoch" and words[1].isdigit() else float("inf")


def _saved_picture(saved: dict, content: dict) -> dict:
    """The message that shows a picture of a saved window's history again."""
    opts = {name: saved[name] for name in ("title", "width", "height")}
    return {"data": [{"content": content, "type": "image_history"}], "opts": opts}
