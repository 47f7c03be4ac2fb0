"""A video of any length through the network, frame by frame: reading, the network and writing go on side by side."""

import errno
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from torch import Tensor
from tqdm import tqdm

from engine.evaluation.consistency import consistency_text, labels_to_compare
from engine.evaluation.temporal_consistency import TemporalConsistency
from engine.reports.plots import stream_png
from engine.reports.scores import percent
from engine.streaming.output import LabeledFrame, Output
from engine.streaming.previous import PLOT, SUMMARY
from engine.streaming.record import Sample, StreamRecord
from engine.streaming.scene_cuts import SceneCuts
from engine.streaming.sources import FrameSource, SourceFrame
from engine.streaming.threads import REMEMBERED, Background, Prefetched
from models.inference.segmenter import Prediction, VideoSegmenter
from utils.class_set import ClassSet
from utils.errors import IncompleteError, StoppedError
from utils.files import write_bytes, write_text
from utils.signals import NotedSignals
from utils.sizes import format_size
from utils.timing import synchronized_seconds

log = logging.getLogger(__name__)

SHOWN_CUTS = 10
# The network is timed alone after a stream, for so small a share of the stream's own time, and for so many steps.
ALONE_SHARE, LEAST_ALONE, MOST_ALONE = 0.05, 7, 50


class Prepared(NamedTuple):
    """A frame as it came, resized for the network ``1 3 H W``, and whether it begins a new scene."""

    source: SourceFrame
    image: Tensor
    begins_scene: bool


class Stream:
    """Sends a source through a segmenter into outputs; ``consistency`` is counted where it is given."""

    def __init__(
        self,
        segmenter: VideoSegmenter,
        source: FrameSource,
        outputs: Sequence[Output],
        classes: ClassSet,
        detect_cuts: bool = True,
        consistency: TemporalConsistency | None = None,
    ):
        self.segmenter, self.source, self.outputs = segmenter, source, outputs
        self.consistency = consistency
        self.wants_probabilities = any(output.needs_probabilities for output in outputs)
        self.record = StreamRecord(classes)
        self._cuts = SceneCuts() if detect_cuts else None
        self._size: tuple[int, int] | None = None
        self._reader = Prefetched(source, self._prepared)
        self._writers: list[OutputThread] = []
        self._comparer: Background | None = None

    def run(self) -> None:
        """Goes through the source to its end. What was done until then is complete on disk when this raises:

        ``KeyboardInterrupt`` for Ctrl-C, ``StoppedError`` for SIGTERM, ``IncompleteError`` where the source breaks off
        or an output cannot go on.
        """
        self._writers = [OutputThread(output) for output in self.outputs]
        self._comparer = Background(self._compare, "consistency") if self.consistency is not None else None
        start = time.perf_counter()
        try:
            with NotedSignals() as signals, tqdm(total=self.source.count, unit=" frames", disable=None) as progress:
                self._reader.while_waiting = signals.raise_noted
                for prepared in self._reader:
                    self._advance(prepared)
                    progress.update()
                    signals.raise_noted()
            last = prepared
        except BaseException as error:
            self.record.stopped_by = _stopped_by(error)
            raise
        finally:
            self._reader.stop()
            try:
                self._complete_outputs()
            finally:
                self.record.seconds = time.perf_counter() - start
        if self.record.is_settled:
            self._time_network_alone(last.image)

    def summary(self) -> dict:
        """Frames, speed, milliseconds of each stage (medians), class shares, cuts, and how it went along the way."""
        record = self.record
        stages = {"reading": self._reader.milliseconds, "network": record.network_ms}
        side_by_side = [*self._writers, *([self._comparer] if self._comparer else [])]
        stages |= {each.name: each.milliseconds for each in side_by_side}
        return {
            "complete": record.stopped_by is None,
            "stopped_by": record.stopped_by,
            "source": self.source.description,
            "frames": record.frames,
            "frame_size": list(self._size or ()),
            "seconds": round(record.seconds, 3),
            "frames_per_second": round(record.frames / record.seconds, 3) if record.seconds else None,
            "pace": record.pace(),
            "milliseconds": {name: round(statistics.median(each), 3) for name, each in stages.items() if each},
            "milliseconds_of": f"medians of each stage's last {REMEMBERED} frames; stages run side by side",
            "scene_cuts": record.cuts,
            "class_shares": record.class_shares(),
            "consistency": None if self.consistency is None else self.consistency.report(),
            "samples": {name: [getattr(each, name) for each in record.samples] for name in Sample._fields},
        }

    def _prepared(self, frame: SourceFrame) -> Prepared:
        size = frame.image.shape[:2]
        self._size = self._size or size
        if size != self._size:
            raise IncompleteError(
                f"{frame.name} is {format_size(size[::-1])} and the frames before it {format_size(self._size[::-1])} "
                "(width x height): all must have one size; those before it are kept"
            )
        begins_scene = self._cuts is not None and self._cuts.begins_scene(frame.image)
        return Prepared(frame, self.segmenter.prepare(frame.image), begins_scene)

    def _advance(self, prepared: Prepared) -> None:
        if prepared.begins_scene:
            self.segmenter.reset()
            self.record.cuts.append(self.record.frames)
        prediction, milliseconds = self._timed_step(prepared.image)
        self.record.add(prediction.labels, milliseconds)
        probabilities = prediction.probabilities.half().cpu().numpy() if self.wants_probabilities else None
        name, image, seconds = prepared.source
        frame = LabeledFrame(name, image, prediction.labels_at(image.shape[:2]), seconds, probabilities)
        for writer in self._writers:
            writer.put(frame)
        if self._comparer is not None:
            self._comparer.put((prepared, labels_to_compare(self.segmenter, prepared.image, prediction)))

    def _timed_step(self, image: Tensor) -> tuple[Prediction, float]:
        """The prediction of the next frame, prepared ``1 3 H W``, and the milliseconds until its labels were there."""
        start = synchronized_seconds(self.segmenter.device)
        prediction = self.segmenter.step(image)
        _ = prediction.labels  # computed here, so that they are timed
        return prediction, 1000 * (synchronized_seconds(self.segmenter.device) - start)

    def _time_network_alone(self, image: Tensor) -> None:
        """Steps of the network with nothing beside it, which the stream's pace is to be compared with."""
        times, end = self.record.network_alone_ms, time.perf_counter() + ALONE_SHARE * self.record.seconds
        while len(times) < LEAST_ALONE or (len(times) < MOST_ALONE and time.perf_counter() < end):
            times.append(self._timed_step(image)[-1])

    def _compare(self, item: tuple[Prepared, dict[str, np.ndarray]]) -> None:
        prepared, labels = item
        if prepared.begins_scene:
            self.consistency.reset()
        self.consistency.update(np.ascontiguousarray(prepared.image[0].permute(1, 2, 0).numpy()), labels)

    def _complete_outputs(self) -> None:
        """Lets every output complete what it was given, then raises the first error of those that could not."""
        errors = []
        for finish in [
            *(writer.complete for writer in self._writers),
            *([self._comparer.finish] if self._comparer else []),
        ]:
            try:
                finish()
            except IncompleteError as error:
                errors.append(error)
        if errors:
            self.record.stopped_by = self.record.stopped_by or str(errors[0])
            raise errors[0]


