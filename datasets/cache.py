"""Decoded, resized frames and labels kept on disk, so that later epochs read them at the disk's speed."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from datasets.cache_folder import CacheFolder, stamp_of
from datasets.clips import Frame
from datasets.images import read_frame
from datasets.labels import read_label
from utils.class_set import LabelCoding

MARK = b"LMACLIP1"  # another number where decoding or resizing changes a value


class FrameCache:
    """A folder of decoded, resized images; several processes may use it at the same time.

    An image is made again where its source has changed or its entry is damaged. Where the disk is full, a warning is
    logged once, and reads go to the sources. Raises ``DataError`` where the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path) -> None:
        self._entries = CacheFolder(folder, MARK, "--cache")
        self.folder = self._entries.folder

    def frame(self, path: str | Frame, size: tuple[int, int]) -> Tensor:
        """What ``read_frame(path, size)`` returns: uint8 3 x H x W."""
        return self._entry(path, (3, *size), "frame", lambda: read_frame(path, size))

    def label(self, path: str | Path, size: tuple[int, int], coding: LabelCoding) -> Tensor:
        """What ``read_label(path, size, coding)`` returns: uint8 H x W."""
        # The same file read by another coding is another entry.
        kind = f"label-{coding.checksum:08x}"
        return self._entry(path, tuple(size), kind, lambda: read_label(path, size, coding))

    def _entry(self, path: str | Frame, shape: tuple[int, ...], kind: str, read: Callable[[], Tensor]) -> Tensor:
        stamp = stamp_of(path)
        if stamp is None:
            return read()  # which raises what is wrong with the source
        kind = f"{shape[-1]}x{shape[-2]}.{kind}"
        pixels = torch.empty(shape, dtype=torch.uint8)
        if not self._entries.fill(pixels, path, stamp, kind):
            pixels = read()
            self._entries.store(pixels, path, stamp, kind)
        return pixels
