"""The processes that train together: who they are, sums over them, what each of them has, norms that see all samples.

Every function works in a single process too, where there is nothing to exchange.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch import Tensor, nn

# Long enough for a process that waits for its data to come back. Processes that die are noticed at once all the same.
TIMEOUT = timedelta(minutes=30)


class Waits:
    """The seconds that this process has spent on exchanging numbers with the others while it could do nothing else.

    On CUDA, where exchanges are only queued, that is close to none, whatever they take.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start


waits = Waits()


def join(device_type: str) -> None:
    """Meets the other processes where the environment (as torchrun sets it) says so; NCCL for CUDA, Gloo otherwise."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo", timeout=TIMEOUT)


def leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes files and talks."""
    return rank() == 0


def barrier() -> None:
    if world_size() > 1:
        dist.barrier()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself stays as it is."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    with waits.counted():
        dist.all_reduce(total)
    return total


def all_gather_interleaved(rows: Tensor) -> Tensor:
    """The rows of all processes, as many of each, in the order in which they were dealt out, one to each in turn."""
    if world_size() == 1:
        return rows
    shares = rows.new_empty(world_size(), *rows.shape)
    with waits.counted():
        dist.all_gather(list(shares.unbind(0)), rows)
    return shares.transpose(0, 1).flatten(0, 1)


def all_gather(value: object) -> list[object]:
    """What each process has, by rank. Small things only: they are pickled."""
    if world_size() == 1:
        return [value]
    values: list[object] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: object) -> object:
    """What the first process has."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process went away, and not that something is wrong in this one."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "peer" in str(error)


def synchronize_norms(model: nn.Module) -> None:
    """Turns the batch norms of a model on CUDA into ones over the samples of all processes; names and tensors stay.

    Norms that say ``applied = False`` compute nothing and are left alone.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and getattr(child, "applied", True):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
