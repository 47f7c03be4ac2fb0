"""Clips run through a network in parallel, one thread per clip, with batch norms synchronized over all clips.

A clip's results have the same bits for any number of threads and processes, and so do the sums over all clips. That
matters since Adam takes full-size steps along the rounding errors of gradients that nearly cancel. For the CPU, which
is as fast with one clip per core as with all cores on each clip.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F

from models.norms import after_norm
from utils import distributed

log = logging.getLogger(__name__)

# Own code although torch has SyncBatchNorm: that refuses CPU tensors between processes, and the weight gradient of a
# batch of clips has other bits than the sum over single clips.

Item = TypeVar("Item")
Result = TypeVar("Result")

_here = threading.local()


class Lockstep:
    """Runs up to ``places`` clips in parallel, each with an equal share of this process's threads.

    Bits depend on a clip's number of threads, which is the same for any number of processes as long as they split the
    processors and the clips of a step.
    """

    def __init__(self, places: int):
        self.places = places
        threads = max(1, torch.get_num_threads() // places)
        self._pool = ThreadPoolExecutor(places, "clip", torch.set_num_threads, (threads,)) if places > 1 else None

    def each(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        generators: Sequence[torch.Generator | None],
        clips_of_all: int,
    ) -> Iterator[Result]:
        """Yields ``work(item)`` for each item, in order; ``clips_of_all`` is the number of clips of all processes.

        Dropout draws from an item's generator. An item without a generator is padding: it takes part in the
        synchronization with zeros. Raises the first error of ``work``.
        """
        meeting = _Meeting(self.places, len(items), clips_of_all)
        seats = [_Seat(meeting, place, generator) for place, generator in enumerate(generators)]
        if self._pool is None:
            yield from (_seated(work, item, seat) for item, seat in zip(items, seats, strict=True))
            return
        futures = [self._pool.submit(_seated, work, item, seat) for item, seat in zip(items, seats, strict=True)]
        try:
            for future in futures:
                yield future.result()
        except threading.BrokenBarrierError:
            raise next(filter(None, map(_own_error, futures))) from None


def _own_error(future: Future) -> BaseException | None:
    """The error of a clip's thread; ``None`` where the thread only waited for one that failed."""
    error = future.exception()
    return None if isinstance(error, threading.BrokenBarrierError) else error


def _seated(work: Callable[[Item], Result], item: Item, seat: "_Seat") -> Result:
    _here.seat = seat
    try:
        return work(item)
    except BaseException:
        seat.meeting.break_up()
        raise
    finally:
        del _here.seat


class _Meeting:
    """A barrier of the clips of a step, at which one thread combines the rows of all."""

    def __init__(self, places: int, parties: int, clips: int):
        self.clips = clips
        self._own: list[Tensor | None] = [None] * places
        self._combine: Callable[[Tensor], object] | None = None
        self._combined: Any = None  # of the type that the current ``combine`` returns
        self._barrier = threading.Barrier(parties, action=self._exchange)

    def combined(self, place: int, row: Tensor, combine: Callable[[Tensor], Result]) -> Result:
        """``combine(rows)`` with the rows of all clips of all processes, ``N K``, in fixed order, 0 for free places."""
        self._own[place], self._combine = row, combine
        self._barrier.wait()
        return self._combined

    def break_up(self) -> None:
        """Ends the waiting of all clips with ``BrokenBarrierError``, after an error of one."""
        self._barrier.abort()

    def _exchange(self) -> None:
        assert self._combine is not None
        free = torch.zeros_like(next(row for row in self._own if row is not None))
        own = torch.stack([free if row is None else row for row in self._own])
        self._combined = self._combine(distributed.all_gather_interleaved(own))


@dataclass(frozen=True)
class _Seat:
    """A clip's place in a meeting."""

    meeting: _Meeting
    place: int
    generator: torch.Generator | None

    def combined(self, row: Tensor, combine: Callable[[Tensor], Result]) -> Result:
        """``combine(rows)`` with the rows of all clips, ``N K`` in float64; ``row``, ``K``, is this clip's."""
        row = row.double()
        return self.meeting.combined(self.place, torch.zeros_like(row) if self.generator is None else row, combine)


