"""What a stream leaves on disk: a video, a label map and probabilities of every frame. Each is whole or is not there.

A video is written as ``NAME.partial.mp4`` and takes its name once it is closed. Meanwhile its file is in fragments of a
second, each written through at once, so that even what a killed process leaves plays.
"""

import io
import shutil
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from datasets.classes import CLASS_NAMES, IGNORED, PALETTE, train_ids_to_label_ids
from engine.options.stream import VIDEO_KINDS
from utils.errors import IncompleteError, OptionError
from utils.files import written_whole
from utils.visualize import legend

SUMMARY, PLOT, LABELS, PROBABILITIES = "stream.json", "stream.png", "labels", "probabilities"
PARTIAL = ".partial.mp4"
CODEC = "libx264" if "libx264" in av.codecs_available else "mpeg4"
QUALITY = {"libx264": {"crf": "20", "preset": "ultrafast"}, "mpeg4": {"qscale": "3"}}
FRAGMENTS = {"movflags": "hybrid_fragmented", "frag_duration": "1000000"}  # in microseconds
LONGEST_SIDE = 16384  # of a video in H.264
TICKS = 60_000  # a second: whole numbers for the usual rates, and fine enough for any moment
LEGEND_WIDTH = 1500  # pixels; the letters of wider pictures grow with them
NO_CLASS = 255  # in files of train ids
# Label maps are flat, and rows are like those above them: a third of the default's time, and smaller files.
PNG_OF_LABELS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)

_COLORS = np.zeros((256, 1, 3), np.uint8)
_COLORS[: len(PALETTE), 0] = PALETTE
_TRAIN_IDS = np.arange(256, dtype=np.uint8)
_TRAIN_IDS[IGNORED:] = NO_CLASS


class LabeledFrame(NamedTuple):
    """A frame with its labels, and when it is shown: RGB uint8 ``H W 3``, train ids uint8 ``H W``, probabilities
    ``K h w`` or none."""

    name: str
    image: np.ndarray
    labels: np.ndarray
    seconds: float
    probabilities: np.ndarray | None = None


class Output(Protocol):
    """Takes one labeled frame after the other."""

    name: str

    def write(self, frame: LabeledFrame) -> None: ...

    def close(self) -> None:
        """Completes what was written."""

    def abandon(self) -> str:
        """Ends after an error; gives what is left under which name."""


class VideoOutput:
    """An MP4 with the labels over the frames, the labels alone, or both side by side, above a legend of the classes.

    Frames are shown when they are in the source; ``fps`` is no more than what it says about its rate.
    """

    name = "video"

    def __init__(self, folder: Path, kind: str, alpha: float, fps: float):
        self.kind, self.alpha, self.fps = kind, alpha, fps
        self.path = folder / f"{kind}.mp4"
        self._partial = folder / f"{kind}{PARTIAL}"
        self._container: av.container.OutputContainer | None = None
        self._tick = -1

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
        small = legend(CLASS_NAMES[:IGNORED], PALETTE, -(-width // scale))
        under = small.repeat(scale, axis=0).repeat(scale, axis=1)[:, :width]
        if max(width, height + len(under)) > LONGEST_SIDE:
            raise IncompleteError(
                f"video cannot be written: its pictures are {width}x{height + len(under)}, H.264 takes at most "
                f"{LONGEST_SIDE}x{LONGEST_SIDE}: try --save-video labels, or --save-labels"
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
        colors = cv2.applyColorMap(frame.labels, _COLORS, dst=self._colors)
        if self.kind == "labels":
            self._left[:] = colors
        else:
            cv2.addWeighted(frame.image, 1 - self.alpha, colors, self.alpha, 0, dst=self._left)
        if self.kind == "both":
            self._right[:] = colors
        self._odd_column[:] = self._canvas[: len(self._odd_column), -2:-1]


class LabelOutput:
    """A PNG for each frame, ``NAME_pred_labelTrainIds.png`` or ``NAME_pred_labelIds.png``, as the benchmark's."""

    name = "labels"

    def __init__(self, folder: Path, kind: str):
        self.folder = folder / LABELS
        self.folder.mkdir(exist_ok=True)
        self._ids = _TRAIN_IDS if kind == "trainIds" else train_ids_to_label_ids
        self._ending = "labelTrainIds" if kind == "trainIds" else "labelIds"

    def write(self, frame: LabeledFrame) -> None:
        _, data = cv2.imencode(".png", cv2.LUT(frame.labels, self._ids), PNG_OF_LABELS)
        with written_whole(self.folder / f"{benchmark_name(frame.name)}_pred_{self._ending}.png") as file:
            file.write(data.tobytes())

    def close(self) -> None:
        """Every file is complete already."""

    def abandon(self) -> str:
        return f"the label maps in {LABELS} are whole"


class ProbabilityOutput:
    """A NumPy file for each frame: probabilities of the classes, float16 ``K h w`` at the working size."""

    name = "probabilities"

    def __init__(self, folder: Path):
        self.folder = folder / PROBABILITIES
        self.folder.mkdir(exist_ok=True)

    def write(self, frame: LabeledFrame) -> None:
        content = io.BytesIO()
        np.save(content, frame.probabilities)
        with written_whole(self.folder / f"{benchmark_name(frame.name)}_probabilities.npy") as file:
            file.write(content.getbuffer())

    def close(self) -> None:
        """Every file is complete already."""

    def abandon(self) -> str:
        return f"the files in {PROBABILITIES} are whole"


def benchmark_name(name: str) -> str:
    """``CITY_SEQ_FRAME`` of a Cityscapes frame; other names as they are."""
    return name.removesuffix("_leftImg8bit")


def refuse_previous(folder: Path, overwrite: bool) -> None:
    """Raises ``OptionError`` where an earlier stream left something in the folder and not ``overwrite``."""
    found = _left_by_a_stream(folder)
    if found and not overwrite:
        raise OptionError(
            f"--savedir {folder} holds an earlier stream ({found[0].name}): give another folder, or --overwrite"
        )


def clear_previous(folder: Path, sources: Sequence[str]) -> None:
    """Removes what an earlier stream left. Raises ``OptionError`` where one of the sources would go with it."""
    found = _left_by_a_stream(folder)
    for source in sources:
        if any(Path(source).resolve().is_relative_to(path.resolve()) for path in found):
            raise OptionError(f"--overwrite would remove what is to be read, {source}: give another --savedir")
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _left_by_a_stream(folder: Path) -> list[Path]:
    names = [
        SUMMARY,
        PLOT,
        LABELS,
        PROBABILITIES,
        *(f"{kind}{end}" for kind in VIDEO_KINDS for end in (".mp4", PARTIAL)),
    ]
    return [folder / name for name in names if (folder / name).exists()]
