"""The fused attention as a PyTorch operator: one fake implementation and one autograd formula, kernels by device."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.local_attention import cpu, cuda
from models.local_attention.border import inside_the_frame


class Kernels(NamedTuple):
    """``forward(query, keys, values, sink, window, masked) -> out, lse`` and ``backward``, as the two operators below.

    ``reads_channels_last``: whether the forward takes values ``B D T h w`` in the memory order ``B T h w D``.
    """

    forward: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., list[Tensor]]
    reads_channels_last: bool


KERNELS = {"cpu": Kernels(cpu.forward, cpu.backward, True), "cuda": Kernels(cuda.forward, cuda.backward, False)}


def fused_in_float(
    query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None, masked: bool = False
) -> Tensor:
    """The operator on float32 copies of half-precision tensors, for float32-only kernels that do not mask."""
    query_there, keys_there = query.float(), keys.float()
    if masked:
        read = inside_the_frame(lambda wider: fused(query_there, keys_there, wider, window, sink), values.float())
    else:
        read = fused(query_there, keys_there, values.float(), window, sink)
    return read.to(query.dtype)


def fused(
    query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None, masked: bool = False
) -> Tensor:
    """query ``B C h w``, keys ``B C T h w``, values ``B D T h w`` -> ``B D h w``; differentiable, first order."""
    sink = None if sink is None else sink.reshape(1).float()
    return windowed_read(query, keys, values, sink, window, masked)[0]


@torch.library.custom_op("lmanet::windowed_read", mutates_args=())
def windowed_read(
    query: Tensor, keys: Tensor, values: Tensor, sink: Tensor | None, window: int, masked: bool = False
) -> tuple[Tensor, Tensor]:
    """The output ``B D h w``, and the base-2 log-sum-exp of the scores, float32 ``B h w``."""
    sink = None if sink is None else sink.contiguous()
    kernels = KERNELS[query.device.type]
    return kernels.forward(query.contiguous(), keys.contiguous(), _in_a_known_order(values), sink, window, masked)


@windowed_read.register_fake
def _(
    query: Tensor, keys: Tensor, values: Tensor, sink: Tensor | None, window: int, masked: bool = False
) -> tuple[Tensor, Tensor]:
    b, _, h, w = query.shape
    out = cpu.empty_output(query, _in_a_known_order(values))
    return out, query.new_empty((b, h, w), dtype=torch.float32)


def _in_a_known_order(values: Tensor) -> Tensor:
    """Contiguous, or channels-last where the kernels read that: ``out`` is then too, which saves the decoder a copy."""
    kernels = KERNELS.get(values.device.type)  # none for meta tensors
    as_it_lies = kernels is not None and kernels.reads_channels_last and cpu.is_channels_last(values)
    return values if as_it_lies else values.contiguous()


@torch.library.custom_op("lmanet::windowed_read_backward", mutates_args=())
def windowed_read_backward(
    grad: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    sink: Tensor | None,
    out: Tensor,
    lse: Tensor,
    window: int,
    wanted: list[bool],
) -> list[Tensor]:
    """Gradients of query, keys, values and sink; an empty tensor for each that is not ``wanted``."""
    inputs = (None if x is None else x.contiguous() for x in (grad, query, keys, values, sink, out, lse))
    return KERNELS[query.device.type].backward(*inputs, window, wanted)


@windowed_read_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    sink: Tensor | None,
    out: Tensor,
    lse: Tensor,
    window: int,
    wanted: list[bool],
) -> list[Tensor]:
    like = query, keys, values, lse.new_empty(1) if sink is None else sink
    return [x.new_empty(x.shape if want else (0,)) for x, want in zip(like, wanted, strict=True)]


Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None, int, bool]


def _save(ctx: Any, inputs: Inputs, output: tuple[Tensor, Tensor]) -> None:  # ctx holds what is assigned to it
    query, keys, values, sink, ctx.window, _ = inputs  # of masked ones the log-sum-exp says all
    ctx.save_for_backward(query, keys, values, sink, *output)
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None, None, None
    wanted = list(ctx.needs_input_grad[:4])
    found = windowed_read_backward(grad, *ctx.saved_tensors, ctx.window, wanted)
    return *(x if want else None for x, want in zip(found, wanted, strict=True)), None, None


windowed_read.register_autograd(_gradients, setup_context=_save)
