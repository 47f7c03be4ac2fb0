"""The list of the files that a program wrote to a folder, so that it removes these later and no others."""

import json
import os
import stat
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Self

from utils.errors import OptionError
from utils.files import remove_parts, write_text


class Manifest:
    """The files written to a folder, as a list in a file there: one JSON string a line, relative to the folder.

    A name is noted before its file is written, so that the list is complete also where the process is killed. While it
    is open (``with manifest:``) names can be noted. Neither the list nor what is in it is reached by a symbolic link.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.path = folder, folder / name
        self._file: IO[str] | None = None
        self._noted: set[str] = set()

    def __enter__(self) -> Self:
        """Begins an empty list. Raises ``OSError`` where there is one."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        self._file = os.fdopen(descriptor, "w", encoding="ascii", buffering=1)  # written through line by line
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Ends the list, which then names only what is there."""
        assert self._file is not None
        self._file.close()
        self._file = None
        left = [name for name in self.noted() if os.path.lexists(self.folder / name)]
        try:
            write_text(self.path, "".join(_line(name) for name in left))
        except OSError:
            if error is None:  # else the list as it is serves, too
                raise

    def note(self, names: Iterable[str]) -> None:
        """Adds names of files and folders that are going to be written. Raises ``OSError`` where that fails."""
        assert self._file is not None
        fresh = [name for name in names if name not in self._noted]
        self._file.write("".join(_line(name) for name in fresh))
        self._noted.update(fresh)

    def noted(self) -> list[str]:
        """The names in the list, without those that lead out of the folder; empty where there is no list.

        Raises ``OptionError`` where the list is a link or otherwise no file.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise OptionError(f"{self.path}: cannot be read ({error.strerror}): expected a file: remove it") from error
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OptionError(f"{self.path}: is no file: expected a list of files: remove it")
        with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
            return list(dict.fromkeys(name for line in file if (name := _name(line)) is not None))

    def files(self) -> list[Path]:
        """What is in the list and still there as it was written: files, then folders, innermost first; no links."""
        paths = [self.folder / name for name in self.noted() if _is_own(self.folder, name)]
        return sorted(paths, key=lambda path: (path.is_dir(), -len(path.parts)))

    def remove(self) -> None:
        """Removes the files, the folders that are then empty, and at last the list itself."""
        for path in self.files():
            if not path.is_dir():
                path.unlink(missing_ok=True)
                continue
            remove_parts(path, is_locked=True)
            if not any(path.iterdir()):
                path.rmdir()
        self.path.unlink(missing_ok=True)


def _line(name: str) -> str:
    return json.dumps(name) + "\n"


def _name(line: str) -> str | None:
    """The name in a line; ``None`` for a line that was cut off and for a name that leads elsewhere."""
    try:
        name = json.loads(line)
    except ValueError:
        return None
    if not isinstance(name, str) or "\0" in name or PurePosixPath(name).is_absolute():
        return None
    parts = PurePosixPath(name).parts
    return name if parts and ".." not in parts else None


def _is_own(folder: Path, name: str) -> bool:
    """Whether a name is that of a file or a folder which no symbolic link leads to."""
    path = folder
    *above, last = PurePosixPath(name).parts
    try:
        for part in above:
            path = path / part
            if not stat.S_ISDIR(path.lstat().st_mode):
                return False
        mode = (path / last).lstat().st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) or stat.S_ISDIR(mode)
