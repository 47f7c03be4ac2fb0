"""Labeled frames as an MP4 that is whole, or plays up to where it broke off.

It is written as ``NAME.partial.mp4`` and takes its name once it is closed. Meanwhile its file is in fragments of a
second, each written through at once, so that even what a killed process leaves plays.
"""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from engine.streaming.output import LabeledFrame
from utils.class_set import ClassSet
from utils.errors import IncompleteError
from utils.sizes import format_size
from utils.visualize import blended, legend

PARTIAL = ".partial.mp4"
CODEC = "libx264" if "libx264" in av.codecs_available else "mpeg4"
QUALITY = {"libx264": {"crf": "20", "preset": "ultrafast"}, "mpeg4": {"qscale": "3"}}
FRAGMENTS = {"movflags": "hybrid_fragmented", "frag_duration": "1000000"}  # in microseconds
LONGEST_SIDE = 16384  # of a video in H.264
TICKS = 60_000  # a second: whole numbers for the usual rates, and fine enough for any moment
LEGEND_WIDTH = 1500  # pixels; the letters of wider pictures grow with them


class VideoWriter:
    """An MP4 with the labels over the frames, the labels alone, or both side by side, above a legend of the classes.

    Frames are shown when they are in the source; ``fps`` is no more than what it says about its rate.
    """

    def __init__(self, folder: Path, kind: str, alpha: float, fps: float, classes: ClassSet):
        self.kind, self.alpha, self.fps, self.classes = kind, alpha, fps, classes
        self.path = folder / f"{kind}.mp4"
        self._partial = folder / f"{kind}{PARTIAL}"
        self._container: av.container.OutputContainer | None = None
        self._tick = -1
        self._table = np.zeros((256, 1, 3), np.uint8)
        self._table[: classes.num_outputs, 0] = classes.palette

    def write(self, frame: LabeledFrame) -> None:
        if self._container is None:
            self._open(frame.labels.shape)
        self._draw(frame)
        # By OpenCV, which takes a seventh of the time that FFmpeg takes for it.
        encoded = av.VideoFrame.from_ndarray(cv2.cvtColor(self._canvas, cv2.COLOR_RGB2YUV_I420), format="yuv420p")
        self._tick = max(self._tick + 1, round(frame.seconds * TICKS))  # a frame is never shown before the last one
        encoded.pts, encoded.time_base = self._tick, Fraction(1, TICKS)
        self._container.mux(self._stream.encode(encoded))

    def close(self) -> None:
        if self._container is None:
            return
        self._flush()
        self._container.close()
        self._file.close()
        self._partial.replace(self.path)

    def abandon(self) -> str:
        if self._container is None:
            return "no video was begun"
        for end in (self._flush, self._container.close, self._file.close):
            try:
                end()
            except (OSError, av.error.FFmpegError):
                continue  # the error that led here is the one to report
        return f"the video so far is {self._partial.name}"

    def _flush(self) -> None:
        self._container.mux(self._stream.encode())

    def _open(self, frame_size: tuple[int, int]) -> None:
        height, width = frame_size
        both = self.kind == "both"
        width *= 1 + both
        scale = max(1, width // LEGEND_WIDTH)
        small = legend(self.classes.names, self.classes.colors, -(-width // scale))
        under = small.repeat(scale, axis=0).repeat(scale, axis=1)[:, :width]
        size = width, height + len(under)
        if max(size) > LONGEST_SIDE:
            raise IncompleteError(
                f"video cannot be written: its pictures (width x height) are {format_size(size)}, H.264 takes at "
                f"most {format_size((LONGEST_SIDE, LONGEST_SIDE))}: try --save-video labels, or --save-labels"
            )
        # Drawn into again for each frame: fresh memory for its copies took longer than the drawing itself.
        picture = np.concatenate([np.zeros((height, width, 3), np.uint8), under])
        missing_rows, missing_columns = (side % 2 for side in picture.shape[:2])  # H.264 in 4:2:0 takes even sides
        self._canvas = np.pad(picture, ((0, missing_rows), (0, missing_columns), (0, 0)), mode="edge")
        self._left, self._right = self._canvas[:height, : frame_size[1]], self._canvas[:height, frame_size[1] : width]
        self._odd_column = self._canvas[:height, width:]
        self._colors = np.empty((*frame_size, 3), np.uint8)
        self._file = self._partial.open("wb", buffering=0)
        self._container = av.open(self._file, "w", format="mp4", options=FRAGMENTS)  # on closing: an ordinary MP4
        rate = Fraction(self.fps).limit_denominator(1001) or 1
        self._stream = self._container.add_stream(CODEC, rate=rate, options=QUALITY[CODEC])
        self._stream.codec_context.time_base = Fraction(1, TICKS)
        self._stream.height, self._stream.width = self._canvas.shape[:2]
        self._stream.pix_fmt = "yuv420p"
        # What OpenCV makes; players take large pictures that do not say for another kind, and colors shift.
        self._stream.codec_context.colorspace, self._stream.codec_context.color_range = (
            Colorspace.ITU601,
            ColorRange.MPEG,
        )

    def _draw(self, frame: LabeledFrame) -> None:
        colors = cv2.applyColorMap(frame.labels, self._table, dst=self._colors)
        if self.kind == "labels":
            self._left[:] = colors
        else:
            blended(frame.image, colors, self.alpha, out=self._left)
        if self.kind == "both":
            self._right[:] = colors
        self._odd_column[:] = self._canvas[: len(self._odd_column), -2:-1]
