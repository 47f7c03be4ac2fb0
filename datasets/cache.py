"""Decoded, resized frames and labels kept on disk, so that later epochs read them at the disk's speed."""

import errno
import hashlib
import logging
import os
import struct
import tempfile
import zlib
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import torch
from torch import Tensor

from datasets.clips import Frame
from datasets.images import read_frame
from datasets.labels import read_label
from utils.class_set import LabelCoding
from utils.errors import DataError
from utils.files import part_name, remove_parts

logger = logging.getLogger(__name__)

# What an entry begins with: mark and version of the content (raise it when decoding or resizing changes a value),
# the source's size in bytes and modification time in ns, checksum of the pixels. The pixels follow, uint8.
_MARK = b"LMACLIP1"
_HEADER = struct.Struct("<8sQqI")


class FrameCache:
    """A folder of decoded, resized images, one file each; several processes may use it at the same time.

    An entry is valid while its source has the same size and modification time and its own checksum holds; otherwise it
    is made again. When the disk is full or the folder unavailable, a warning is logged once, no more entries are
    written, and reads go to the sources. Raises DataError where the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise DataError(
                f"cache folder {folder} cannot be written ({error.strerror}): name one that can, such as "
                f"--cache data/cache, or leave --cache out"
            ) from error
        for each in self.folder.glob("[0-9a-f][0-9a-f]"):
            remove_parts(each)
        # Shared with the workers of a loader, forked or spawned, so that one warning is enough for all of them.
        self._stopped = torch.zeros(1, dtype=torch.uint8).share_memory_()

    def frame(self, path: str | Frame, size: tuple[int, int]) -> Tensor:
        """What ``read_frame(path, size)`` returns: uint8 3 x H x W."""
        return self._entry(path, (3, *size), "frame", lambda: read_frame(path, size))

    def label(self, path: str | Path, size: tuple[int, int], coding: LabelCoding) -> Tensor:
        """What ``read_label(path, size, coding)`` returns: uint8 H x W."""
        # The same file read by another coding is another entry.
        kind = f"label-{coding.checksum:08x}"
        return self._entry(path, tuple(size), kind, lambda: read_label(path, size, coding))

    def _entry(self, path: str | Frame, shape: tuple[int, ...], kind: str, read: Callable[[], Tensor]) -> Tensor:
        try:
            source = os.stat(path)
        except OSError:
            return read()  # which raises what is wrong with the source
        header = (_MARK, source.st_size, source.st_mtime_ns)
        entry = self._entry_path(path, shape, kind)
        pixels = _stored(entry, shape, header)
        if pixels is None:
            pixels = read()
            self._store(entry, pixels, header)
        return pixels

    def _entry_path(self, path: str | Frame, shape: tuple[int, ...], kind: str) -> Path:
        """The name describes the entry; a hash of the source's full path keeps equal names apart."""
        digest = hashlib.blake2b(os.fsencode(os.path.abspath(str(path))), digest_size=10).hexdigest()
        return self.folder / digest[:2] / f"{_stem(path)}.{shape[-1]}x{shape[-2]}.{kind}.{digest}.raw"

    def _store(self, entry: Path, pixels: Tensor, header: tuple[bytes, int, int]) -> None:
        if self._stopped:
            return
        content = pixels.contiguous().numpy().data
        try:
            entry.parent.mkdir(exist_ok=True)
            # Beside and renamed: another process sees the whole entry or none.
            part = entry.with_name(part_name(entry.name))
            try:
                with open(part, "xb") as file:
                    file.write(_HEADER.pack(*header, zlib.crc32(content)))
                    file.write(content)
                part.replace(entry)
            except BaseException:
                part.unlink(missing_ok=True)
                raise
        except OSError as error:
            self._stopped.fill_(1)
            reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror
            logger.warning("cache folder %s: %s; going on without storing more", self.folder, reason)


def _stem(path: str | Frame) -> str:
    return Path(path).stem if isinstance(path, str) else path.stem


def _stored(entry: Path, shape: tuple[int, ...], header: tuple[bytes, int, int]) -> Tensor | None:
    """An entry's pixels, or None where there is none, its source has changed since, or it is damaged."""
    pixels = torch.empty(shape, dtype=torch.uint8)
    content = pixels.numpy().data
    try:
        with open(entry, "rb", buffering=0) as file:
            start = file.read(_HEADER.size)
            if len(start) < _HEADER.size or _HEADER.unpack(start)[:3] != header:
                return None
            # One byte more than the pixels is asked for at the end: a file that goes on is not an entry of ours.
            if _bytes_read(file, content.cast("B")) != content.nbytes or file.read(1):
                return None
    except OSError:
        return None
    return pixels if _HEADER.unpack(start)[3] == zlib.crc32(content) else None


def _bytes_read(file: FileIO, buffer: memoryview) -> int:
    """Fills a buffer from an unbuffered file, whose reads may be partial; returns the number of bytes."""
    position = 0
    while position < len(buffer) and (count := file.readinto(buffer[position:])):
        position += count
    return position
