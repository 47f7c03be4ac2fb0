"""Single frames of video files, by number: decoded by PyAV, forwards from the nearest key frame."""

import os
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from datasets.clips import VideoFrame
from utils.errors import DataError, UnreachableError
from utils.video_files import opened_video, prepare_decoding, reason_of, upright, video_stream

MOST_OPEN = 4  # videos of a process at the same time
NEARBY = 16  # frames ahead that are reached sooner by decoding on than from a key frame


def video_frame(frame: VideoFrame) -> Tensor:
    """The frame, upright as players show it: RGB, uint8 3 x H x W, a view of H x W x 3.

    Frames in order are decoded once each; others from the nearest key frame before them. Raises ``DataError`` where the
    video is damaged or has no frame of that number.
    """
    return torch.from_numpy(_reader(frame.video).frame(frame.number)).permute(2, 0, 1)


def video_frame_size(frame: VideoFrame) -> tuple[int, int]:
    """Height and width of the video's frames; raises what ``video_frame`` does."""
    return _reader(frame.video).size


def frame_count(video: Path) -> int:
    """Number of frames of a video file, by its header, or counted where that does not tell. Raises ``DataError``."""
    return _reader(video).count


_readers: OrderedDict[tuple[int, Path, int], "_Reader"] = OrderedDict()


def _reader(video: Path) -> "_Reader":
    """The reader of a video, of this process, which keeps a few of them open; a changed file is opened again."""
    try:
        key = (os.getpid(), video, os.stat(video).st_mtime_ns)
    except OSError as error:
        raise UnreachableError(f"video {video} cannot be read: {error.strerror}") from error
    if key not in _readers:
        # Those of the process that this one was forked from stay as they are: closing them may wait for its threads.
        own = [other for other in _readers if other[0] == key[0]]
        if len(own) >= MOST_OPEN:
            _readers.pop(own[0]).close()
        _readers[key] = _Reader(video)
    _readers.move_to_end(key)
    return _readers[key]


class _Reader:
    def __init__(self, path: Path):
        self.path, self._opened = path, ExitStack()
        try:
            self._container = self._opened.enter_context(opened_video(path))
            self._stream = video_stream(self._container, f"video {path}")
            prepare_decoding(self._stream)
            self._stream.codec_context.thread_count = 1  # a loader's workers share the processors, and are forked
            self.count = self._stream.frames or len(self._times)
        except (av.error.FFmpegError, OSError) as error:
            raise self._damaged(error) from error
        self._frames: Iterator[av.VideoFrame] | None = None
        self._next = 0
        self._first: np.ndarray | None = None

    def close(self) -> None:
        self._opened.close()

    @property
    def size(self) -> tuple[int, int]:
        if self._first is None:
            self._first = self.frame(0)
        height, width = self._first.shape[:2]
        return height, width

    def frame(self, number: int) -> np.ndarray:
        """RGB uint8 ``H W 3``."""
        try:
            image = self._decoded(number)
        except (av.error.FFmpegError, OSError) as error:
            self._frames = None
            raise self._damaged(error) from error
        if image is None:
            self._frames = None
            raise DataError(f"video {self.path} has no frame {number}: expected 0 to {self.count - 1}")
        return upright(image)

    def _decoded(self, number: int) -> av.VideoFrame | None:
        if self._frames is None or not self._next <= number < self._next + NEARBY:
            if number >= len(self._times):
                return None
            self._container.seek(self._times[number], stream=self._stream)
            self._frames, self._next = self._container.decode(self._stream), number
            found = next((frame for frame in self._frames if frame.pts == self._times[number]), None)
        else:
            found = None
            while self._next <= number:
                found = next(self._frames, None)
                self._next += 1
        self._next = number + 1
        return found

    @property
    def _times(self) -> list[int]:
        """Presentation times of all frames, in the stream's own unit; packets are read and not decoded."""
        return _times(self.path, os.stat(self.path).st_mtime_ns)

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"video {self.path} cannot be read ({reason_of(error)}): copy this file again, or give its frames"
        )


@lru_cache(maxsize=64)
def _times(path: Path, modified: int) -> list[int]:
    with opened_video(path) as container:
        packets = container.demux(video_stream(container, f"video {path}"))
        return sorted(packet.pts for packet in packets if packet.pts is not None)
