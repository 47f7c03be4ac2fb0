"""Video files as FFmpeg sees them: which bytes it may read, which stream is the video, how a frame stands upright.

FFmpeg takes a name such as ``http:drive.mp4`` or ``2024-05-01T12:30:00.mp4`` for an address, and a playlist or a
container may name further files and addresses. Here it is handed an open file, and further ones from its folder alone.
"""

import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from av.video.stream import VideoStream

from utils.allocator import make_room
from utils.errors import DataError
from utils.limits import DECODER_BYTES, MAX_DECODED_BYTES, MAX_PIXELS, too_many_pixels
from utils.sizes import format_size

OPTIONS = {
    "max_pixels": str(MAX_PIXELS * 11 // 10),  # of a decoder, before it takes memory; it counts padding, too
    "protocol_whitelist": "file",  # of formats that open further files without asking, such as SDP
    "merge_pmt_versions": "1",  # joined transport streams: the video goes on in the stream that it began in
}
_COVERS = Disposition.attached_pic | Disposition.timed_thumbnails
_ASIDE = Disposition.still_image | Disposition.metadata | Disposition.dependent
_ASIDE_TITLES = re.compile(r"depth|disparity|infra-?red|\bir\b|thumb|preview|mask|alpha", re.IGNORECASE)


@contextmanager
def opened_video(path: str | Path) -> Iterator[InputContainer]:
    """Context with a file's container, opened by its bytes alone, whatever its name looks like.

    Raises ``OSError`` or ``av.error.FFmpegError`` where it cannot be read, ``DataError`` where it names addresses, or
    files outside of its folder; so does reading from the container.
    """
    with (
        open(os.path.abspath(path), "rb", buffering=0) as file,
        closing(av.open(file, "r", options=OPTIONS, io_open=_opener_beside(path))) as container,
    ):
        yield container


def video_stream(container: InputContainer, label: str) -> VideoStream:
    """The stream that is the video: no cover, and rather one in colors than depth, the default one, the largest.

    Raises ``DataError``, which ``label`` begins, where there is none, or its frames are too large.
    """
    streams = [each for each in container.streams.video if not each.disposition & _COVERS and each.codec_context]
    if not streams:
        covers = ", a picture such as a cover at most" if container.streams.video else ""
        raise DataError(f"{label}: holds no video{covers}: expected one such as MP4 or AVI")
    stream = max(streams, key=_rank)
    too_large = too_many_pixels(stream.height, stream.width)
    if too_large:
        raise DataError(f"{label}: its frames have {too_large}")
    size = decoded_bytes(stream)
    if size > MAX_DECODED_BYTES:
        assert stream.codec_context.format is not None
        raise DataError(
            f"{label}: its frames, {format_size((stream.width, stream.height))} of {stream.codec_context.format.name}, "
            f"take {size / 1e6:.0f} MB each: at most {MAX_DECODED_BYTES // 1_000_000} MB are read; convert it, for "
            "example to yuv420p"
        )
    make_room(stream.height, stream.width)
    return stream


def prepare_decoding(stream: VideoStream) -> None:
    """Lets a stream be decoded by several threads, by fewer where its frames are large: each holds one.

    Frames that become too large on the way are not decoded.
    """
    stream.codec_context.options = {"max_pixels": OPTIONS["max_pixels"]}
    stream.thread_type = "AUTO"
    most = DECODER_BYTES // max(1, decoded_bytes(stream))
    stream.codec_context.thread_count = max(1, min(os.cpu_count() or 1, most))


def decoded_bytes(stream: VideoStream) -> int:
    """Bytes of a decoded frame of a stream, before it is made RGB."""
    pixels = stream.codec_context.format
    if pixels is None:
        return 2 * stream.width * stream.height  # of a header that does not say them
    return sum(part.width * part.height * (1 if part.bits <= 8 else 2) for part in pixels.components)


def reason_of(error: Exception) -> str:
    """What FFmpeg says of an error, without the name of the file."""
    return (getattr(error, "strerror", None) or str(error)).splitlines()[0].lower()


def upright(frame: av.VideoFrame) -> np.ndarray:
    """The frame as RGB uint8 ``H W 3``, rotated as players do: phones store upright videos lying."""
    image = frame.to_ndarray(format="rgb24")
    quarters = quarter_turns(frame)
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def quarter_turns(frame: av.VideoFrame) -> int:
    """How often a player turns the frame by a quarter, counterclockwise."""
    return round(frame.rotation / 90)


def _rank(stream: VideoStream) -> tuple[bool | int, ...]:
    title = f"{stream.metadata.get('title', '')} {stream.metadata.get('handler_name', '')}"
    return (
        not stream.disposition & _ASIDE,
        stream.frames != 1,  # a picture
        _has_colors(stream) and not _ASIDE_TITLES.search(title),
        bool(stream.disposition & Disposition.default),
        stream.width * stream.height,
        -stream.index,
    )


def _has_colors(stream: VideoStream) -> bool:
    pixels = stream.codec_context.format
    return pixels is None or pixels.has_palette or len(pixels.components) > 2


def _opener_beside(path: str | Path) -> Callable[[str, int, dict[str, str]], io.FileIO]:
    """Opens what a playlist or a container names, if it is a file in its folder."""
    folder = Path(os.path.realpath(path)).parent

    def open_beside(name: str, flags: int, options: dict[str, str]) -> io.FileIO:
        wanted = name.removeprefix("file:")
        file = Path(os.path.realpath(wanted))
        inside = os.path.isabs(wanted) and file.is_relative_to(folder)
        if not inside or (file.exists() and not file.is_file()):  # opening a pipe would wait for its other end
            raise DataError(f"{path} names {name}, which is not opened: expected files in its own folder alone")
        return open(file, "rb", buffering=0)

    return open_beside
