"""Going through a loader: the time spent waiting for it, and Ctrl-C while its processes start."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch

from utils.signals import interrupts_held_back
from utils.timing import synchronized_seconds

Batch = TypeVar("Batch")


class Timed(Iterable[Batch]):
    """Goes through a loader and adds up the seconds spent waiting for it."""

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
