"""A video file, decoded by PyAV, which unlike OpenCV distinguishes the end of a file from a truncated file."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np

from engine.streaming.sources.source import DEFAULT_FPS, SourceFrame
from utils.errors import DataError, IncompleteError

# An intact file may be a little shorter than its header says: by this share, and by at most these seconds.
MISSING_SHARE, MISSING_SECONDS = 0.05, 2.0

MOST_NAMES = 100_000  # of frames are told in advance: a damaged header may say any number


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
                f"{option} {path}: cannot be read as a video ({reason_of(error)}): expected one such as MP4 or AVI, or "
                "a folder of frames"
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
            problem = reason_of(error)
        if decoded == 0:
            raise DataError(f"{self.option} {self.path}: no frame can be decoded ({problem or 'it is empty'})")
        if not problem and self._ends_early(decoded, reached):
            problem = f"it is {reached:.1f} s of {self._seconds:.1f} s long"
        if problem:
            raise IncompleteError(f"{self.path} breaks off after {decoded} frames ({problem}); these are kept")

    @property
    def names(self) -> Iterable[str]:
        return (self._name(number) for number in range(min(self.count or 1, MOST_NAMES)))

    def _name(self, number: int) -> str:
        return f"{self.path.stem}_{number:06d}"

    def _source_frame(self, frame: av.VideoFrame, number: int) -> SourceFrame:
        image = frame.to_ndarray(format="rgb24")
        quarters = round(frame.rotation / 90)  # counterclockwise, as phones store upright videos
        upright = np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image
        seconds = number / self.fps if frame.time is None else frame.time
        return SourceFrame(self._name(number), upright, seconds)

    def _ends_early(self, decoded: int, reached: float) -> bool:
        """Whether the file ends before the duration in its header; ``False`` where either is unknown."""
        if not self._seconds or not reached:
            return False
        one_frame = reached / decoded  # the last frame's duration is not always known
        return reached + one_frame < self._seconds - min(MISSING_SHARE * self._seconds, MISSING_SECONDS)


def upright_image(frame: av.VideoFrame) -> np.ndarray:
    """A decoded frame as RGB uint8 ``H W 3``, turned as it is to be shown."""
    image = frame.to_ndarray(format="rgb24")
    quarters = round(frame.rotation / 90)  # counterclockwise, as phones store upright videos
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def _frames_by_duration(container: av.container.InputContainer, fps: float) -> int | None:
    return round(container.duration / av.time_base * fps) if container.duration else None


def _end_of(packet: av.Packet) -> float:
    """End of a packet's presentation, in seconds; 0 where it has no timestamp."""
    return 0.0 if packet.pts is None else float((packet.pts + (packet.duration or 0)) * packet.time_base)


def reason_of(error: Exception) -> str:
    """What FFmpeg says of an error, without the name of the file."""
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0].lower()
