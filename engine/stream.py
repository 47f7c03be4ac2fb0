"""A video of any length through the network, frame by frame: reading, the network and writing go on side by side."""

import errno
import json
import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from torch import Tensor
from tqdm import tqdm

from datasets.classes import CLASS_NAMES, NUM_CLASSES
from engine.consistency import consistency_text, predictions_of
from engine.frame_sources import FrameSource, SourceFrame
from engine.pipeline import REMEMBERED, Background, Prefetched
from engine.stream_outputs import SUMMARY, LabelledFrame, Output
from models.segmenter import VideoSegmenter
from utils.consistency import TemporalConsistency
from utils.errors import IncompleteError, StoppedError
from utils.files import write_text
from utils.scene_cuts import SceneCuts
from utils.timing import resident_mebibytes, synchronised_seconds

log = logging.getLogger(__name__)

SHOWN_CUTS = 10
MEMORY_SAMPLES = 400  # of the resident memory; when there are as many, every second one is dropped


class Prepared(NamedTuple):
    """A frame as it came, resized for the network ``1 3 H W``, and whether it begins a new scene."""

    source: SourceFrame
    image: Tensor
    begins_scene: bool


@dataclass
class StreamRecord:
    """What is counted while a stream runs."""

    frames: int = 0
    seconds: float = 0.0
    cuts: list[int] = field(default_factory=list)
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(NUM_CLASSES, np.int64))
    network_ms: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    resident: list[tuple[int, float]] = field(default_factory=list)
    stopped_by: str | None = None
    _sample_every: int = 1

    def add(self, labels: np.ndarray, network_ms: float) -> None:
        """Counts a frame by its labels at the working size."""
        self.network_ms.append(network_ms)
        self.pixels += np.bincount(labels.ravel(), minlength=NUM_CLASSES)
        if self.frames % self._sample_every == 0 and (resident := resident_mebibytes()) is not None:
            self.resident.append((self.frames, round(resident, 1)))
            if len(self.resident) == MEMORY_SAMPLES:
                self.resident, self._sample_every = self.resident[::2], 2 * self._sample_every
        self.frames += 1


class Stream:
    """Sends a source through a segmenter into outputs; ``consistency`` is counted where it is given."""

    def __init__(
        self,
        segmenter: VideoSegmenter,
        source: FrameSource,
        outputs: Sequence[Output],
        detect_cuts: bool = True,
        consistency: TemporalConsistency | None = None,
        wants_probabilities: bool = False,
    ):
        self.segmenter, self.source, self.outputs = segmenter, source, outputs
        self.consistency, self.wants_probabilities = consistency, wants_probabilities
        self.record = StreamRecord()
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
            with tqdm(total=self.source.count, unit=" frames", disable=None) as progress:
                for prepared in self._reader:
                    self._advance(prepared)
                    progress.update()
        except BaseException as error:
            self.record.stopped_by = _stopped_by(error)
            raise
        finally:
            self._reader.stop()
            try:
                self._complete_outputs()
            finally:
                self.record.seconds = time.perf_counter() - start

    def summary(self) -> dict:
        """Frames, speed, milliseconds of each stage (medians), class shares, cuts, memory."""
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
            "milliseconds": {name: round(statistics.median(each), 3) for name, each in stages.items() if each},
            "milliseconds_of": f"medians of each stage's last {REMEMBERED} frames; stages run side by side",
            "scene_cuts": record.cuts,
            "class_shares": _shares(record.pixels),
            "consistency": None if self.consistency is None else self.consistency.report(),
            "resident_mebibytes": record.resident,
        }

    def _prepared(self, frame: SourceFrame) -> Prepared:
        size = frame.image.shape[:2]
        self._size = self._size or size
        if size != self._size:
            raise IncompleteError(
                f"{frame.name} is {size[1]}x{size[0]} and the frames before it {self._size[1]}x{self._size[0]}: all "
                "must have one size; those before it are kept"
            )
        begins_scene = self._cuts is not None and self._cuts.begins_scene(frame.image)
        return Prepared(frame, self.segmenter.prepared(frame.image), begins_scene)

    def _advance(self, prepared: Prepared) -> None:
        segmenter, device = self.segmenter, self.segmenter.device
        if prepared.begins_scene:
            segmenter.reset()
            self.record.cuts.append(self.record.frames)
        start = synchronised_seconds(device)
        logits = segmenter.logits(prepared.image)
        labels = segmenter.labels(logits)
        self.record.add(labels, 1000 * (synchronised_seconds(device) - start))
        probabilities = logits[0].softmax(0).half().cpu().numpy() if self.wants_probabilities else None
        name, image, seconds = prepared.source
        frame = LabelledFrame(name, image, segmenter.at_size(labels, image.shape[:2]), seconds, probabilities)
        for writer in self._writers:
            writer.put(frame)
        if self._comparer is not None:
            self._comparer.put((prepared, predictions_of(segmenter, prepared.image, labels)))

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


class OutputThread(Background[LabelledFrame]):
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

    def _write(self, frame: LabelledFrame) -> None:
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


def _shares(pixels: np.ndarray) -> dict[str, float]:
    """Class name -> share of all pixels, for classes that were seen."""
    total = max(1, int(pixels.sum()))
    return {name: round(int(n) / total, 6) for name, n in zip(CLASS_NAMES, pixels, strict=True) if n}


def summarised(folder: Path, summary: dict) -> bool:
    """Whether ``stream.json`` could be written; an error is logged, since a greater one may be on its way."""
    try:
        write_text(folder / SUMMARY, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    except OSError as error:
        log.error("%s cannot be written: %s", folder / SUMMARY, error.strerror)
        return False
    log.info("summary: %s", folder / SUMMARY)
    return True


def stream_text(summary: dict) -> str:
    """What a stream gave, in a few lines."""
    stages = ", ".join(f"{name} {ms:.1f}" for name, ms in summary["milliseconds"].items())
    lines = [
        f"{summary['frames']} frames, {summary['frames_per_second']} a second on {summary['device']} "
        f"({summary['threads']} threads); milliseconds a frame: {stages}"
    ]
    if summary["scene_cuts"]:
        cuts = summary["scene_cuts"]
        shown = ", ".join(str(cut) for cut in cuts[:SHOWN_CUTS]) + (" ..." if len(cuts) > SHOWN_CUTS else "")
        lines.append(f"{len(cuts)} scene cuts, at frames {shown}")
    if summary["consistency"]:
        lines.append(consistency_text(summary["consistency"]))
    return "\n".join(lines)
