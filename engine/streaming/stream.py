"""A video of any length, frame by frame: reading, the network and the outputs run in parallel threads.

The thread of the network only starts computing. Another one waits for the labels of a frame, counts them and passes
them on while the network is at the next frame, so that a GPU always has work.
"""

import errno
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from tqdm import tqdm

from engine.evaluation.consistency import Comparison, consistency_text
from engine.evaluation.temporal_consistency import TemporalConsistency
from engine.reports.plots import stream_png
from engine.reports.scores import percent
from engine.streaming.frame_budget import FrameBudget, Share
from engine.streaming.output import LabeledFrame, Output
from engine.streaming.previous import PLOT, SUMMARY
from engine.streaming.record import Sample, StreamRecord
from engine.streaming.sources import FrameSource, SourceFrame
from engine.streaming.sources.live import LiveSource, ReceivedSource
from engine.streaming.threads import REMEMBERED, Background, GivenUpError, OnDemand, Prefetched
from models.inference.segmenter import NOT_FINITE, Prediction, VideoSegmenter
from utils.allocator import make_room
from utils.class_set import ClassSet
from utils.errors import IncompleteError, ScoresError, StoppedError
from utils.files import write_bytes, write_text
from utils.json_text import to_json
from utils.limits import BYTES_IN_FLIGHT
from utils.scene_cuts import SceneCuts
from utils.signals import NotedSignals
from utils.sizes import format_size
from utils.timing import Moment

log = logging.getLogger(__name__)

SHOWN_CUTS, SHOWN_CHANGES = 10, 3
FLOAT16_BYTES = 2
# Timing of the network alone, after a stream: share of the stream's duration, least and most steps.
ALONE_SHARE, LEAST_ALONE, MOST_ALONE = 0.05, 7, 50


class Prepared(NamedTuple):
    """A source's frame, the same resized for the network, uint8 ``1 3 H W``, and whether it begins a new scene.

    It does so, too, where it is not of the size of the frame before it."""

    source: SourceFrame
    image: Tensor
    begins_scene: bool
    changes_size: bool
    share: Share  # of the budget of bytes


class Underway(NamedTuple):
    """A frame whose labels are being computed: the moments before and after the network, and functions that wait."""

    source: SourceFrame
    image: Tensor  # prepared
    start: Moment
    end: Moment
    labels: Callable[[], np.ndarray]  # at the working size
    labels_at_size: Callable[[], np.ndarray]
    probabilities: Callable[[], np.ndarray] | None
    share: Share