def prepare(model: nn.Module) -> None:
    """Replaces batch norms by ``ClipNorm`` and dropouts by ``ClipDropout``, in place; names and tensors stay.

    Norms with ``applied = False`` compute nothing and are left as they are.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d) and getattr(child, "applied", True):
                rest = after_norm(child)
                if rest is None:
                    kind = type(child).__name__
                    log.warning("%s normalizes each clip by itself: what it computes is not known here", kind)
                    continue
                norm = ClipNorm(child.num_features, child.eps, child.momentum, rest)
                norm.training, norm._parameters, norm._buffers = child.training, child._parameters, child._buffers
                setattr(parent, name, norm)
            elif isinstance(child, nn.Dropout | nn.Dropout2d):
                setattr(parent, name, ClipDropout(child.p, 2 if isinstance(child, nn.Dropout2d) else None))
            elif type(child).__name__.endswith(DROPS_BRANCHES):
                rate = getattr(child, "drop_prob", getattr(child, "p", 0.0)) or 0.0
                setattr(parent, name, ClipDropout(rate, 1))


# Ends of the names of modules that drop a residual branch of a clip: timm's, transformers', torchvision's.
DROPS_BRANCHES = ("DropPath", "StochasticDepth")


class ClipDropout(nn.Module):
    """Dropout that draws from the generator of the clip that the thread runs.

    One number is drawn for each element, or with ``whole`` for each index of that many first dimensions: 2 drops
    channels, 1 clips.
    """

    def __init__(self, p: float, whole: int | None = None):
        super().__init__()
        self.p, self.whole = p, whole

    def forward(self, x: Tensor) -> Tensor:  # B C h w, or any other
        if not self.training or self.p == 0:
            return x
        kept = x.new_empty(x.shape if self.whole is None else (*x.shape[: self.whole], *(1,) * (x.dim() - self.whole)))
        return x * kept.bernoulli_(1 - self.p, generator=_here.seat.generator).div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}" if self.whole is None else f"p={self.p}, whole={self.whole}"


class ClipNorm(nn.BatchNorm2d):
    """Batch norm over all clips of a lockstep, and then ``rest``; in evaluation mode that of ``nn.BatchNorm2d``."""

    def __init__(self, channels: int, eps: float, momentum: float | None, rest: nn.Module):
        super().__init__(channels, eps, momentum)
        self.rest = rest  # in no attribute of the class: that would hide it

    def forward(self, x: Tensor) -> Tensor:  # B C h w
        normalized: Tensor = self.rest(self._normalized(x))
        return normalized

    def _normalized(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        seat = _here.seat
        if seat.meeting.clips * x.shape[2] * x.shape[3] == 1:
            # A single value has no variance.
            return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
        wide = x if x.dtype == self.weight.dtype else x.float()
        return _NormOverAll.apply(wide, self.weight, self.bias, self, seat).to(x.dtype)

    def of_all(self, rows: Tensor) -> tuple[Tensor, Tensor, float]:
        """Mean ``C``, variance ``C`` and number of values over all clips; updates the running statistics.

        A row, ``2C + 1``, holds the mean, variance and number of values of a clip.
        """
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        channels = self.num_features
        means, variances, counts = rows.split([channels, channels, 1], dim=1)  # N C, N C, N 1
        total = counts.sum().item()
        mean = (counts * means).sum(0) / total
        var = (counts * (variances + (means - mean) ** 2)).sum(0) / total
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_((var * (total / (total - 1))).to(self.running_var.dtype), self.momentum)
        return mean.to(self.weight.dtype), var.to(self.weight.dtype), total


class _NormOverAll(Function):
    """Batch norm over all clips (Ioffe and Szegedy, 2015), means and variances combined as Chan et al. (1983)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: ClipNorm, seat: _Seat) -> Tensor:
        # The fastest way in PyTorch to compute a mean and a variance.
        _, mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, norm.eps)
        var = (inverse.double() ** -2 - norm.eps).clamp_(min=0)
        count = var.new_tensor([x.numel() // norm.num_features])
        mean, var, total = seat.combined(torch.cat([mean.double(), var, count]), norm.of_all)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.total, ctx.eps, ctx.seat = total, norm.eps, seat
        return F.batch_norm(x, mean, var, weight, bias, eps=norm.eps)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, weight, mean, var = ctx.saved_tensors
        # Sums over this clip alone: of grad times the normalized x, and of grad.
        _, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, None, mean, var, None, None, False, ctx.eps, [False, True, True]
        )

        def factors(rows: Tensor) -> list[Tensor]:
            # weight * inverse * (grad - by_one - normed * by_normed), as a linear combination of grad, x and 1.
            by_normed, by_one = (rows.sum(0) / ctx.total).chunk(2)
            inverse = (var.double() + ctx.eps).rsqrt()
            of_grad = weight.double() * inverse
            of_x = -of_grad * inverse * by_normed
            of_one = -of_grad * by_one - of_x * mean
            return [each.to(x.dtype).view(1, -1, 1, 1) for each in (of_grad, of_x, of_one)]

        grad_x = None
        if ctx.needs_input_grad[0]:
            of_grad, of_x, of_one = ctx.seat.combined(torch.cat([grad_weight, grad_bias]), factors)
            grad_x = torch.addcmul(torch.addcmul(of_one, x, of_x), grad, of_grad)
        return grad_x, grad_weight, grad_bias, None, None
