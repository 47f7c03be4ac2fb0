"""From what a loader gives to what a network takes."""

import contextlib
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from models.config import BackboneTraits
from utils.timing import synchronized_seconds

Batch = TypeVar("Batch")


def network_input(frames: Tensor, traits: BackboneTraits, device: torch.device) -> Tensor:
    """Frames ``B S 3 H W`` uint8 as float32 on the device, in [0, 1] or normalized as the backbone wants them."""
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
    # The mask is for the processes that start: they inherit it. It does not hold back what this process gets, as
    # the kernel gives that to any thread that does not block it, whereupon Python calls the handler in the main one.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    held_back: list[int] = []
    handler = signal.getsignal(signal.SIGINT)
    replaced = handler is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if replaced:
        signal.signal(signal.SIGINT, lambda number, frame: held_back.append(number))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if replaced:
            signal.signal(signal.SIGINT, handler)
        if held_back:
            raise KeyboardInterrupt


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
