"""Which source a value of ``--stream`` names, and frames spread over one."""

import glob
import stat
from itertools import islice
from pathlib import Path

import numpy as np

from datasets.image_files import ENDINGS
from engine.streaming.sources.camera import CameraFeed, camera_number
from engine.streaming.sources.file_names import (
    NUMBER,
    images_among,
    is_image,
    matching_files,
    numbered_files,
    visible_files,
)
from engine.streaming.sources.images import ImageFiles
from engine.streaming.sources.live import ReceivedSource, played, received
from engine.streaming.sources.protocols import is_network_address
from engine.streaming.sources.source import FrameSource
from engine.streaming.threads import interruptible
from utils.addresses import without_secrets
from utils.errors import DataError, IncompleteError
from utils.modules import check_importable

OPENING_SECONDS = 30.0
LONGEST_STEP = 125  # from one calibration frame to the next: the skipped frames are decoded too


def open_source(
    source: str, option: str = "--stream", live: bool | None = None, retries: int = 0, skip_damage: bool = True
) -> FrameSource:
    """The source that the value of ``option`` names. Raises ``DataError`` where it does not exist or has no frames.

    With ``live`` the newest frame is taken and older ones are dropped, which is the default for cameras and network
    streams; these are waited for, as long as ``retries`` take, where they go away. With ``skip_damage`` what of a
    recording cannot be decoded is left out and counted, else the first such place ends it. Ctrl-C and SIGTERM act
    while a source is opened, and what does not answer is given up after ``OPENING_SECONDS``.
    """
    try:
        return interruptible(lambda: _opened(source, option, live, retries, skip_damage), OPENING_SECONDS)
    except TimeoutError:
        raise DataError(
            f"{option} {without_secrets(source)}: it was not open after {OPENING_SECONDS:g} s: expected a source that "
            "answers; a file on a slow drive can be copied to this machine first"
        ) from None


def _opened(source: str, option: str, live: bool | None, retries: int, skip_damage: bool) -> FrameSource:
    number = camera_number(source)
    if number is not None:
        return received(lambda: CameraFeed(number, option), live, retries)
    # What exists is a file, whatever its name looks like.
    if is_network_address(source) and not Path(source).exists():
        check_importable("av", f"{option} {without_secrets(source)}: a stream needs PyAV", "pip install av")
        from engine.streaming.sources.network import NetworkFeed  # here, as pictures are read without PyAV

        return received(lambda: NetworkFeed(source, option), live, retries)
    recording = _recording(source, option, skip_damage)
    return played(recording) if live else recording


def _recording(source: str, option: str, skip_damage: bool) -> FrameSource:
    path = Path("/dev/stdin" if source == "-" else source)
    if path.is_dir():
        return _folder(source, path, option, skip_damage)
    if path.is_file():
        return (
            ImageFiles(source, [path], skip_damage) if is_image(path) else _videos(source, [path], option, skip_damage)
        )
    if path.exists():
        _check_pipe(source, path, option)
        return _videos(source, [path], option, skip_damage)
    if not (NUMBER.search(path.name) or glob.has_magic(source)):
        raise DataError(
            f"{option} {source}: there is no such file or folder: expected a video file, a folder of frames, a pattern "
            "such as frames/%06d.png or 'frames/*.jpg', the number of a camera, such as 0, or an address, such as "
            "rtsp://HOST/PATH"
        )
    found = visible_files(numbered_files(path) if NUMBER.search(path.name) else matching_files(source))
    if not found:
        raise DataError(f"{option}: no file matches the pattern {source}: expected at least one")
    if any(map(is_image, found)):
        return _images(source, found, option, skip_damage)
    return _videos(source, found, option, skip_damage)


def _folder(source: str, path: Path, option: str, skip_damage: bool) -> FrameSource:
    files = visible_files(path.iterdir())
    if any(map(is_image, files)):
        return _images(source, files, option, skip_damage)
    kinds = ", ".join(sorted({file.suffix.lower() or "no ending" for file in files}))
    found = f", only files of other endings ({kinds})" if files else ""
    others = f"; if these are videos, write '{path / '*'}{files[0].suffix}'" if files else ""
    raise DataError(
        f"{option}: folder {source} holds no image ({', '.join(ENDINGS)}){found}: expected at least one, such as "
        f"{path}/000000.png{others}"
    )


def _images(source: str, files: list[Path], option: str, skip_damage: bool) -> FrameSource:
    images = images_among(files, f"{option} {source}")
    if not images:
        raise DataError(
            f"{option} {source}: holds only what an earlier stream wrote ({files[0].name}): expected frames"
        )
    return ImageFiles(source, images, skip_damage)


def _videos(source: str, files: list[Path], option: str, skip_damage: bool) -> FrameSource:
    check_importable("av", f"{option} {source}: a video needs PyAV", "pip install av, or give a folder of frames")
    from engine.streaming.sources.joined import JoinedVideos  # here, as pictures are read without PyAV
    from engine.streaming.sources.video import VideoFile

    if len(files) == 1:
        return VideoFile(files[0], option, skip_damage)
    return JoinedVideos(source, files, option, skip_damage)


def _check_pipe(source: str, path: Path, option: str) -> None:
    """Raises ``DataError`` for what is neither a file nor a folder nor a pipe."""
    mode = path.stat().st_mode
    if stat.S_ISFIFO(mode):
        return
    kind = "a terminal or a device" if stat.S_ISCHR(mode) else "a device" if stat.S_ISBLK(mode) else "a socket"
    raise DataError(
        f"{option} {source}: is {kind}: expected a file, a folder, a pipe that a video is written to (cat drive.ts | "
        "... --stream -), or the number of a camera, such as 0"
    )


def spread_frames(source: FrameSource, count: int) -> list[np.ndarray]:
    """Up to ``count`` frames, evenly spaced over a source, or over the first minutes of a long video.

    Raises ``DataError`` for a camera or network stream, and where no frame can be read.
    """
    if isinstance(source, ImageFiles):
        files = source.files[:: max(1, len(source.files) // count)][:count]
        return [frame.image for frame in islice(ImageFiles(source.description, files), count)]
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
