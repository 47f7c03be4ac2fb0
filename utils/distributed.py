"""The processes that train together: who they are, sums over them, and batch norms that see all of their samples.

Every function works in a single process too, where there is nothing to exchange.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

# Long enough for a process that waits for its data to come back. Processes that die are noticed at once all the same.
TIMEOUT = timedelta(minutes=30)


class Waits:
    """The seconds that this process has spent on exchanging numbers with the others while it could do nothing else.

    On CUDA, where exchanges are only queued, that is close to none, whatever they take.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._sent: float | None = None

    @contextmanager
    def counted(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - start

    def watch_gradients(self, network: DistributedDataParallel) -> None:
        """Lets the waiting for gradients count, from when a process has computed the last of its own on; to be followed
        by ``gradients_came`` after each backward pass in which they are exchanged."""
        network.register_comm_hook(None, self._exchanged)

    def _exchanged(self, _: None, bucket: dist.GradBucket) -> Future[Tensor]:
        if bucket.is_last():
            self._sent = time.perf_counter()
        return allreduce_hook(None, bucket)

    def gradients_came(self) -> None:
        if self._sent is not None:
            self.seconds += time.perf_counter() - self._sent
        self._sent = None


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


def wait_for_all() -> None:
    if world_size() > 1:
        dist.barrier()


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes; the tensor itself stays as it is."""
    if world_size() == 1:
        return tensor
    total = tensor.clone()
    with waits.counted():
        dist.all_reduce(total)
    return total


def gathered(value: object) -> list[object]:
    """What each process has, by rank. Small things only: they are pickled."""
    if world_size() == 1:
        return [value]
    values: list[object] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def from_first(value: object) -> object:
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


def synchronise_norms(model: nn.Module, device_type: str) -> None:
    """Turns the batch norms of a model into ones over the samples of all processes; names and tensors stay.

    PyTorch's own refuses the CPU. Norms that say ``applied = False`` compute nothing and are left alone.
    """
    kind = nn.SyncBatchNorm if device_type == "cuda" else SynchronisedNorm
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and getattr(child, "applied", True):
                synchronised = kind(child.num_features, child.eps, child.momentum)
                synchronised.training = child.training
                synchronised._parameters, synchronised._buffers = child._parameters, child._buffers
                setattr(parent, name, synchronised)


class SynchronisedNorm(nn.BatchNorm2d):
    """Batch norm over the samples of all processes, on any device; in evaluation a plain batch norm."""

    def forward(self, x: Tensor) -> Tensor:  # B C h w
        if not self.training:
            return super().forward(x)
        self.num_batches_tracked.add_(1)
        normed = _NormOverAll.apply(
            x if x.dtype == self.weight.dtype else x.float(),
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.eps,
            self.momentum,
        )
        return normed.to(x.dtype)


class _NormOverAll(Function):
    """Batch norm over the samples of all processes (Ioffe and Szegedy, 2015), means combined as Chan et al. (1983)."""

    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, eps, momentum):
        var, mean = torch.var_mean(x, dim=(0, 2, 3), correction=0)
        count = x.new_tensor([x.numel() / x.shape[1]])
        parts = torch.cat([mean, var, count]).double()
        shares = parts.new_empty(world_size(), len(parts))
        with waits.counted():
            dist.all_gather(list(shares.unbind(0)), parts)
        means, variances, counts = shares.split([len(mean), len(mean), 1], dim=1)  # R C, R C, R 1
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
        running_mean.lerp_(mean.to(x.dtype), momentum)
        running_var.lerp_((var * total / (total - 1)).to(x.dtype), momentum)
        inverse = (var + eps).rsqrt().to(x.dtype)
        mean, var = mean.to(x.dtype), var.to(x.dtype)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.total = total.item()
        return F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx, grad):
        x, weight, mean, inverse = ctx.saved_tensors
        shape = (1, -1, 1, 1)
        normed = (x - mean.view(shape)) * inverse.view(shape)
        own = torch.stack([grad.sum((0, 2, 3)), (grad * normed).sum((0, 2, 3))])
        grad_bias, grad_weight = own
        over_all = summed(own) / ctx.total
        grad_x = (weight * inverse).view(shape) * (grad - over_all[0].view(shape) - normed * over_all[1].view(shape))
        return grad_x, grad_weight, grad_bias, None, None, None, None
