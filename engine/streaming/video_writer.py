"""Labeled frames as an MP4 that is complete, or plays up to where it broke off.

It is written as ``NAME.partial.mp4`` and renamed once it is closed. Until then its file is in fragments of one second,
each of which is written through at once, so that the file of a killed process plays too.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.container import OutputContainer
from av.video.reformatter import ColorRange

from engine.streaming.display import Display
from engine.streaming.output import LabeledFrame
from engine.streaming.video_pictures import Planes, fitted, written_display
from utils.class_set import ClassSet
from utils.errors import IncompleteError
from utils.files import PartialFile
from utils.limits import MAX_PIXELS
from utils.sizes import format_size
from utils.visualize import blended, legend

log = logging.getLogger(__name__)

PARTIAL = ".partial.mp4"
CODEC = "libx264" if "libx264" in av.codecs_available else "mpeg4"
QUALITY = {"libx264": {"crf": "20", "preset": "ultrafast"}, "mpeg4": {"qscale": "3"}}
# For large pictures: what x264 measures to choose a quality for each picture takes half of its memory.
LARGE_QUALITY = {"libx264": {"preset": "ultrafast", "x264-params": "qp=23:force-cfr=1"}, "mpeg4": {"qscale": "3"}}
FRAGMENTS = {"movflags": "hybrid_fragmented", "frag_duration": "1000000"}  # in microseconds
# Pixels of a picture, from and up to which several threads encode: of a small one, one thread is faster than a network,
# and leaves it the cores; of a large one, the pictures that each thread holds take too much memory.
SEVERAL_THREADS_FROM, SEVERAL_THREADS_TO = 2_500_000, 16_000_000
LONGEST_SIDE = 16384  # pixels, of a video in H.264
TICKS = 60_000  # per second: whole numbers for the usual rates, and fine enough for any other
STRIP_BYTES = 256 << 10  # of the rows that are drawn at a time
LEGEND_WIDTH = 1500  # pixels; in wider pictures the legend is enlarged by a whole factor


class VideoWriter:
    """An MP4 of frames with their labels overlaid, of labels alone, or of both side by side, above a legend.

    ``kind`` is ``overlay``, ``labels`` or ``both``, ``alpha`` the overlay opacity in [0, 1]. Frames keep their
    presentation times; ``fps`` is only the rate in the file's header.
    """

    def __init__(self, folder: Path, kind: str, alpha: float, fps: float, classes: ClassSet):
        self.kind, self.alpha, self.fps, self.classes = kind, alpha, fps, classes
        self.path = folder / f"{kind}.mp4"
        self._part = folder / f"{kind}{PARTIAL}"
        self._canvas: _Canvas | None = None
        self._file: _Mp4 | None = None

    def write(self, frame: LabeledFrame) -> None:
        """Adds a frame; those of another size than the first one are fitted into it.

        Raises ``IncompleteError`` for too large ones, ``OSError`` where the file cannot be written.
        """
        if self._canvas is None or self._file is None:
            self._canvas = _Canvas(self._panel_size(*frame.labels.shape), self.kind, self.alpha, self.classes)
            with _os_errors():
                file = PartialFile(self._part, self.path)
                self._file = _Mp4(file, self._canvas.picture_size, self.fps, frame.display)
        picture = self._canvas.drawn(fitted(frame, self._canvas.size), self._file.display)
        with _os_errors():
            self._file.add(picture, frame.seconds, frame.duration)

    def close(self) -> None:
        """Completes the file, which then takes its final name. Raises ``OSError`` where anything of it is missing."""
        if self._file is not None:
            with _os_errors():
                self._file.close()

    def abandon(self) -> str:
        """Closes the file after an error; returns a text that tells its name."""
        if self._file is None:
            return "no video was begun"
        self._file.abandon()
        return f"the video so far is {self._part.name}"

    def _panel_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of frames in the pictures: half of theirs where two side by side are more than is read."""
        if self.kind != "both" or 2 * height * width <= MAX_PIXELS:
            return height, width
        log.warning(
            "%s shows frames at half their size: two of %s (width x height) side by side are more than "
            "players take; --save-video overlay and --save-labels keep their size",
            self.path.name,
            format_size((width, height)),
        )
        return height // 2, width // 2