class OutputThread(Background[LabeledFrame]):
    """Writes an output in a thread of its own, and says what is left of it where it cannot go on."""

    def __init__(self, output: Output):
        self._output = output
        super().__init__(self._write, output.name)

    def complete(self) -> None:
        """Waits until all is written and completes the output. Raises ``IncompleteError`` where it cannot."""
        self.finish()
        if not self.failed:
            with explained(self.name, self._output.abandon):
                self._output.close()

    def _write(self, frame: LabeledFrame) -> None:
        with explained(self.name, self._output.abandon):
            self._output.write(frame)


@contextmanager
def explained(name: str, what_is_left: Callable[[], str]) -> Iterator[None]:
    """Turns an error of writing into an ``IncompleteError`` that says why, and what is left."""
    try:
        yield
    except (OSError, av.error.FFmpegError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        reason = "the disk is full" if full else getattr(error, "strerror", None) or str(error)
        raise IncompleteError(f"{name} cannot be written: {reason}; {what_is_left()}") from error


def _stopped_by(error: BaseException) -> str:
    signals = {KeyboardInterrupt: "Ctrl-C", StoppedError: "SIGTERM"}
    return signals.get(type(error)) or str(error)


def summarized(folder: Path, summary: dict) -> bool:
    """Whether ``stream.json`` and its plot could be written; an error is logged, as a greater one may be on its way."""
    try:
        write_text(folder / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
        write_bytes(folder / PLOT, stream_png(summary["samples"]))
    except OSError as error:
        log.error("%s cannot be written: %s", folder / SUMMARY, error.strerror)
        return False
    log.info("summary: %s, and %s in the same folder", folder / SUMMARY, PLOT)
    return True


def stream_text(summary: dict) -> str:
    """The summary of a stream in a few lines."""
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in summary["milliseconds"].items())
    lines = [
        f"{summary['frames']} frames, {summary['frames_per_second']} a second on {summary['device']} "
        f"({summary['threads']} threads); milliseconds a frame: {stages}"
    ]
    pace = summary["pace"] or {}
    if "network_alone" in pace:
        lines.append(
            f"once settled {pace['frames_per_second']} frames a second, {percent(pace['share_of_network_alone'])} % of "
            f"what the network alone gives ({pace['network_alone']})"
        )
    if summary["scene_cuts"]:
        cuts = summary["scene_cuts"]
        shown = ", ".join(str(cut) for cut in cuts[:SHOWN_CUTS]) + (" ..." if len(cuts) > SHOWN_CUTS else "")
        lines.append(f"{len(cuts)} scene cuts, at frames {shown}")
    if summary["consistency"]:
        lines.append(consistency_text(summary["consistency"]))
    return "\n".join(lines)
