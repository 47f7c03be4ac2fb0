"""Atomic file writes: to a new file in the same folder, synced, then renamed.

All files of the program are written here. Nothing is opened through a link that somebody else put in the way, a write
that takes fewer bytes than it was given goes on with the rest, and what gets its final name is whole and on disk.
"""

import contextlib
import errno
import functools
import io
import logging
import os
import re
import secrets
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from utils.errors import OptionError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

# Ending of files that are being written; one that is left over belongs to a process that was killed.
PART = ".part"
# Machine and process that write it, or the names that earlier versions took.
_PART_NAME = re.compile(r"\..+\.([0-9a-f]{8})-([0-9]+)-[0-9a-f]{8}\.part", re.DOTALL)
_EARLIER_PART_NAME = re.compile(r"\..+\.([a-z0-9_]{8}|previous)\.part", re.DOTALL)
_LONGEST_NAME = 200  # bytes of a file's name that the name of its part repeats, as file systems take 255
_MOST_INTERRUPTS = 100
# What a file system says of a step that it does not offer: folders cannot be synced on CIFS and some of FUSE.
NOT_OFFERED = frozenset(
    (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EACCES, errno.EBADF, errno.EISDIR)
)

_warned: set[str] = set()


@contextmanager
def written_whole(path: str | Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file to write to that is renamed to ``path`` once it is on disk; on an error nothing changes.

    Raises ``OSError`` with ``path`` as its file name.
    """
    path = Path(path)
    beside = path.with_name(part_name(path.name))
    try:
        # "x" takes no file that is there, and no link. Names in a text are bytes: what is not UTF-8 stays as it is.
        encoding, errors = (None, None) if "b" in mode else ("utf-8", "surrogateescape")
        with open(beside, mode.replace("w", "x"), encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            _sync(file.fileno(), path)
        renamed(beside, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(beside)):
            error.filename = str(path)
        raise


class PartialFile(io.FileIO):
    """A file written piece by piece, each at once, as ``partial``; ``complete`` syncs it and renames it to ``final``.

    It is created anew: a file or link of that name is removed first. Where a write failed, ``complete`` raises the
    error again, also where the library that wrote, such as an encoder, went on.
    """

    def __init__(self, partial: Path, final: Path):
        self.partial, self.final = partial, final
        self._error: OSError | None = None
        partial.unlink(missing_ok=True)
        super().__init__(partial, "x")

    def write(self, data: Any) -> int:
        """Writes all of the bytes. Raises ``OSError`` where the disk does not take them."""
        left = memoryview(data).cast("B")
        size = left.nbytes
        try:
            while left:
                written = super().write(left)
                if not written:
                    raise OSError(errno.EIO, "nothing more is written")
                left = left[written:]
        except OSError as error:
            self._error = self._error or error
            raise
        return size

    def complete(self) -> None:
        """Gives the file its final name, once it is on disk. Raises ``OSError`` where anything of it is missing."""
        if self._error is not None:
            raise self._error
        _sync(self.fileno(), self.final)
        self.close()
        renamed(self.partial, self.final)


def renamed(source: Path, target: Path) -> None:
    """Renames a file that is whole and synced, and syncs its folder."""
    _retried(lambda: os.replace(source, target))
    _sync_folder(target.parent)


def part_name(name: str) -> str:
    """A new name, in the same folder, for a file that is being written; it tells by which process."""
    shortened = os.fsdecode(os.fsencode(name)[:_LONGEST_NAME])
    return f".{shortened}.{_machine()}-{os.getpid()}-{secrets.token_hex(4)}{PART}"


def remove_parts(folder: Path, is_locked: bool = False) -> None:
    """Removes unfinished files of processes of this machine that were killed; where no other process may write to the
    folder, as it is locked, those of any."""
    for part in folder.glob(f".*{PART}"):
        if _is_left_over(part.name, is_locked) and part.is_file() and not part.is_symlink():
            with _suppressed("removing", part):
                part.unlink(missing_ok=True)


def _is_left_over(name: str, is_locked: bool) -> bool:
    found = _PART_NAME.fullmatch(name)
    if is_locked or found is None:
        return is_locked and bool(found or _EARLIER_PART_NAME.fullmatch(name))
    if found[1] != _machine():
        return False
    try:
        os.kill(int(found[2]), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except OSError:
        pass
    return False


@functools.cache
def _machine() -> str:
    return f"{zlib.crc32(socket.gethostname().encode(errors='replace')):08x}"


def write_text(path: str | Path, text: str) -> None:
    """Replaces a text file atomically."""
    with written_whole(path, "w") as file:
        file.write(text)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Replaces a binary file atomically."""
    with written_whole(path) as file:
        file.write(content)


def open_to_append(path: Path) -> IO[str]:
    """A text file to add to, made if absent. Raises ``OSError`` for a link."""
    return open(path, "a", encoding="utf-8", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666))


def writable_folder(path: str | Path, option: str) -> Path:
    """The folder, created if absent. Raises ``OptionError`` naming ``option`` where it cannot be written to."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        raise OptionError(
            f"{option} {path}: cannot be written to ({getattr(error, 'strerror', error)}): expected a folder of yours, "
            "for example save/my_run"
        ) from error
    return folder


def own_folder(folder: Path) -> Path:
    """A folder in that of a run, created if absent. Raises ``OptionError`` where its name is a link's or a file's."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise OptionError(
            f"{folder}: is a link or a file: expected a folder, or none: remove it, or give another --savedir"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def warn_once(step: str, message: str) -> None:
    """Logs that a file system does not offer a step, the first time that this process meets it."""
    if step not in _warned:
        _warned.add(step)
        log.warning("%s", message)


def _sync(descriptor: int, path: Path) -> None:
    with _suppressed("syncing", path):
        _retried(lambda: os.fsync(descriptor))


def _sync_folder(folder: Path) -> None:
    with _suppressed("syncing", folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            _retried(lambda: os.fsync(descriptor))
        finally:
            os.close(descriptor)


@contextmanager
def _suppressed(step: str, path: Path) -> Iterator[None]:
    """Context of a step that not every file system offers; one that does not is named once."""
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        step = f"{step} {'folders' if path.is_dir() else 'files'}"
        warn_once(step, f"{step} is not offered by the file system of {path} ({error.strerror}): going on without")


def _retried(call: Callable[[], Result]) -> Result:
    """The call's result; a signal that interrupts it (which Python itself answers in few of them) has it repeated."""
    for _ in range(_MOST_INTERRUPTS):
        try:
            return call()
        except InterruptedError:
            continue
    return call()
