"""Frames in image files: of a folder, or of a pattern of file names."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets.images import read_picture
from engine.streaming.sources.source import DEFAULT_FPS, SourceFrame
from utils.errors import DataError, IncompleteError

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")


class ImageFiles:
    """Frames in single files, in natural order: 9 before 10."""

    def __init__(self, source: str, files: list[Path], problem: str):
        if not files:
            raise DataError(problem)
        self.files = sorted(files, key=_counting_order)
        self.description, self.fps, self.count = f"{len(files)} image files ({source})", DEFAULT_FPS, len(files)
        self._numbered = len({file.stem for file in files}) < len(files)  # equal names in several folders

    def __iter__(self) -> Iterator[SourceFrame]:
        for position, file in enumerate(self.files):
            try:
                frame = read_picture(file)
            except DataError as error:
                if position == 0:
                    raise
                raise IncompleteError(f"{error}; {position} frames before it are kept") from error
            name = f"{position:06d}_{file.stem}" if self._numbered else file.stem
            yield SourceFrame(name, frame.permute(1, 2, 0).numpy(), position / self.fps)


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
    """The paths without folders and hidden files, such as the ``._frame.png`` of macOS."""
    return [path for path in paths if path.is_file() and not path.name.startswith(".")]


def _counting_order(file: Path) -> list[int | str]:
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", str(file))]