class _Canvas:
    """A picture with one or two panels of ``size = (H, W)`` above a legend; the sides of the picture are even.

    It is drawn strip by strip into the same memory, a few hundred KB that stay in the cache, and each strip is coded at
    once: no picture is ever whole in RGB. Raises ``IncompleteError`` for one that is too large for H.264.
    """

    def __init__(self, size: tuple[int, int], kind: str, alpha: float, classes: ClassSet):
        height, width = size
        total = width * (2 if kind == "both" else 1)
        scale = max(1, total // LEGEND_WIDTH)
        small = legend(classes.names, classes.colors, -(-total // scale))
        under = small.repeat(scale, axis=0).repeat(scale, axis=1)[:, :total]
        full = total, height + len(under)
        if max(full) > LONGEST_SIDE:
            raise IncompleteError(
                f"video cannot be written: its pictures (width x height) are {format_size(full)}, H.264 takes at "
                f"most {format_size((LONGEST_SIDE, LONGEST_SIDE))}: try --save-video labels, or --save-labels"
            )
        missing_rows, missing_columns = (side % 2 for side in (full[1], full[0]))  # 4:2:0 needs even sides
        self._under = np.pad(under, ((0, missing_rows), (0, missing_columns), (0, 0)), mode="edge")
        self.size, self._total, self._kind, self._alpha = size, total, kind, alpha
        self.picture_size = height + len(self._under), total + missing_columns
        rows = max(2, STRIP_BYTES // (3 * self.picture_size[1]) // 2 * 2)
        self._strip = np.empty((min(rows, self.picture_size[0]), self.picture_size[1], 3), np.uint8)
        self._colors = np.empty((len(self._strip), width, 3), np.uint8)
        self._table = np.zeros((256, 1, 3), np.uint8)
        self._table[: classes.num_outputs, 0] = classes.palette

    def drawn(self, frame: LabeledFrame, display: Display) -> av.VideoFrame:
        """A frame of the size of the panels, with its labels, as a picture for the encoder."""
        planes = Planes(self.picture_size, display)
        for top in range(0, self.picture_size[0], len(self._strip)):
            strip = self._strip[: self.picture_size[0] - top]
            panels = max(0, min(len(strip), self.size[0] - top))
            if panels:
                rows = slice(top, top + panels)
                self._draw(frame.image[rows], frame.labels[rows], strip[:panels])
            strip[panels:] = self._under[top + panels - self.size[0] :][: len(strip) - panels]
            planes.put(top, strip)
        return planes.frame

    def _draw(self, image: np.ndarray, labels: np.ndarray, out: np.ndarray) -> None:
        """Draws rows of a frame with their labels into rows of the picture."""
        width = self.size[1]
        colors = cv2.applyColorMap(labels, self._table, dst=self._colors[: len(labels)])
        if self._kind == "labels":
            out[:, :width] = colors
        else:
            blended(image, colors, self._alpha, out=out[:, :width])
        if self._kind == "both":
            out[:, width : self._total] = colors
        out[:, self._total :] = out[:, self._total - 1 : self._total]  # the column, if any, that makes the width even


class _Mp4:
    """A fragmented MP4 that is being written; ``size`` is the height and width of its pictures."""

    def __init__(self, file: PartialFile, size: tuple[int, int], fps: float, display: Display):
        self._tick, self.display, self._has_header = -1, written_display(display), False
        self._file = file
        self._container = av.open(self._file, "w", format="mp4", options=FRAGMENTS)  # on closing: an ordinary MP4
        rate = Fraction(fps).limit_denominator(1001) or Fraction(1)
        quality = LARGE_QUALITY if size[0] * size[1] > SEVERAL_THREADS_TO else QUALITY
        self._stream = add_video_stream(self._container, rate, size, quality[CODEC])
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        context = self._stream.codec_context
        context.flags |= av.codec.context.Flags.frame_duration  # without it nothing tells how long the last one is
        context.sample_aspect_ratio = self.display.pixel_aspect
        # Where they are missing players assume others for large pictures.
        context.colorspace = self.display.matrix
        context.color_range = ColorRange.JPEG if self.display.full_range else ColorRange.MPEG
        context.color_primaries, context.color_trc = self.display.primaries, self.display.transfer

    def add(self, picture: av.VideoFrame, seconds: float, duration: float | None) -> None:
        """Encodes a picture that is shown from ``seconds`` on, for that many seconds if known."""
        self._tick = max(self._tick + 1, round(seconds * TICKS))  # presentation times must increase
        picture.pts, picture.time_base = self._tick, Fraction(1, TICKS)
        picture.duration = max(1, round(duration * TICKS)) if duration else 0
        packets = self._stream.encode(picture)
        if not self._has_header:
            self._container.start_encoding()
            self._has_header = True
        self._container.mux(packets)

    def close(self) -> None:
        """Writes the pictures that the encoder still holds, and completes the file.

        Raises ``OSError`` also for an error that the muxer hides.
        """
        self._flush()
        self._container.close()
        self._file.complete()

    def abandon(self) -> None:
        """Closes the file after an error, as far as that is possible."""
        for end in (self._flush, self._container.close, self._file.close):
            try:
                end()
            except (OSError, av.error.FFmpegError):
                continue  # the error that led here is the one to report

    def _flush(self) -> None:
        if not self._has_header:  # FFmpeg crashes where a header that could not be written is written again
            return
        self._container.mux(self._stream.encode())


@contextmanager
def _os_errors() -> Iterator[None]:
    """Context that raises FFmpeg's errors, some of which are no ``OSError``, as ``OSError``."""
    try:
        yield
    except av.error.FFmpegError as error:
        raise OSError(error.errno, error.strerror or str(error)) from error


def add_video_stream(
    container: OutputContainer, rate: Fraction, size: tuple[int, int], options: dict[str, str] | None = None
) -> av.VideoStream:
    """Adds a video of pictures of ``size = (H, W)``, both even, in the best codec that is installed."""
    stream = container.add_stream(CODEC, rate=rate, options=options)
    assert isinstance(stream, av.VideoStream)
    stream.height, stream.width = size
    stream.pix_fmt = "yuv420p"
    if not SEVERAL_THREADS_FROM <= size[0] * size[1] <= SEVERAL_THREADS_TO:
        stream.codec_context.thread_count = 1
    return stream
