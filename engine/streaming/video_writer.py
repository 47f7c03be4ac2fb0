"""Labeled frames as an MP4 that is complete, or plays up to where it broke off.

It is written as ``NAME.partial.mp4`` and renamed once it is closed. Until then its file is in fragments of one second,
each of which is written through at once, so that the file of a killed process plays too.
"""

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
from engine.streaming.video_pictures import fitted, written_display, yuv420p
from utils.class_set import ClassSet
from utils.errors import IncompleteError
from utils.files import PartialFile
from utils.sizes import format_size
from utils.visualize import blended, legend

PARTIAL = ".partial.mp4"
CODEC = "libx264" if "libx264" in av.codecs_available else "mpeg4"
QUALITY = {"libx264": {"crf": "20", "preset": "ultrafast"}, "mpeg4": {"qscale": "3"}}
FRAGMENTS = {"movflags": "hybrid_fragmented", "frag_duration": "1000000"}  # in microseconds
LONGEST_SIDE = 16384  # pixels, of a video in H.264
TICKS = 60_000  # per second: whole numbers for the usual rates, and fine enough for any other
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
        self._table = np.zeros((256, 1, 3), np.uint8)
        self._table[: classes.num_outputs, 0] = classes.palette

    def write(self, frame: LabeledFrame) -> None:
        """Adds a frame; those of another size than the first one are fitted into it.

        Raises ``IncompleteError`` for too large ones, ``OSError`` where the file cannot be written.
        """
        if self._canvas is None or self._file is None:
            height, width = frame.labels.shape
            self._canvas = _Canvas((height, width), self.kind == "both", self.classes)
            with _os_errors():
                size = self._canvas.picture.shape[:2]
                self._file = _Mp4(PartialFile(self._part, self.path), size, self.fps, frame.display)
        self._draw(fitted(frame, self._canvas.size), self._canvas)
        with _os_errors():
            self._file.add(self._canvas.picture, frame.seconds, frame.duration)

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

    def _draw(self, frame: LabeledFrame, canvas: "_Canvas") -> None:
        colors = cv2.applyColorMap(frame.labels, self._table, dst=canvas.colors)
        if self.kind == "labels":
            canvas.left[:] = colors
        else:
            blended(frame.image, colors, self.alpha, out=canvas.left)
        if self.kind == "both":
            canvas.right[:] = colors
        canvas.fill_odd_column()


class _Canvas:
    """A picture with one or two panels of ``size = (H, W)`` above a legend, RGB uint8; its sides are even.

    All frames are drawn into the same memory: allocating new memory took longer than drawing. Raises
    ``IncompleteError`` for a picture that is too large for H.264.
    """

    def __init__(self, size: tuple[int, int], two_panels: bool, classes: ClassSet):
        height, width = size
        total = width * (1 + two_panels)
        scale = max(1, total // LEGEND_WIDTH)
        small = legend(classes.names, classes.colors, -(-total // scale))
        under = small.repeat(scale, axis=0).repeat(scale, axis=1)[:, :total]
        full = total, height + len(under)
        if max(full) > LONGEST_SIDE:
            raise IncompleteError(
                f"video cannot be written: its pictures (width x height) are {format_size(full)}, H.264 takes at "
                f"most {format_size((LONGEST_SIDE, LONGEST_SIDE))}: try --save-video labels, or --save-labels"
            )
        picture = np.concatenate([np.zeros((height, total, 3), np.uint8), under])
        missing_rows, missing_columns = (side % 2 for side in picture.shape[:2])  # 4:2:0 needs even sides
        self.picture = np.pad(picture, ((0, missing_rows), (0, missing_columns), (0, 0)), mode="edge")
        self.size = size
        self.left, self.right = self.picture[:height, :width], self.picture[:height, width:total]
        self._odd_column = self.picture[:height, total:]
        self.colors = np.empty((height, width, 3), np.uint8)

    def fill_odd_column(self) -> None:
        """Repeats the last column of the panels in the column, if any, that makes the width even."""
        self._odd_column[:] = self.picture[: len(self._odd_column), -2:-1]


class _Mp4:
    """A fragmented MP4 that is being written; ``size`` is the height and width of its pictures."""

    def __init__(self, file: PartialFile, size: tuple[int, int], fps: float, display: Display):
        self._tick, self._display, self._has_header = -1, written_display(display), False
        self._file = file
        self._container = av.open(self._file, "w", format="mp4", options=FRAGMENTS)  # on closing: an ordinary MP4
        rate = Fraction(fps).limit_denominator(1001) or Fraction(1)
        self._stream = add_video_stream(self._container, rate, size, QUALITY[CODEC])
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        context = self._stream.codec_context
        context.flags |= av.codec.context.Flags.frame_duration  # without it nothing tells how long the last one is
        context.sample_aspect_ratio = self._display.pixel_aspect
        # Where they are missing players assume others for large pictures.
        context.colorspace = self._display.matrix
        context.color_range = ColorRange.JPEG if self._display.full_range else ColorRange.MPEG
        context.color_primaries, context.color_trc = self._display.primaries, self._display.transfer

    def add(self, picture: np.ndarray, seconds: float, duration: float | None) -> None:
        """Encodes a picture, RGB uint8 ``H W 3``, that is shown from ``seconds`` on, for that many seconds if known."""
        encoded = av.VideoFrame.from_ndarray(yuv420p(picture, self._display), format="yuv420p")
        self._tick = max(self._tick + 1, round(seconds * TICKS))  # presentation times must increase
        encoded.pts, encoded.time_base = self._tick, Fraction(1, TICKS)
        encoded.duration = max(1, round(duration * TICKS)) if duration else 0
        packets = self._stream.encode(encoded)
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
    return stream
