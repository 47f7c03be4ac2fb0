"""Checkpoints and weights on disk: read as data only, written atomically, with a checksum.

The checksum is the comment at the end of the zip file that ``torch.save`` writes, so that any PyTorch reads the file:
``sha256:`` and 64 digits over all bytes before it, as they are without a comment. Of files without it, the CRCs of the
zip file are verified, which PyTorch does not do.
"""

import hashlib
import os
import pickle
import struct
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import torch

from utils.errors import UserError
from utils.files import PART, renamed, written_whole
from utils.limits import unpacks_to_too_much

# Own code, as no library does it: torch.load reads on over 4898 of 5545 single wrong bytes of a small file without an
# error, and safetensors has no checksum either.

_MARK = b"sha256:"
_NO_COMMENT = b"\0\0"  # the length of the comment, which a zip file ends in
_COMMENT_LENGTH = len(_MARK) + 64
_BLOCK = 1 << 20

_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


def save(path: str | Path, content: dict, keep_previous: bool = False) -> None:
    """Writes tensors and plain values atomically, after reading the bytes back.

    With ``keep_previous`` the file it replaces is kept as ``previous(path)``. Raises ``OSError`` where it cannot be
    written or reads back differently; the existing file then stays.
    """
    path = Path(path)
    with written_whole(path, "w+b") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            raise _of_writing(error) from error
        _add_checksum(file)
        _forget_cached(file)
        if not _checksum_holds(file):
            raise OSError(f"{path}: does not read back as it was written")
        if keep_previous and path.exists():
            _keep(path, previous(path))


def _of_writing(error: RuntimeError) -> BaseException:
    """What torch's zip writer hides behind an error of its own: Ctrl-C, or an error of the file."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return KeyboardInterrupt()
        if isinstance(cause, OSError):
            return OSError(cause.errno, cause.strerror)
        cause = cause.__context__
    return error


def previous(path: Path) -> Path:
    """Path of the checkpoint before the last one."""
    return path.with_name(f"{path.name}.previous")


def is_damaged(path: Path) -> bool:
    """Whether a checksum of the file does not match."""
    with open(path, "rb") as file:
        return not _checksum_holds(file, needed=False) or not _records_hold(file)


def _add_checksum(file: IO[bytes]) -> None:
    file.seek(-len(_NO_COMMENT), os.SEEK_END)
    if file.read() != _NO_COMMENT:
        raise OSError(f"{file.name}: torch.save ended it in an unexpected way")
    comment = _MARK + _digest(file, file.tell()).encode()
    file.seek(-len(_NO_COMMENT), os.SEEK_END)
    file.write(_COMMENT_LENGTH.to_bytes(2, "little") + comment)


def _checksum_holds(file: IO[bytes], needed: bool = True) -> bool:
    size = file.seek(0, os.SEEK_END) - _COMMENT_LENGTH
    if size <= len(_NO_COMMENT):
        return not needed
    file.seek(size)
    comment = file.read()
    if not comment.startswith(_MARK):
        return not needed
    return comment[len(_MARK) :] == _digest(file, size).encode()


def _records_hold(file: IO[bytes]) -> bool:
    """Whether the CRCs of a zip file match; True for files of ours, which are verified as a whole, for those without
    CRCs, which torch can be told to write, and for files of other kinds."""
    if not zipfile.is_zipfile(file):
        return True
    with zipfile.ZipFile(file) as archive:
        if archive.comment.startswith(_MARK) or not any(record.CRC for record in archive.infolist()):
            return True
        return archive.testzip() is None


def _digest(file: IO[bytes], size: int) -> str:
    """SHA-256 of the first ``size`` bytes, the last two of which, the length of the comment, are taken as 0."""
    digest, left = hashlib.sha256(), size - len(_NO_COMMENT)
    file.seek(0)
    while left and (block := file.read(min(left, _BLOCK))):
        digest.update(block)
        left -= len(block)
    digest.update(_NO_COMMENT)
    file.seek(size)
    return digest.hexdigest()


def _forget_cached(file: IO[bytes]) -> None:
    """Syncs a file and drops it from the page cache, so that reading it back reads the disk."""
    file.flush()
    os.fsync(file.fileno())
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _keep(path: Path, kept: Path) -> None:
    """Links a file to a second name, so that the first one exists at every moment."""
    part = kept.with_name(f".{kept.name}{PART}")
    part.unlink(missing_ok=True)
    try:
        os.link(path, part)
        renamed(part, kept)
    except OSError:
        part.unlink(missing_ok=True)
        renamed(path, kept)  # a file system without links


def read(path: str | Path, error_type: type[UserError]) -> object:
    """The content of a file of tensors and plain values, on the CPU.

    Raises ``error_type`` where the file is missing, damaged, or holds anything that would run code when loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise error_type(f"{path}: there is no such file: expected one written by torch.save")
    try:
        size = path.stat().st_size
        _check_unpacked(path, size, _packed_bytes(path), error_type)
        if is_damaged(path):
            raise error_type(_unreadable(path))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as hints about the pickle protocol of old files
            content = torch.load(path, map_location="cpu", weights_only=True)
        # A tensor of stride 0 says any size and holds a single number.
        _check_unpacked(path, size, _tensor_bytes(content), error_type)
        return content
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "class" in str(error).partition("WeightsUnpickler error:")[2]:
            raise error_type(
                f"{path}: holds more than tensors and could run code, so it was not read: expected a plain state dict"
            ) from error
        raise error_type(_unreadable(path)) from error
    except _DAMAGED as error:
        raise error_type(_unreadable(path)) from error


def _check_unpacked(path: Path, size: int, unpacked: int, error_type: type[UserError]) -> None:
    problem = unpacks_to_too_much(size, unpacked)
    if problem:
        raise error_type(f"{path}: {problem}")


def _packed_bytes(path: Path) -> int:
    """What the records of a zip file unpack to, as it says itself; 0 for files of other kinds."""
    if not zipfile.is_zipfile(path):
        return 0
    with zipfile.ZipFile(path) as archive:
        return sum(record.file_size for record in archive.infolist())


def _tensor_bytes(content: object) -> int:
    """Bytes of all tensors in a content, as their sizes say."""
    if isinstance(content, torch.Tensor):
        return content.numel() * content.element_size()
    if isinstance(content, Mapping):
        return sum(map(_tensor_bytes, content.values()))
    return sum(map(_tensor_bytes, content)) if isinstance(content, (list, tuple)) else 0


def _unreadable(path: Path) -> str:
    return f"{path}: is no weight file, or damaged or cut short: expected one written by torch.save; copy it again"
