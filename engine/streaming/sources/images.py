"""Frames in image files: of a folder, or of a pattern of file names."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets.images import read_picture
from engine.streaming.output import frame_file_name
from engine.streaming.sources.source import DEFAULT_FPS, SourceFrame
from utils.errors import DataError, IncompleteError
from utils.system_files import is_visible

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class ImageFiles:
    """Frames in single files, in natural order: 9 before 10."""

    def __init__(self, source: str, files: list[Path], problem: str):
        if not files:
            raise DataError(problem)
        self.files = sorted(files, key=_counting_order)
        self.description, self.fps, self.count = f"{len(files)} image files ({source})", DEFAULT_FPS, len(files)
        stems = [file.stem for file in self.files]
        # Alike names in several folders, of several endings, or such as a.png and a_leftImg8bit.png.
        is_clear = len({_file_key(stem) for stem in stems}) == len(stems)
        self.names = stems if is_clear else [f"{number:06d}_{stem}" for number, stem in enumerate(stems)]

    def __iter__(self) -> Iterator[SourceFrame]:
        for position, file in enumerate(self.files):
            try:
                frame = read_picture(file)
            except DataError as error:
                if position == 0:
                    raise
                raise IncompleteError(f"{error}; {position} frames before it are kept") from error
            yield SourceFrame(self.names[position], frame.permute(1, 2, 0).numpy(), position / self.fps)


def numbered_files(pattern: Path) -> list[Path]:
    """Files that match a printf pattern such as ``frame_%06d.png``, whatever number they start at."""
    parts = re.fullmatch(r"(.*)%0?(\d*)d(.*)", pattern.name, re.DOTALL)
    assert parts is not None  # open_source has found the placeholder
    before, width, after = parts.groups()
    digits = rf"\d{{{int(width or 1)},}}"
    matches = re.compile(re.escape(before) + digits + re.escape(after))
    if not pattern.parent.is_dir():
        return []
    return [file for file in pattern.parent.iterdir() if matches.fullmatch(file.name)]


def visible_files(paths: Iterable[Path]) -> list[Path]:
    """The paths without folders, hidden files and those that systems leave, such as ``._0.png`` and ``Thumbs.db``."""
    return [path for path in paths if is_visible(path.name) and path.is_file()]


def _counting_order(file: Path) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(file))]


def _file_key(name: str) -> str:
    """Equal for names of frames whose files would be one, on a disk that ignores case and forms of accents, too."""
    return unicodedata.normalize("NFC", frame_file_name(name)).casefold()
