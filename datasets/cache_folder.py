"""A folder of what was made from files, an entry for each: checked, shared by processes, made again when it is lost."""

import errno
import hashlib
import logging
import os
import shutil
import struct
import tempfile
import zlib
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from datasets.clips import Frame
from utils.errors import DataError
from utils.files import part_name, remove_parts

logger = logging.getLogger(__name__)

# What an entry begins with: mark and version of the content, the source's size in bytes and modification time in ns,
# checksum of the content, which follows.
_HEADER = struct.Struct("<8sQqI")

# Size in bytes and modification time in ns of a source.
Stamp = tuple[int, int]


class CacheFolder:
    """A folder of entries, one file each; several processes may use it at the same time.

    An entry is valid while its source has the same size and modification time and its own checksum holds. ``mark`` is
    eight bytes that say what the entries hold, and in which version. When the disk is full (less than ``reserve`` bytes
    would stay free) or the folder unavailable, a warning is logged once, and no more entries are written. ``option`` is
    named in errors, with an example. Raises ``DataError`` where the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path, mark: bytes, option: str, reserve: int = 0) -> None:
        assert len(mark) == 8
        self.folder, self._mark, self._reserve = Path(folder).absolute(), mark, reserve
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise DataError(
                f"cache folder {folder} cannot be written ({error.strerror}): name one that can, such as "
                f"{option} data/cache, or leave {option} out"
            ) from error
        for each in self.folder.glob("[0-9a-f][0-9a-f]"):
            remove_parts(each)
        # Shared with the workers of a loader, forked or spawned, so that one warning is enough for all of them.
        self._stopped = torch.zeros(1, dtype=torch.uint8).share_memory_()

    def fill(self, content: Tensor, source: str | Frame, stamp: Stamp, kind: str) -> bool:
        """Fills a contiguous tensor with the entry of that kind; False where there is none, its source has changed
        since, or it is damaged: then the tensor holds anything."""
        header, found = (self._mark, *stamp), content.numpy().data.cast("B")
        try:
            with open(self._path(source, kind), "rb", buffering=0) as file:
                start = file.read(_HEADER.size)
                if len(start) < _HEADER.size or _HEADER.unpack(start)[:3] != header:
                    return False
                # One byte more than the content is asked for at the end: a file that goes on is not an entry of ours.
                if _bytes_read(file, found) != found.nbytes or file.read(1):
                    return False
        except OSError:
            return False
        return _HEADER.unpack(start)[3] == zlib.crc32(found)

    def store(self, content: Tensor, source: str | Frame, stamp: Stamp, kind: str) -> None:
        """Writes an entry, unless the folder has no room for more."""
        if self._stopped:
            return
        data, entry = content.contiguous().numpy().data, self._path(source, kind)
        try:
            if self._reserve and shutil.disk_usage(self.folder).free < self._reserve + data.nbytes:
                raise OSError(errno.ENOSPC, f"less than {self._reserve >> 30} GiB are free")
            entry.parent.mkdir(exist_ok=True)
            # Beside and renamed: another process sees the whole entry or none.
            part = entry.with_name(part_name(entry.name))
            try:
                with open(part, "xb") as file:
                    file.write(_HEADER.pack(self._mark, *stamp, zlib.crc32(data)))
                    file.write(data)
                part.replace(entry)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        except OSError as error:
            self._stopped.fill_(1)
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            logger.warning("cache folder %s: %s; going on without storing more", self.folder, reason)

    def _path(self, source: str | Frame, kind: str) -> Path:
        """The name describes the entry; a hash of the source's full path keeps equal names apart."""
        digest = hashlib.blake2b(os.fsencode(os.path.abspath(str(source))), digest_size=10).hexdigest()
        stem = Path(source).stem if isinstance(source, str) else source.stem
        return self.folder / digest[:2] / f"{stem}.{kind}.{digest}.raw"


def stamp_of(source: str | Frame) -> Stamp | None:
    """The stamp of a file; ``None`` where it cannot be looked up."""
    try:
        found = os.stat(source)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _bytes_read(file: FileIO, buffer: memoryview) -> int:
    """Fills a buffer from an unbuffered file, whose reads may be partial; returns the number of bytes."""
    position = 0
    while position < len(buffer) and (count := file.readinto(buffer[position:])):
        position += count
    return position
