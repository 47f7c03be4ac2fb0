"""Sampling for a data loader: the order of an epoch's samples, seeds, and errors that workers raise."""

import traceback
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from utils.errors import UserError

# Last of the seeds for random draws of a clip in an epoch, other than its augmentation, and of other draws.
FOR_DROPOUT, FOR_FRAMES, FOR_HOLD_OUT = 1, 2, 3


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields ``(epoch, index)`` in an order that is a function of seed and epoch.

    The epoch is yielded with the index, so that a data set can seed its augmentation by both: samples depend neither on
    the number of workers nor on interruptions. With ``world_size`` processes, process ``rank`` gets every
    ``world_size``-th of the order. For training these shares are made equal: the last, uneven samples are dropped
    (``drop_last``) or the first ones are repeated. For evaluation (``pad=False``) each sample occurs exactly once and
    shares may differ by one. Raises ValueError for a rank outside of the world or a negative length.
    """

    def __init__(
        self,
        length: int,
        seed: int = 0,
        shuffle: bool = True,
        *,
        drop_last: bool = False,
        pad: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if length < 0 or not 0 <= rank < world_size:
            raise ValueError(f"length {length}, rank {rank} of {world_size}: expected length >= 0, 0 <= rank < world")
        self.length, self.seed, self.shuffle = length, seed, shuffle
        self.drop_last, self.pad = drop_last, pad
        self.rank, self.world_size = rank, world_size
        self.epoch, self.start = 0, 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Sets the epoch of the next iteration, and the number ``start`` of samples, over all ranks, that it skips."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Number of this rank's samples in the next iteration."""
        return len(range(self.start + self.rank, self._shared_length(), self.world_size))

    def largest_share(self) -> int:
        """Largest number of samples of any rank in the next iteration."""
        return len(range(self.start, self._shared_length(), self.world_size))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = self._order()
        shared = [order[i % self.length] for i in range(self._shared_length())]
        # The epoch is fixed here: a loader may still prefetch from this iterator when set_epoch() is called.
        epoch = self.epoch
        return iter([(epoch, index) for index in shared[self.start + self.rank :: self.world_size]])

    def _shared_length(self) -> int:
        """Number of samples over all ranks, after dropping or padding."""
        whole, rest = divmod(self.length, self.world_size)
        if self.drop_last:
            return whole * self.world_size
        if self.pad and rest:
            return (whole + 1) * self.world_size
        return self.length

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.length))
        return torch.randperm(self.length, generator=seeded_generator(self.seed, self.epoch)).tolist()


def seeded_generator(*seeds: int) -> torch.Generator:
    """A generator seeded by all of the (non-negative) numbers and their order."""
    # With their count, as SeedSequence does not distinguish trailing zeros from absent numbers.
    state = int(np.random.SeedSequence((len(seeds), *seeds)).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(state)


def clean_worker_error(error: BaseException) -> UserError | None:
    """The error as it was raised inside of a loader's worker: its message without the traceback that torch adds.

    torch raises the worker's exception class anew, with the whole traceback as its message, which ends in
    ``module.Class: message``. Returns None for other errors than UserError, and ``error`` itself where no worker was
    involved. Clears the local variables of the frames in the traceback.
    """
    if not isinstance(error, UserError):
        return None
    name = f"{type(error).__module__}.{type(error).__qualname__}: "
    text = str(error)
    if not text.startswith("Caught ") or name not in text:
        return error
    # torch's frames hold the loader's iterator in a cycle. Freed by the garbage collector, it would wait five seconds
    # for each worker; freed here, it stops them at once.
    traceback.clear_frames(error.__traceback__)
    return type(error)(text.rsplit(name, 1)[1].strip())
