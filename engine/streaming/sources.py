"""Sources of frames: a video file, a folder, a pattern of file names, or a camera.

Video files are decoded by PyAV, which unlike OpenCV distinguishes the end of a file from a truncated file.
"""

import glob
import re
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Protocol

import av
import cv2
import numpy as np

from datasets.images import read_picture
from utils.errors import DataError, IncompleteError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
DEFAULT_FPS = 17.0  # for frames in single files: that of Cityscapes
MOST_FPS = 1000.0  # a rate above, as some cameras report, is taken for an error
MOST_CAMERAS = 1000  # a larger number is taken for an error; OpenCV does not take more than 32 bits
# An intact file may be a little shorter than its header says: by this share, and by at most these seconds.
MISSING_SHARE, MISSING_SECONDS = 0.05, 2.0
LONGEST_STEP = 125  # from one calibration frame to the next: the skipped frames are decoded too


class SourceFrame(NamedTuple):
    """A frame, RGB uint8 ``H W 3``, with a name that is unique in its source, and its presentation time."""

    name: str
    image: np.ndarray
    seconds: float


class FrameSource(Protocol):
    """Frames in order. Iterating raises ``IncompleteError`` where the source is truncated."""

    @property
    def description(self) -> str:
        """The source as text, for messages and ``stream.json``."""
        ...

    @property
    def fps(self) -> float:
        """Frames per second."""
        ...

    @property
    def count(self) -> int | None:
        """Expected number of frames; ``None`` where it is unknown."""
        ...

    def __iter__(self) -> Iterator[SourceFrame]: ...


def open_source(source: str, option: str = "--stream") -> FrameSource:
    """The source that the value of ``option`` names. Raises ``DataError`` where it does not exist or has no frames."""
    path = Path(source)
    if source.isdecimal() and not path.exists():
        return Camera(int(source), option)
    if path.is_dir():
        files = [file for file in _visible_files(path.iterdir()) if file.suffix.lower() in IMAGE_ENDINGS]
        problem = f"{option}: folder {source} holds no image ({', '.join(IMAGE_ENDINGS)})"
        return ImageFiles(source, files, f"{problem}: expected at least one, such as {path}/000000.png")
    if path.is_file():
        is_image = path.suffix.lower() in IMAGE_ENDINGS
        return ImageFiles(source, [path], "") if is_image else VideoFile(path, option)
    no_match = f"{option}: no file matches the pattern {source}: expected at least one"
    if re.search(r"%0?\d*d", path.name):
        return ImageFiles(source, _numbered(path), no_match)
    if glob.has_magic(source):
        return ImageFiles(source, _visible_files(Path(file) for file in glob.glob(source)), no_match)
    raise DataError(
        f"{option} {source}: there is no such file or folder: expected a video file, a folder of frames, a pattern "
        "such as frames/%06d.png or 'frames/*.jpg', or the number of a camera, such as 0"
    )


