"""Loaders of clips, and iterating over them: the time spent waiting, and Ctrl-C while their processes start."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datasets.clip_dataset import ClipDataset, Sample
from utils.signals import interrupts_held_back
from utils.timing import synchronized_seconds

Batch = TypeVar("Batch")

# Index of a clip that only pads a process's share to the size of the others'.
PADDING = -1


class ClipLoader(DataLoader[Sample]):
    """Loads batches of clips: ``Sample`` whose fields have a leading dimension B, its ``clip_index`` a tensor too."""

    dataset: ClipDataset
    batch_size: int


def clip_indices(batch: Sample) -> Tensor:
    """Data set indices ``B`` of a batch's clips, which the loader has collated into a tensor."""
    return torch.as_tensor(batch.clip_index)


class Timed(Iterable[Batch]):
    """Iterates over a loader; ``waiting_seconds`` is the time spent waiting for it so far."""

    def __init__(self, loader: Iterable[Batch], device: torch.device):
        self.loader, self.device, self.waiting_seconds = loader, device, 0.0

    def __iter__(self) -> Iterator[Batch]:
        with interrupts_held_back():
            batches = iter(self.loader)
        while True:
            start = synchronized_seconds(self.device)
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waiting_seconds += synchronized_seconds(self.device) - start
            yield batch
