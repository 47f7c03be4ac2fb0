"""Atomic file writes: to a temporary file in the same folder, synced, then renamed."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from utils.errors import OptionError

# Ending of files that are being written; one that is left over belongs to a process that was killed.
PART = ".part"
# Their names: what tempfile makes of them here, and a checkpoint's on the way to its second name (tensor_files.py).
_OWN_PART = re.compile(r"\..+\.([a-z0-9_]{8}|previous)\.part", re.DOTALL)
LONGEST_PREFIX = 50  # characters, of up to four bytes each


@contextmanager
def written_whole(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write to that is renamed to ``path`` once it is on disk; on an error nothing changes."""
    path = Path(path)
    # Of a long name only the beginning, as the longest name that a file may have leaves no room for an addition.
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:LONGEST_PREFIX]}.", suffix=PART)
    try:
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(beside, 0o666 & ~_umask())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_parts(folder: Path) -> None:
    """Removes unfinished files of processes that were killed; only while holding the folder's lock."""
    for part in folder.glob(f".*{PART}"):
        if _OWN_PART.fullmatch(part.name) and part.is_file() and not part.is_symlink():
            part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Replaces a text file atomically."""
    with written_whole(path, "w") as file:
        file.write(text)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replaces a binary file atomically."""
    with written_whole(path) as file:
        file.write(content)


def writable_folder(path: str | Path, option: str) -> Path:
    """The folder, created if absent. Raises ``OptionError`` naming ``option`` where it cannot be written to."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(
            f"{option} {path}: cannot be written to ({error.strerror}): expected a folder of yours, "
            "for example save/my_run"
        ) from error
    return folder


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
