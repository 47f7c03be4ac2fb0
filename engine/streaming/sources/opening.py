"""Which source a value of ``--stream`` names, and frames spread over one."""

import glob
import re
from itertools import islice
from pathlib import Path

import numpy as np

from engine.streaming.sources.camera import CameraFeed, camera_number
from engine.streaming.sources.images import IMAGE_ENDINGS, ImageFiles, numbered_files, visible_files
from engine.streaming.sources.live import ReceivedSource, played, received
from engine.streaming.sources.protocols import is_network_address
from engine.streaming.sources.source import FrameSource
from engine.streaming.threads import interruptible
from utils.addresses import without_secrets
from utils.errors import DataError, IncompleteError
from utils.modules import check_importable

OPENING_SECONDS = 30.0
LONGEST_STEP = 125  # from one calibration frame to the next: the skipped frames are decoded too


def open_source(source: str, option: str = "--stream", live: bool | None = None, retries: int = 0) -> FrameSource:
    """The source that the value of ``option`` names. Raises ``DataError`` where it does not exist or has no frames.

    With ``live`` the newest frame is taken and older ones are dropped, which is the default for cameras and network
    streams; these are waited for, as long as ``retries`` take, where they go away. Ctrl-C and SIGTERM act while a
    source is opened, and what does not answer is given up after ``OPENING_SECONDS``.
    """
    try:
        return interruptible(lambda: _opened(source, option, live, retries), OPENING_SECONDS)
    except TimeoutError:
        raise DataError(
            f"{option} {without_secrets(source)}: it was not open after {OPENING_SECONDS:g} s: expected a source that "
            "answers; a file on a slow drive can be copied to this machine first"
        ) from None


def _opened(source: str, option: str, live: bool | None, retries: int) -> FrameSource:
    number = camera_number(source)
    if number is not None:
        return received(lambda: CameraFeed(number, option), live, retries)
    # What exists is a file, whatever its name looks like.
    if is_network_address(source) and not Path(source).exists():
        check_importable("av", f"{option} {without_secrets(source)}: a stream needs PyAV", "pip install av")
        from engine.streaming.sources.network import NetworkFeed  # here, as pictures are read without PyAV

        return received(lambda: NetworkFeed(source, option), live, retries)
    recording = _recording(source, option)
    return played(recording) if live else recording


def _recording(source: str, option: str) -> FrameSource:
    path = Path(source)
    if path.is_dir():
        files = [file for file in visible_files(path.iterdir()) if file.suffix.lower() in IMAGE_ENDINGS]
        problem = f"{option}: folder {source} holds no image ({', '.join(IMAGE_ENDINGS)})"
        return ImageFiles(source, files, f"{problem}: expected at least one, such as {path}/000000.png")
    if path.is_file():
        is_image = path.suffix.lower() in IMAGE_ENDINGS
        return ImageFiles(source, [path], "") if is_image else _video_file(path, option)
    no_match = f"{option}: no file matches the pattern {source}: expected at least one"
    if re.search(r"%0?\d*d", path.name):
        return ImageFiles(source, numbered_files(path), no_match)
    if glob.has_magic(source):
        return ImageFiles(source, visible_files(Path(file) for file in glob.glob(source)), no_match)
    raise DataError(
        f"{option} {source}: there is no such file or folder: expected a video file, a folder of frames, a pattern "
        "such as frames/%06d.png or 'frames/*.jpg', the number of a camera, such as 0, or an address, such as "
        "rtsp://HOST/PATH"
    )


def _video_file(path: Path, option: str) -> FrameSource:
    check_importable("av", f"{option} {path}: a video needs PyAV", "pip install av, or give a folder of frames")
    from engine.streaming.sources.video import VideoFile  # here, as pictures are read without PyAV

    return VideoFile(path, option)


def spread_frames(source: FrameSource, count: int) -> list[np.ndarray]:
    """Up to ``count`` frames, evenly spaced over a source, or over the first minutes of a long video.

    Raises ``DataError`` for a camera or network stream, and where no frame can be read.
    """
    if isinstance(source, ImageFiles):
        files = source.files[:: max(1, len(source.files) // count)][:count]
        return [frame.image for frame in ImageFiles(source.description, files, "")]
    if isinstance(source, ReceivedSource):
        raise DataError(f"{source.description} cannot be read in advance: expected a video or a folder")
    step = min(LONGEST_STEP, max(1, (source.count or count) // count))
    frames: list[np.ndarray] = []
    try:
        frames.extend(frame.image for frame in islice(source, 0, step * count, step))
    except IncompleteError:
        if not frames:  # of a truncated file those before its end are enough
            raise
    return frames