def spread_frames(source: FrameSource, count: int) -> list[np.ndarray]:
    """Up to ``count`` frames, evenly spaced over a source, or over the first minutes of a long video.

    Raises ``DataError`` for a camera, and where no frame can be read.
    """
    if isinstance(source, ImageFiles):
        files = source.files[:: max(1, len(source.files) // count)][:count]
        return [frame.image for frame in ImageFiles(source.description, files, "")]
    if isinstance(source, Camera):
        raise DataError(f"{source.description} cannot be read in advance: expected a video or a folder")
    step = min(LONGEST_STEP, max(1, (source.count or count) // count))
    frames: list[np.ndarray] = []
    try:
        frames.extend(frame.image for frame in islice(source, 0, step * count, step))
    except IncompleteError:
        if not frames:  # of a truncated file those before its end are enough
            raise
    return frames


class ImageFiles:
    """Frames in single files, in natural order: 9 before 10."""

    def __init__(self, source: str, files: list[Path], problem: str):
        if not files:
            raise DataError(problem)
        self.files = sorted(files, key=_counting_order)
        self.description, self.fps, self.count = f"{len(files)} image files ({source})", DEFAULT_FPS, len(files)
        self._numbered = len({file.stem for file in files}) < len(files)  # equal names in several folders

    def __iter__(self) -> Iterator[SourceFrame]:
        for position, file in enumerate(self.files):
            try:
                frame = read_picture(file)
            except DataError as error:
                if position == 0:
                    raise
                raise IncompleteError(f"{error}; {position} frames before it are kept") from error
            name = f"{position:06d}_{file.stem}" if self._numbered else file.stem
            yield SourceFrame(name, frame.permute(1, 2, 0).numpy(), position / self.fps)


class VideoFile:
    """The first video stream of a file that FFmpeg can read."""

    def __init__(self, path: Path, option: str = "--stream"):
        self.path, self.option = path, option
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise DataError(f"{option} {path}: holds no video, expected one such as MP4 or AVI")
                stream = container.streams.video[0]
                rate = stream.average_rate or stream.guessed_rate
                self.fps = float(rate) if rate else DEFAULT_FPS
                self.count = stream.frames or _frames_by_duration(container, self.fps)
                self._seconds = container.duration / av.time_base if container.duration else None
                self.codec = stream.codec_context.name
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(
                f"{option} {path}: cannot be read as a video ({_reason(error)}): expected one such as MP4 or AVI, or a "
                "folder of frames"
            ) from error
        self.description = f"video {path} ({self.codec}, {self.fps:g} frames/s)"

    def __iter__(self) -> Iterator[SourceFrame]:
        decoded, reached, problem = 0, 0.0, ""
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                stream.thread_type = "AUTO"
                for packet in container.demux():  # audio too: the header's duration is that of the longest stream
                    reached = max(reached, _end_of(packet))
                    for frame in stream.decode(packet) if packet.stream is stream else ():
                        if frame.is_corrupt:
                            raise av.error.InvalidDataError(0, "damaged data")
                        yield self._source_frame(frame, decoded)
                        decoded += 1
        except av.error.FFmpegError as error:
            problem = _reason(error)
        if decoded == 0:
            raise DataError(f"{self.option} {self.path}: no frame can be decoded ({problem or 'it is empty'})")
        if not problem and self._ends_early(decoded, reached):
            problem = f"it is {reached:.1f} s of {self._seconds:.1f} s long"
        if problem:
            raise IncompleteError(f"{self.path} breaks off after {decoded} frames ({problem}); these are kept")

    def _source_frame(self, frame: av.VideoFrame, number: int) -> SourceFrame:
        image = frame.to_ndarray(format="rgb24")
        quarters = round(frame.rotation / 90)  # counterclockwise, as phones store upright videos
        upright = np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image
        seconds = number / self.fps if frame.time is None else frame.time
        return SourceFrame(f"{self.path.stem}_{number:06d}", upright, seconds)

    def _ends_early(self, decoded: int, reached: float) -> bool:
        """Whether the file ends before the duration in its header; ``False`` where either is unknown."""
        if not self._seconds or not reached:
            return False
        one_frame = reached / decoded  # the last frame's duration is not always known
        return reached + one_frame < self._seconds - min(MISSING_SHARE * self._seconds, MISSING_SECONDS)


class Camera:
    """A camera of this machine, by number, until Ctrl-C."""

    def __init__(self, number: int, option: str = "--stream"):
        self.number, self.count = number, None
        absent = DataError(f"{option} {number}: there is no camera of that number, expected one such as 0, or a file")
        if number >= MOST_CAMERAS:
            raise absent
        previous = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # the error below reports an absent camera
        try:
            self._capture = cv2.VideoCapture(number)
        finally:
            cv2.utils.logging.setLogLevel(previous)
        if not self._capture.isOpened():
            raise absent
        claimed = self._capture.get(cv2.CAP_PROP_FPS)
        self.fps = claimed if 0 < claimed <= MOST_FPS else DEFAULT_FPS
        self.description = f"camera {number}"

    def __iter__(self) -> Iterator[SourceFrame]:
        decoded, start = 0, time.monotonic()
        try:
            while True:
                there, image = self._capture.read()
                if not there:
                    raise IncompleteError(f"camera {self.number} gave no frame after {decoded}; those are kept")
                seconds, image = time.monotonic() - start, cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
                yield SourceFrame(f"camera{self.number}_{decoded:06d}", image, seconds)
                decoded += 1
        finally:
            self._capture.release()


def _numbered(pattern: Path) -> list[Path]:
    """Files that match a printf pattern such as ``frame_%06d.png``, whatever number they start at."""
    parts = re.fullmatch(r"(.*)%0?(\d*)d(.*)", pattern.name, re.DOTALL)
    assert parts is not None  # open_source has found the placeholder
    before, width, after = parts.groups()
    digits = rf"\d{{{int(width or 1)},}}"
    matches = re.compile(re.escape(before) + digits + re.escape(after))
    if not pattern.parent.is_dir():
        return []
    return [file for file in pattern.parent.iterdir() if matches.fullmatch(file.name)]


def _visible_files(paths: Iterable[Path]) -> list[Path]:
    """The paths without folders and hidden files, such as the ``._frame.png`` of macOS."""
    return [path for path in paths if path.is_file() and not path.name.startswith(".")]


def _counting_order(file: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(file))]


def _frames_by_duration(container: av.container.InputContainer, fps: float) -> int | None:
    return round(container.duration / av.time_base * fps) if container.duration else None


def _end_of(packet: av.Packet) -> float:
    """End of a packet's presentation, in seconds; 0 where it has no timestamp."""
    return 0.0 if packet.pts is None else float((packet.pts + (packet.duration or 0)) * packet.time_base)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0].lower()
