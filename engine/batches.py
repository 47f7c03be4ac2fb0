"""From what a loader gives to what a network takes."""

import contextlib
import signal
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from models.config import BackboneTraits
from utils.timing import synchronised_seconds

Batch = TypeVar("Batch")


def network_input(frames: Tensor, traits: BackboneTraits, device: torch.device) -> Tensor:
    """Frames ``B S 3 H W`` uint8 as float32 on the device, in [0, 1] or normalised as the backbone wants them."""
    clip = frames.to(device, non_blocking=True).float() / 255
    if traits.mean is None:
        return clip
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (traits.mean, traits.std))
    return (clip - mean) / std


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits until the end of this block; processes that start inside of it never get it.

    It reaches every process of a terminal: a loader's worker that dies of it while it starts looks like a failure.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Timed(Iterable[Batch]):
    """Goes through a loader and adds up the seconds spent waiting for it."""

    def __init__(self, loader: Iterable[Batch], device: torch.device):
        self.loader, self.device, self.waiting_seconds = loader, device, 0.0

    def __iter__(self) -> Iterator[Batch]:
        with interrupts_held_back():
            batches = iter(self.loader)
        while True:
            start = synchronised_seconds(self.device)
            try:
                batch = next(batches)
            except StopIteration:
                return
            finally:
                self.waiting_seconds += synchronised_seconds(self.device) - start
            yield batch