class Stream:
    """Labels the frames of a source and writes them to outputs.

    ``consistency`` is updated with each frame; ``before_writing`` is called with a frame's name before outputs take it.
    """

    def __init__(
        self,
        segmenter: VideoSegmenter,
        source: FrameSource,
        outputs: Sequence[Output],
        classes: ClassSet,
        detect_cuts: bool = True,
        consistency: TemporalConsistency | None = None,
        before_writing: Callable[[str], None] = lambda name: None,
    ):
        self.segmenter, self.source, self.outputs = segmenter, source, outputs
        self.consistency, self._before_writing = consistency, before_writing
        self.wants_probabilities = any(output.needs_probabilities for output in outputs)
        self.record = StreamRecord(classes)
        self.problems: list[Exception] = []  # of outputs that could not be completed
        self._signals = NotedSignals()
        self._comparison = None if consistency is None else Comparison(segmenter)
        self._cuts = SceneCuts() if detect_cuts else None
        self._size: tuple[int, int] | None = None
        self._budget = FrameBudget(BYTES_IN_FLIGHT)
        self._reader: Prefetched[SourceFrame, Prepared] | OnDemand[Any, Prepared]
        if isinstance(source, LiveSource):
            self._reader = source.reader(self._prepared, self._budget.has_room)
        else:
            self._reader = Prefetched(source, self._prepared, has_room=self._budget.has_room)
        self._started = 0  # frames that the network was given
        self._writers: list[OutputThread] = []
        self._labeler: Background[Underway] | None = None
        self._comparer: Background[tuple[Tensor, bool, dict[str, np.ndarray]]] | None = None

    def run(self) -> None:
        """Labels all frames of the source; the main thread only, once.

        Raises ``KeyboardInterrupt`` for Ctrl-C, ``StoppedError`` for SIGTERM, ``IncompleteError`` where the source is
        truncated or an output fails. The files of the frames until then are complete.
        """
        self._writers = [OutputThread(output) for output in self.outputs]
        if not isinstance(self.source, LiveSource):  # of which no frame is to wait for the labels of others
            self._labeler = Background(self._pass_on, "passing on", depth=1)
        if self.consistency is not None:
            self._comparer = Background(partial(_compare, self.consistency), "consistency")
        start = time.perf_counter()
        with self._signals:
            last, failure = None, None
            try:
                last = self._label_frames()
            except BaseException as error:  # raised below, when the outputs are complete
                failure = error
            if isinstance(self.source, ReceivedSource):
                self.source.close()
            self._reader.stop()
            self.problems = self._complete_outputs()
            self.record.seconds = time.perf_counter() - start
            self._raise_what_happened(failure)
        if last is not None and self.record.is_settled:
            self._time_network_alone(last)

    def summary(self) -> dict:
        """The content of ``stream.json``: frames, speed, time of each stage, class shares, cuts, samples."""
        record = self.record
        stages = {"reading": self._reader.milliseconds, "network": record.network_ms}
        stages |= {writer.name: writer.milliseconds for writer in self._writers}
        if self._comparer is not None:
            stages[self._comparer.name] = self._comparer.milliseconds
        return {
            "complete": record.stopped_by is None,
            "stopped_by": record.stopped_by,
            "source": self.source.description,
            "frames": record.frames,
            "frame_size": list(record.frame_size or ()),
            "seconds": round(record.seconds, 3),
            "frames_per_second": round(record.frames / record.seconds, 3) if record.seconds else None,
            "pace": record.pace(),
            "milliseconds": {name: round(statistics.median(each), 3) for name, each in stages.items() if each},
            "milliseconds_of": f"medians of each stage's last {REMEMBERED} frames; stages run side by side",
            "scene_cuts": record.cuts,
            "size_changes": record.size_changes,
            "live": self._live_report(),
            "class_shares": record.class_shares(),
            "consistency": None if self.consistency is None else self.consistency.report(),
            "samples": {name: [getattr(each, name) for each in record.samples] for name in Sample._fields},
        }

    def _label_frames(self) -> Tensor | None:
        """Labels frame after frame; returns the last one, prepared."""
        image = None
        self._reader.while_waiting = self._raise_noted
        with tqdm(total=self.source.count, unit=" frames", disable=None) as progress:
            for prepared in self._reader:
                image = prepared.image
                underway = self._underway(prepared)
                if self._labeler is None:
                    self._pass_on(underway)
                else:
                    self._labeler.put(underway, self._gives_up)
                del prepared, underway  # before the next one is waited for: frames may be large
                progress.update()
                self._signals.raise_noted()
        return image

    def _raise_noted(self) -> None:
        """Raises what stops the stream: signals, and errors of threads that keep frames which the reader waits for."""
        self._signals.raise_noted()
        for thread in (self._labeler, *self._writers):
            if thread is not None:
                thread.raise_failure()

    def _raise_what_happened(self, failure: BaseException | None) -> None:
        """Raises what stopped the stream, if anything; a signal goes before what it has led to."""
        errors = [self._explained(error) for error in (failure, *self.problems) if error is not None]
        if errors:
            self.record.stopped_by = _stopped_by(errors[0])
        for error in errors:
            if not isinstance(error, IncompleteError):
                raise error
        try:
            self._signals.raise_noted()
        except (KeyboardInterrupt, StoppedError) as stop:
            if errors:
                self.record.stopped_by = _stopped_by(stop)
            raise
        if errors:
            raise IncompleteError("; ".join(map(str, errors))) from errors[0]

    def _explained(self, error: BaseException) -> BaseException:
        """The error; for scores that are not finite one that names the frame, and the part of the network."""
        if not isinstance(error, _NotFinite):
            return error
        part = self.segmenter.first_part_not_finite(error.image)
        where = f", from its {part} on" if part else ""
        retry = "try other --weights, or leave --amp out" if self.segmenter.amp else "try other --weights"
        text = f"frame {error.position} ({error.name}): {NOT_FINITE}{where}: expected finite numbers; {retry}"
        if error.position == 0:
            return ScoresError(text)
        return IncompleteError(f"{text}; {error.position} frames before it are kept")

    def _gives_up(self) -> bool:
        """Whether what hangs is no longer waited for."""
        return self._signals.insists

    def _live_report(self) -> dict | None:
        """What became of the frames that a camera or a network stream sent; ``None`` for other sources."""
        if not isinstance(self.source, ReceivedSource):
            return None
        return self.source.reception.report(self.record.frames) | self.record.latency()

    def _prepared(self, frame: SourceFrame) -> Prepared:
        size = frame.image.shape[:2]
        changes_size, self._size = self._size not in (None, size), size
        is_cut = self._cuts is not None and self._cuts.begins_scene(frame.image)
        begins_scene = is_cut or frame.after_gap or changes_size
        share = self._budget.take(self._bytes_of(frame), uses=max(1, len(self.outputs)))
        return Prepared(frame, self.segmenter.prepare(frame.image), begins_scene, changes_size, share)

    def _bytes_of(self, frame: SourceFrame) -> int:
        """Bytes of a frame and of what is computed for it: labels at its size, and probabilities."""
        height, width = frame.image.shape[:2]
        probabilities = self.record.classes.num_outputs * math.prod(self.segmenter.work_size) * FLOAT16_BYTES
        return frame.image.nbytes + height * width + (probabilities if self.wants_probabilities else 0)

    def _underway(self, prepared: Prepared) -> Underway:
        """Starts the network on the next frame, and the copies of its labels; waits for nothing on a GPU."""
        if prepared.begins_scene:
            self.segmenter.reset()
            self._note_scene(prepared)
        self._started += 1
        prediction, start, end = self._timed_step(prepared.image)
        if self.segmenter.device.type == "cpu":
            _ = prediction.is_finite  # here, as a second thread that computes by OpenMP would slow down the network
        if self._comparer is not None and self._comparison is not None:
            try:
                labels = self._comparison.labels(prepared.image, prediction)
            except ScoresError as error:
                raise _NotFinite(self._started - 1, prepared.source.name, prepared.image) from error
            self._comparer.put((prepared.image, prepared.begins_scene, labels), self._gives_up)
        height, width = prepared.source.image.shape[:2]
        self.record.frame_size = self.record.frame_size or (height, width)
        return Underway(
            prepared.source,
            prepared.image,
            start,
            end,
            prediction.fetched_labels(),
            prediction.fetched_labels((height, width)),
            prediction.fetched_probabilities() if self.wants_probabilities else None,
            prepared.share,
        )

    def _note_scene(self, prepared: Prepared) -> None:
        if not prepared.changes_size:
            if not prepared.source.after_gap:
                self.record.cuts.append(self._started)
            return
        self.record.size_changes.append(self._started)
        if len(self.record.size_changes) <= SHOWN_CHANGES:
            height, width = prepared.source.image.shape[:2]
            log.warning(
                "%s is %s (width x height), unlike the frames before it: the memory is emptied; labels have the size "
                "of their frame, a video that of the first one",
                prepared.source.name,
                format_size((width, height)),
            )

    def _timed_step(self, image: Tensor) -> tuple[Prediction, Moment, Moment]:
        """The prediction of the next frame, prepared ``1 3 H W``, and the moments before and after its labels."""
        start = Moment(self.segmenter.device)
        prediction = self.segmenter.step(image)
        _ = prediction.label_map  # computed and cached, so that its time is measured
        return prediction, start, Moment(self.segmenter.device)

    def _pass_on(self, frame: Underway) -> None:
        """Waits for the labels of a frame, records them and passes them to the outputs; in a thread of its own."""
        try:
            labels, labels_at_size = frame.labels(), frame.labels_at_size()
        except ScoresError as error:
            raise _NotFinite(self.record.frames, frame.source.name, frame.image) from error
        name, image, seconds, captured, _, duration, display = frame.source
        make_room(*image.shape[:2])  # for the outputs, of what the network has left
        latency = None if captured is None else 1000 * (time.monotonic() - captured)
        self.record.add(labels, frame.start.milliseconds_until(frame.end), latency)
        probabilities = None if frame.probabilities is None else frame.probabilities()
        labeled = LabeledFrame(name, image, labels_at_size, seconds, probabilities, duration, display)
        self._before_writing(name)
        if not self._writers:
            frame.share.used()
        for writer in self._writers:
            writer.put((labeled, frame.share), self._gives_up)

    def _time_network_alone(self, image: Tensor) -> None:
        """Times the network without the other threads, for comparison with the stream's pace."""
        moments: list[tuple[Moment, Moment]] = []
        deadline = time.perf_counter() + ALONE_SHARE * self.record.seconds
        while len(moments) < LEAST_ALONE or (len(moments) < MOST_ALONE and time.perf_counter() < deadline):
            _, start, end = self._timed_step(image)
            moments.append((start, end))
        self.record.network_alone_ms += [start.milliseconds_until(end) for start, end in moments]

    def _complete_outputs(self) -> list[Exception]:
        """Completes all outputs; returns the errors of those that failed or were given up."""
        stages: list[Callable[[Callable[[], bool]], None]] = [writer.complete for writer in self._writers]
        if self._labeler is not None:
            stages.insert(0, self._labeler.finish)
        if self._comparer is not None:
            stages.append(self._comparer.finish)
        problems: dict[Callable, Exception] = {}
        for finish in stages:
            try:
                finish(self._gives_up)
            except Exception as error:  # raised once all others are complete
                problems[finish] = error
        if self._labeler is not None and isinstance(problems.get(self._labeler.finish), GivenUpError):
            del problems[self._labeler.finish]  # the outputs that it waits for say so themselves
        return list(problems.values())


