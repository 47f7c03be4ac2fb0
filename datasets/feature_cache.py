"""Features of a frozen encoder kept on disk: an entry for each frame, size and transform."""

from pathlib import Path

import torch
from torch import Tensor

from datasets.cache_folder import CacheFolder, Stamp
from datasets.clips import Frame
from datasets.transforms import Transform

MARK = b"LMAFEAT1"  # another number where decoding, resizing, transforms or packing change a value
RESERVE = 1 << 30  # bytes of the disk that are left to others, such as the checkpoints of the training


class FeatureCache:
    """A folder of the features of one encoder, uint8 ``N`` a frame, however they are packed.

    Several processes may use it at the same time. Entries are invalid where the frame's file has changed, and where
    they are damaged. Where the disk is full, a warning is logged once and no more are written. Raises ``DataError``
    where the folder cannot be made or written.
    """

    def __init__(self, folder: str | Path, num_bytes: int) -> None:
        self._entries = CacheFolder(folder, MARK, "--cache-features", RESERVE)
        self.folder, self.num_bytes = self._entries.folder, num_bytes

    def fill(self, features: Tensor, frame: Frame, stamp: Stamp, size: tuple[int, int], transform: Transform) -> bool:
        """Fills ``N`` with what is stored for a frame of a size; False where nothing is: then it holds anything."""
        return self._entries.fill(features, frame, stamp, _kind(size, transform))

    def store(self, features: Tensor, frame: Frame, stamp: Stamp, size: tuple[int, int], transform: Transform) -> None:
        """Writes the features of a frame of a size, unless there is no room."""
        self._entries.store(features, frame, stamp, _kind(size, transform))

    def empty(self, frames: int) -> Tensor:
        """Room for the features of so many frames, ``S N``."""
        return torch.empty(frames, self.num_bytes, dtype=torch.uint8)


def _kind(size: tuple[int, int], transform: Transform) -> str:
    assert transform.crop is None
    flipped = "flipped" if transform.flip else "straight"
    return f"{size[1]}x{size[0]}.{flipped}{transform.down:+d}{transform.right:+d}"
