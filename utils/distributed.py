"""Data-parallel processes: rank and world size, collectives, synchronized batch norms.

Every function works in a single process too, where it communicates nothing.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor, nn

from utils import ranks

Value = TypeVar("Value")

# Of a collective: long enough for a process whose file system went away. Processes that die are noticed at once.
TIMEOUT = timedelta(minutes=30)


class Waits:
    """Seconds that this process has spent blocked in collectives.

    Close to 0 on CUDA, where collectives are only enqueued.
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
    """Joins the process group that the environment (as torchrun sets it) describes, if any; NCCL on CUDA, else Gloo.

    A single process that torchrun started on CUDA joins a group of its own, so that NCCL is tried where there is one
    GPU; it trains as any other.
    """
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if several or (device_type == "cuda" and ranks.is_rank() and "MASTER_ADDR" in os.environ):
        dist.init_process_group("cpu:gloo,cuda:nccl" if device_type == "cuda" else "gloo", timeout=TIMEOUT)


def leave() -> None:
    """Leaves the process group, if any."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is rank 0, which writes files and logs; known before the processes have met, too."""
    return dist.get_rank() == 0 if dist.is_initialized() else ranks.is_first()


def barrier() -> None:
    """Waits until all processes have called it."""
    if world_size() > 1:
        dist.barrier()


def settle() -> None:
    """Waits until all processes have called it or ended: before an error that all of them raise."""
    with contextlib.suppress(RuntimeError):
        barrier()


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """All-reduce: the sum of a tensor over all processes; not in place."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    with waits.counted():
        dist.all_reduce(total)
    return total


def all_gather_interleaved(rows: Tensor) -> Tensor:
    """All-gather of rows ``N ...``, the same N in each process: row 0 of each rank, then row 1 of each rank, ..."""
    if world_size() == 1:
        return rows
    shares = rows.new_empty(world_size(), *rows.shape)
    with waits.counted():
        dist.all_gather(list(shares.unbind(0)), rows)
    return shares.transpose(0, 1).flatten(0, 1)


def all_gather(value: Value) -> list[Value]:
    """The values of all processes, by rank. Small objects only: they are pickled."""
    if world_size() == 1:
        return [value]
    values = [value] * world_size()  # each is replaced
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Value) -> Value:
    """The value of rank 0."""
    if world_size() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error means that another process ended, rather than a fault of this one."""
    if world_size() == 1 or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "peer" in str(error)


def synchronize_norms(model: nn.Module) -> None:
    """Replaces the batch norms of a model on CUDA by synchronized ones, in place; names and tensors stay.

    Norms with ``applied = False`` compute nothing and are left as they are.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and getattr(child, "applied", True):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