class _NotFinite(Exception):
    """The scores of a frame, which is kept prepared, are not finite; ``position`` is its number from 0."""

    def __init__(self, position: int, name: str, image: Tensor):
        super().__init__(name)
        self.position, self.name, self.image = position, name, image


def _compare(consistency: TemporalConsistency, item: tuple[Tensor, bool, dict[str, np.ndarray]]) -> None:
    """Updates the consistency by a prepared frame, whether it begins a scene, and its predictions' labels."""
    image, begins_scene, labels = item
    if begins_scene:
        consistency.reset()
    consistency.update(np.ascontiguousarray(image[0].permute(1, 2, 0).numpy()), labels)


class OutputThread(Background[tuple[LabeledFrame, Share]]):
    """Writes an output in a thread of its own; an error tells which files are left."""

    def __init__(self, output: Output):
        self._output = output
        super().__init__(self._write, output.name)

    def complete(self, gives_up: Callable[[], bool]) -> None:
        """Waits for all frames and closes the output.

        Raises ``IncompleteError`` where that fails, and where ``gives_up`` says so meanwhile.
        """
        self.finish(gives_up)
        if not self.failed:
            with explained(self.name, self._output.abandon):
                self._output.close()

    def _write(self, item: tuple[LabeledFrame, Share]) -> None:
        frame, share = item
        with explained(self.name, self._output.abandon):
            self._output.write(frame)
        share.used()


