"""A stream from the network, by RTSP, HTTP, UDP or TCP, decoded by PyAV."""

import errno
import threading
import time
from collections.abc import Iterator
from functools import partial

import av

from engine.streaming.sources.feed import Arrival, paced
from engine.streaming.sources.protocols import MAY_USE, OPTIONS, protocol_of
from engine.streaming.sources.source import DEFAULT_FPS
from engine.streaming.sources.video import MOST_FPS, display_of
from utils.addresses import without_secrets
from utils.errors import DataError
from utils.limits import MAX_PIXELS
from utils.video_files import reason_of, upright, video_stream

CONNECT_SECONDS, READ_SECONDS = 10.0, 10.0
ONE_FRAME_A_PACKET = ("h264", "hevc", "mjpeg")  # where frames that are missing can be counted


class NetworkFeed:
    """A connection to a network stream. Raises ``DataError`` where there is none, or it holds no video.

    A stream that tells its length is a recording.
    """

    def __init__(self, address: str, option: str = "--stream"):
        protocol, shown = protocol_of(address), without_secrets(address)
        options = {"protocol_whitelist": MAY_USE[protocol], "max_pixels": str(MAX_PIXELS)} | OPTIONS.get(protocol, {})
        try:
            self._container = av.open(
                address, timeout=(CONNECT_SECONDS, READ_SECONDS), options=options, metadata_errors="replace"
            )
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(
                f"{option} {shown}: cannot be opened ({_reason(error, CONNECT_SECONDS)}): expected a stream that is "
                "being sent, such as rtsp://HOST/PATH; where it needs a password, rtsp://USER:PASSWORD@HOST/PATH"
            ) from None
        try:
            self._stream = video_stream(self._container, f"{option} {shown}")
        except DataError:
            self._container.close()
            raise
        self._stream.thread_type = "SLICE"  # threads that decode a frame each would hold back some frames
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self.fps = rate if 0 < rate <= MOST_FPS else DEFAULT_FPS
        seconds = (self._container.duration or 0) / av.time_base
        self._is_playlist = bool({"hls", "dash"} & set(self._container.format.name.split(",")))
        has_length = seconds > 0 or (self._container.size > 0 and not self._is_playlist)
        self.ends = protocol in ("http", "https") and has_length
        self._has_unknown_length = protocol in ("http", "https") and not has_length
        self.count = round(seconds * self.fps) if self.ends and seconds > 0 else None
        self.damaged, self.names = 0, [f"{protocol}_000000"]
        self.description = f"stream {shown} ({self._stream.codec_context.name}, {self.fps:g} frames/s)"

    def arrivals(self, stopped: threading.Event) -> Iterator[Arrival]:
        # A playlist is read piece by piece, each of some seconds, which come at once.
        comes_in_pieces = self._is_playlist and not self.ends
        return paced(self._arrivals(stopped), stopped) if comes_in_pieces else self._arrivals(stopped)

    def _arrivals(self, stopped: threading.Event) -> Iterator[Arrival]:
        has_stamps = av.format.Flags.no_timestamps not in av.format.Flags(self._container.format.flags)
        packets, good, time_base = 0, 0, float(self._stream.time_base or 0)
        can_be_counted = self._stream.codec_context.name in ONE_FRAME_A_PACKET
        try:
            for packet, at in self._packets(stopped):
                packets += packet is not None
                for frame in self._decoded(packet):
                    good += 1
                    can_be_counted = can_be_counted and not frame.interlaced_frame  # whose packets may be fields
                    if not stopped.is_set():
                        stamp = None if frame.pts is None or not has_stamps else frame.pts * time_base
                        display = display_of(frame, self._stream)
                        yield Arrival(partial(upright, frame), stamp, at, display=display)
        finally:
            if can_be_counted:
                self.damaged = packets - good
            self._container.close()

    def _packets(self, stopped: threading.Event) -> Iterator[tuple[av.Packet | None, float]]:
        """Packets of the video with the moments of their arrival; last of all ``None``, which empties the decoder."""
        last, lost, timed_out, demuxed = time.monotonic(), "", False, self._container.demux()
        try:
            while not (lost or stopped.is_set()):
                asked = time.monotonic()
                packet = next(demuxed, None)
                if packet is None:
                    break
                at = time.monotonic()
                timed_out = timed_out or at - asked >= READ_SECONDS
                if packet.stream is self._stream and packet.size:
                    # After a time-out come those that were held back for want of a next one.
                    last = last if timed_out else at
                    yield packet, last
                elif at - last > READ_SECONDS:
                    lost = _silence(READ_SECONDS)
        except av.error.FFmpegError as error:
            # Without a length in HTTP, FFmpeg cannot tell whether the sender ended, and takes it for an error.
            ended = self._has_unknown_length and error.errno == errno.EIO
            lost = "" if ended else _reason(error, READ_SECONDS)
        yield None, last
        if lost:
            raise ConnectionError(lost)

    def _decoded(self, packet: av.Packet | None) -> list[av.VideoFrame]:
        """Whole frames; what cannot be decoded is left out, as all is until the first key frame."""
        try:
            frames = self._stream.codec_context.decode(packet)
        except av.error.FFmpegError:
            self.damaged += 1
            return []
        whole = [frame for frame in frames if not frame.is_corrupt]
        self.damaged += len(frames) - len(whole)
        return whole


def _reason(error: Exception, seconds: float) -> str:
    """What an error says; the one that ends waiting comes after so many ``seconds``."""
    return _silence(seconds) if isinstance(error, av.error.ExitError) else reason_of(error)


def _silence(seconds: float) -> str:
    return f"nothing came for {seconds:g} s"
