"""Frames in image files: of a folder, or of a pattern of file names."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from datasets.animations import Picture, picture_count, read_pictures
from engine.streaming.output import frame_file_name
from engine.streaming.sources.damage import Damage
from engine.streaming.sources.source import DEFAULT_FPS, SourceFrame
from utils.errors import DataError, IncompleteError, UnreachableError


class ImageFiles:
    """Frames in image files, in the order of the files; a file may hold several, such as pages of a TIFF."""

    def __init__(self, source: str, files: Sequence[Path], skip_damage: bool = True):
        self.files, self.skip_damage = files, skip_damage
        self.fps = DEFAULT_FPS
        self._bases = frame_names([file.stem for file in files])
        count = _count_in(files[0])
        self.count = len(files) if count == 1 else count if len(files) == 1 else None
        self.names: Iterable[str] = self._bases if count == 1 else [self._name(0, 0)]
        self.description = f"{len(files)} image files ({source})"
        if count > 1 and len(files) == 1:
            self.description = f"an image of {count} frames ({source})"

    def __iter__(self) -> Iterator[SourceFrame]:
        count, untimed, timed = 0, 0, 0.0  # frames, those without a duration of their own, and seconds of the others
        damage, first = Damage(self.skip_damage), None
        for position, file in enumerate(self.files):
            try:
                for name, (pixels, seconds) in self._pictures(position, file):
                    moment = timed + untimed / self.fps
                    yield SourceFrame(name, pixels.permute(1, 2, 0).numpy(), moment, duration=seconds)
                    del pixels  # before the next ones are decoded
                    count += 1
                    untimed, timed = (untimed + 1, timed) if seconds is None else (untimed, timed + seconds)
            except DataError as error:
                first = first or error
                if count == 0 and (isinstance(error, UnreachableError) or not self.skip_damage):
                    raise
                if isinstance(error, UnreachableError) or not self.skip_damage:
                    raise IncompleteError(f"{error}; {count} frames before it are kept") from error
                damage.note(f"after {count} frames", str(error))
        if first is not None and count == 0:
            raise first
        if damage.count:
            raise IncompleteError(f"{damage}; the other {count} frames are kept")

    def _pictures(self, position: int, file: Path) -> Iterator[tuple[str, Picture]]:
        """The frames of a file, with names: numbered unless there is one."""
        pictures = read_pictures(file)
        first = next(pictures, None)
        if first is None:
            return
        second = next(pictures, None)
        if second is None:
            yield self._bases[position], first
            return
        for number, picture in enumerate(chain((first, second), pictures)):
            yield self._name(position, number), picture

    def _name(self, position: int, number: int) -> str:
        base = self._bases[position]
        if len(self.files) > 1 and not base.startswith(f"{position:06d}_"):
            base = f"{position:06d}_{base}"  # as a_000000 may be the name of a file
        return f"{base}_{number:06d}"


def frame_names(stems: Sequence[str]) -> list[str]:
    """Names for frames or videos, by their files' names; all numbered where some would be written to one file.

    They would be for alike names in several folders, of several endings, or such as a.png and a_leftImg8bit.png.
    """
    is_clear = len({_file_key(stem) for stem in stems}) == len(stems)
    return list(stems) if is_clear else [f"{number:06d}_{stem}" for number, stem in enumerate(stems)]


def _count_in(file: Path) -> int:
    try:
        return picture_count(file)
    except DataError:  # said when it is read
        return 1


def _file_key(name: str) -> str:
    """Equal for names of frames whose files would be one, on a disk that ignores case and forms of accents, too."""
    return unicodedata.normalize("NFC", frame_file_name(name)).casefold()
