"""Files below a folder, and text files that list files; nothing else is read."""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from utils.errors import DataError
from utils.system_files import is_visible

MOST_LINE = 10_000  # letters


def files_below(folder: str, endings: Collection[str], subfolders: bool = True) -> Iterator[tuple[str, str]]:
    """Files with these endings: their path below the folder, with slashes, and their path.

    Hidden files and folders are skipped, links are followed. Raises ``DataError`` where a folder cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        here = os.path.join(folder, below) if below else folder
        try:
            state = os.stat(here)
            if (state.st_dev, state.st_ino) in seen:
                continue  # a link to a folder above it
            seen.add((state.st_dev, state.st_ino))
            with os.scandir(here) as entries:
                for entry in entries:
                    name = entry.name
                    if not is_visible(name):
                        continue
                    if os.path.splitext(name)[1].lower() in endings and entry.is_file():
                        yield f"{below}{name}", entry.path
                    elif subfolders and entry.is_dir():
                        waiting.append(f"{below}{name}/")
        except OSError as error:
            raise DataError(f"folder {here} cannot be listed: {error.strerror}") from error


def without_ending(name: str) -> str:
    """A file's name or path without its ending."""
    return os.path.splitext(name)[0]


def read_pairs(file: Path, endings: Collection[str]) -> list[tuple[str, str | None]]:
    """The lines of a text file: a frame or a folder, or a frame and its label with space between them.

    ``endings`` are those of frames, which tell a pair from a name with a space. Raises ``DataError`` where the file
    cannot be read or is empty.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise DataError(f"{file} cannot be read ({reason}): expected a frame in each line") from error
    pairs: list[tuple[str, str | None]] = []
    for line in map(str.strip, text.splitlines()):
        words = line.split("\t") if "\t" in line else line.split()
        is_pair = len(words) == 2 and os.path.splitext(words[0])[1].lower() in endings
        if line and not line.startswith("#"):
            pairs.append((words[0].strip(), words[1].strip()) if is_pair else (line, None))
    if not pairs or any(len(line) > MOST_LINE or "\0" in line for line, _ in pairs):
        raise DataError(f"{file} lists no frames: expected one in each line, such as frames/drive_1/000030.png")
    return pairs


def resolver(example: str, root: str, file: Path) -> Callable[[str], str]:
    """From a line of a list to a path; ``example`` is one of its lines.

    Lines are relative to ``root`` or to the list's folder, or absolute. Where there is no such file, they were written
    on another machine: as many folders are left out at their beginning as need be.
    """
    folder = str(file.parent)
    if os.path.isabs(example) and os.path.exists(example):
        return os.path.normpath
    parts = example.replace("\\", "/").lstrip("/").split("/")
    for skipped in range(len(parts)):
        for start in (root, folder):
            if os.path.exists(os.path.join(start, *parts[skipped:])):
                return lambda line: os.path.normpath(
                    os.path.join(start, *line.replace("\\", "/").lstrip("/").split("/")[skipped:])
                )
    raise DataError(f"{file} lists {example}, which is not in {root}: copy it there, or mend the list")
