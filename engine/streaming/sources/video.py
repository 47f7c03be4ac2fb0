"""A video file or a pipe, decoded by PyAV, which unlike OpenCV distinguishes a file's end from a truncated file."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from engine.streaming.display import Display
from engine.streaming.sources.damage import Damage
from engine.streaming.sources.source import DEFAULT_FPS, SourceFrame
from engine.streaming.sources.timeline import Timeline
from utils.errors import DataError, IncompleteError
from utils.video_files import opened_video, prepare_decoding, quarter_turns, reason_of, upright, video_stream

# An intact file may be a little shorter than its header says: by this share, and by at most these seconds.
MISSING_SHARE, MISSING_SECONDS = 0.05, 2.0
MOST_FPS = 1000.0  # a rate above is that of the clock, as of a video without times
MOST_NAMES = 100_000  # of frames are told in advance: a damaged header may say any number
ONE_FRAME_A_PACKET = ("h264", "hevc")  # others have packets that show nothing
MOST_LOST = 0.25  # share of a video's packets
MOST_FAILURES = 100  # to read a packet, one after the other: then the rest of the file is given up


class VideoFile:
    """The video of a file that FFmpeg can read, or of a pipe, which is read once."""

    def __init__(self, path: Path, option: str = "--stream", skip_damage: bool = True):
        self.path, self.option, self.skip_damage = path, option, skip_damage
        self._piped: tuple[ExitStack, InputContainer] | None = None  # of a pipe, which cannot be opened again
        try:
            with ExitStack() as opened:
                container = opened.enter_context(opened_video(path))
                self._read_header(container)
                if not path.is_file():
                    self._piped = opened.pop_all(), container
        except (av.error.FFmpegError, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(error) from error

    def _read_header(self, container: InputContainer) -> None:
        stream = self._video_stream(container)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.fps = rate if 0 < rate <= MOST_FPS else DEFAULT_FPS
        self.count = stream.frames or _frames_by_duration(container, self.fps)
        self._seconds = container.duration / av.time_base if container.duration else None
        self.codec = stream.codec_context.name
        videos = len(container.streams.video)
        chosen = f", stream {stream.index}, one of {videos} with pictures" if videos > 1 else ""
        self.description = f"video {self.path} ({self.codec}, {self.fps:g} frames/s{chosen})"

    def __iter__(self) -> Iterator[SourceFrame]:
        decoding = _Decoding(self, Damage(self.skip_damage))
        damage, problem = decoding.damage, ""
        try:
            with ExitStack() as opened:
                if self._piped is None:
                    container = opened.enter_context(opened_video(self.path))
                else:
                    piped, container = self._piped
                    opened.push(piped)
                yield from decoding.frames(container, self._video_stream(container))
        except (av.error.FFmpegError, UnicodeDecodeError, DataError) as error:
            problem = reason_of(error)
        except IncompleteError as error:
            problem = str(error)
        if decoding.count == 0:
            raise DataError(
                f"{self.option} {self.path}: no frame can be decoded ({problem or str(damage) or 'it is empty'})"
            )
        if not problem and self._ends_early(decoding.count, decoding.reached):
            problem = f"it is {decoding.reached:.1f} s of {self._seconds:.1f} s long"
        left_out = f"; {damage}" if damage.count and damage.skip else ""
        if problem:
            raise IncompleteError(
                f"{self.path} breaks off after {decoding.count} frames ({problem}); these are kept{left_out}"
            )
        if left_out:
            raise IncompleteError(f"{damage}; the other {decoding.count} frames are kept")

    @property
    def names(self) -> Iterable[str]:
        return (self.frame_name(number) for number in range(min(self.count or 1, MOST_NAMES)))

    def frame_name(self, number: int) -> str:
        """The name of a frame, by its number from 0."""
        return f"{self.path.stem}_{number:06d}"

    def _video_stream(self, container: InputContainer) -> VideoStream:
        return video_stream(container, f"{self.option} {self.path}")

    def _unreadable(self, error: Exception) -> DataError:
        if not self.path.exists() or self.path.is_file():
            expected = "expected one such as MP4 or AVI, or a folder of frames"
        else:
            expected = (
                "expected one that can be read from its beginning to its end, such as MPEG-TS, Matroska, or MP4 whose "
                "index comes first (ffmpeg -movflags faststart); a file can be named instead"
            )
        return DataError(f"{self.option} {self.path}: cannot be read as a video ({reason_of(error)}): {expected}")

    def _ends_early(self, decoded: int, reached: float) -> bool:
        """Whether the file ends before the duration in its header; ``False`` where either is unknown."""
        if not self._seconds or not reached:
            return False
        one_frame = reached / decoded  # the last frame's duration is not always known
        return reached + one_frame < self._seconds - min(MISSING_SHARE * self._seconds, MISSING_SECONDS)


class _Decoding:
    """One pass over a video: the frames until now, what is damaged, and the end in seconds of what was read."""

    def __init__(self, video: VideoFile, damage: Damage):
        self.video, self.damage = video, damage
        self.count, self.reached = 0, 0.0
        self._timeline = Timeline()
        # Packets, those of them that failed, and the numbers of those without a frame yet.
        self._sent, self._failed, self._waited_for = 0, 0, set[int]()

    def frames(self, container: InputContainer, stream: VideoStream) -> Iterator[SourceFrame]:
        prepare_decoding(stream)
        flags = av.codec.context.Flags
        # What is corrupt comes out, for its count; frames tell which packet they are of, so that lost ones are noticed.
        stream.codec_context.flags |= flags.output_corrupt | flags.copy_opaque
        read = {each.index: Timeline() for each in container.streams}
        for packet in self._packets(container):  # audio too: the header's duration is that of the longest stream
            self.reached = max(self.reached, _end_of(packet, read[packet.stream.index]))
            if packet.stream.index != stream.index:
                continue
            if packet.size and not packet.is_discard:
                packet.opaque = self._sent
                self._waited_for.add(self._sent)
                self._sent += 1
            try:
                decoded = stream.decode(packet)
            except MemoryError:
                raise
            except av.error.FFmpegError as error:
                self._failed += 1  # of which packet is not known: threads decode ahead
                self.damage.note(self._place(), reason_of(error))
                continue
            while decoded:
                frame = decoded.pop(0)
                self._waited_for.discard(frame.opaque)
                if frame.is_corrupt:
                    self.damage.note(self._place(), "damaged data")
                    continue
                found = self._source_frame(frame, stream)
                del frame  # the decoder may use its memory again
                yield found
                del found
                self.count += 1
        if stream.codec_context.name in ONE_FRAME_A_PACKET:
            self._note_lost()

    def _note_lost(self) -> None:
        """Notes the frames that the decoder dropped without a word."""
        lost, start = self._waited_for, 1
        while start in lost:  # of a video that was cut: they show what was before the first key frame
            lost.discard(start)
            start += 1
        count = len(lost) - self._failed
        if 0 < count < MOST_LOST * self._sent:  # else a packet is half a frame, a field
            self.damage.note(self._place(), "frames are missing", count)

    def _packets(self, container: InputContainer) -> Iterator[av.Packet]:
        """All packets; what between them cannot be read is noted as damage."""
        failures = 0
        while True:
            try:
                for packet in container.demux():
                    failures = 0
                    yield packet
                return
            except av.error.InvalidDataError as error:
                failures += 1
                if failures == MOST_FAILURES:
                    raise
                self.damage.note(self._place(), reason_of(error))

    def _place(self) -> str:
        return f"{self.video.path} after {self.count} frames"

    def _source_frame(self, frame: av.VideoFrame, stream: VideoStream) -> SourceFrame:
        duration = float(frame.duration * frame.time_base) if frame.duration and frame.time_base else 0.0
        duration = duration or 1 / self.video.fps
        seconds = self._timeline.moment(frame.time, duration)
        name = self.video.frame_name(self.count)
        return SourceFrame(name, upright(frame), seconds, duration=duration, display=display_of(frame, stream))


def display_of(frame: av.VideoFrame, stream: VideoStream) -> Display:
    """How a player is to show a frame."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    if quarter_turns(frame) % 2:
        aspect = 1 / aspect
    return Display(
        aspect, int(frame.colorspace), frame.color_range == 2, int(frame.color_primaries), int(frame.color_trc)
    )


def _frames_by_duration(container: InputContainer, fps: float) -> int | None:
    return round(container.duration / av.time_base * fps) if container.duration else None


def _end_of(packet: av.Packet, timeline: Timeline) -> float:
    """End of a packet's presentation, in seconds that go on as ``timeline`` does; 0 where it has no timestamp."""
    decoded_at = packet.pts if packet.dts is None else packet.dts
    if decoded_at is None or packet.pts is None:
        return 0.0
    unit, duration = packet.time_base, packet.duration or 0
    start = timeline.moment(float(decoded_at * unit), float(duration * unit))
    return start + float((packet.pts - decoded_at + duration) * unit)