@contextmanager
def explained(name: str, what_is_left: Callable[[], str]) -> Iterator[None]:
    """Context that turns an error of writing into an ``IncompleteError`` with its reason and ``what_is_left()``."""
    try:
        yield
    except OSError as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        raise IncompleteError(f"{name} cannot be written: {reason}; {what_is_left()}") from error
    except Exception:  # a fault of the program: the output is abandoned all the same
        what_is_left()
        raise


def _stopped_by(error: BaseException) -> str:
    signals = {KeyboardInterrupt: "Ctrl-C", StoppedError: "SIGTERM"}
    return signals.get(type(error)) or str(error)


def unwritten_summary(folder: Path, summary: dict) -> list[str]:
    """Writes ``stream.json`` and its plot; returns the names of those that could not be written.

    An error is logged and not raised, which would hide an error of the stream itself.
    """
    unwritten = []
    for name, write in (
        (SUMMARY, lambda path: write_text(path, to_json(summary))),
        (PLOT, lambda path: write_bytes(path, stream_png(summary["samples"]))),
    ):
        try:
            write(folder / name)
        except OSError as error:
            log.error("%s cannot be written: %s", folder / name, error.strerror)
            unwritten.append(name)
    if not unwritten:
        log.info("summary: %s, and %s in the same folder", folder / SUMMARY, PLOT)
    return unwritten


def stream_text(summary: dict) -> str:
    """The summary of a stream as a text of a few lines."""
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in summary["milliseconds"].items())
    lines = [
        f"{summary['frames']} frames, {summary['frames_per_second']} a second on {summary['device']} "
        f"({summary['threads']} threads); milliseconds a frame: {stages}"
    ]
    pace = summary["pace"] or {}
    if "network_alone" in pace:
        lines.append(
            f"once settled {pace['frames_per_second']} frames a second, {percent(pace['share_of_network_alone'])} % of "
            f"the network alone ({pace['network_alone']})"
        )
    if summary["live"]:
        lines.append(live_text(summary["live"]))
    if summary["scene_cuts"]:
        cuts = summary["scene_cuts"]
        shown = ", ".join(str(cut) for cut in cuts[:SHOWN_CUTS]) + (" ..." if len(cuts) > SHOWN_CUTS else "")
        lines.append(f"{len(cuts)} scene cuts, at frames {shown}")
    if summary["consistency"]:
        lines.append(consistency_text(summary["consistency"]))
    return "\n".join(lines)


def live_text(live: dict) -> str:
    """What became of the frames of a camera or a network stream, as a line."""
    latency, times = live["latency_milliseconds"], len(live["reconnections"])
    return (
        f"{live['received']} frames came: {live['labeled']} labeled, {live['dropped']} dropped, {live['damaged']} "
        f"damaged; from capture to label {latency['median']:.0f} ms, of 95 % at most {latency['p95']:.0f} ms"
        + (f"; reconnected {times} times" if times else "")
    )
