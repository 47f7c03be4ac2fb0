"""Several videos, one after the other, as dash cameras write them."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from engine.streaming.sources.images import frame_names
from engine.streaming.sources.source import SourceFrame
from engine.streaming.sources.video import VideoFile
from utils.errors import DataError, IncompleteError

log = logging.getLogger(__name__)


class JoinedVideos:
    """The frames of several video files, in their order; each begins when the one before it has ended."""

    def __init__(self, source: str, files: Sequence[Path], option: str = "--stream", skip_damage: bool = True):
        self.files, self.option, self.skip_damage = files, option, skip_damage
        first = VideoFile(files[0], option, skip_damage)
        self.fps, self.count = first.fps, None
        self._stems = frame_names([file.stem for file in files])
        self.names: Iterable[str] = [self._name(position, max(first.count or 0, 1)) for position in range(len(files))]
        self.description = f"{len(files)} videos, one after the other ({source}), the first: {first.description}"

    def __iter__(self) -> Iterator[SourceFrame]:
        end, total, problems = 0.0, 0, list[str]()
        for position, file in enumerate(self.files):
            start = end
            first, number = None, 0
            try:
                for frame in VideoFile(file, self.option, self.skip_damage):
                    first = frame.seconds if first is None else first
                    seconds = start + frame.seconds - first
                    end = seconds + (frame.duration or 1 / self.fps)
                    yield frame._replace(name=self._name(position, number), seconds=seconds)
                    del frame  # before the next one is decoded
                    number += 1
            except (DataError, IncompleteError) as error:
                problems.append(str(error))
                if not self.skip_damage:
                    break
                log.warning("%s; the stream goes on with the next video", error)
            total += number
        if problems:
            more = f" (and {len(problems) - 1} more such)" if len(problems) > 1 else ""
            raise (IncompleteError if total else DataError)(f"{problems[0]}{more}")

    def _name(self, position: int, number: int) -> str:
        return f"{self._stems[position]}_{number:06d}"
