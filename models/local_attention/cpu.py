"""The ``cpu`` backend: fused C++ for float32, a custom operator with gradients; half types pass through float32."""

import ctypes
import os

import torch
from torch import Tensor

from models.local_attention.cpu_build import built

_OWNER = os.getpid()  # a forked process must not touch the thread pool that it inherited


def cpu_attention(query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None) -> Tensor:
    """query ``B C h w``, keys ``B C T h w``, values ``B D T h w`` -> ``B D h w``; same bits for any thread count."""
    sink = None if sink is None else sink.reshape(1).float()
    out, _ = windowed_read(query.float(), keys.float(), values.float(), sink, window)
    return out.to(query.dtype)


def why_not_cpu(query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None) -> str | None:
    """Why the call cannot be served, as a phrase; None if it can. Compiles the library when first asked."""
    if query.device.type != "cpu":
        return f"it needs tensors on the CPU, found {query.device}"
    if query.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes in float32, found {query.dtype}"
    return _build_problem()


@torch.compiler.assume_constant_result
def _build_problem() -> str | None:
    return built().problem


@torch.library.custom_op("lmanet::windowed_read", mutates_args=(), device_types="cpu")
def windowed_read(
    query: Tensor, keys: Tensor, values: Tensor, sink: Tensor | None, window: int
) -> tuple[Tensor, Tensor]:
    """What the queries read ``B D h w``, and the logarithm (base 2) of every query's sum of weights ``B h w``."""
    out = query.new_empty(_out_shape(query, values))
    lse = query.new_empty(_lse_shape(query))
    inputs = [_contiguous(x) for x in (query, keys, values, sink)]
    _call("local_attention_forward", _sizes(query, values, window), *inputs, out, lse)
    return out, lse


@windowed_read.register_fake
def _(query, keys, values, sink, window):
    return query.new_empty(_out_shape(query, values)), query.new_empty(_lse_shape(query))


@torch.library.custom_op("lmanet::windowed_read_backward", mutates_args=(), device_types="cpu")
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
    """Gradients of query, keys, values and sink; an empty tensor for each that is not wanted."""
    gradients = _empty_gradients(query, keys, values, wanted)
    inputs = [_contiguous(x) for x in (grad, query, keys, values, sink, out, lse)]
    outputs = [x if want else None for x, want in zip(gradients, wanted, strict=True)]
    _call("local_attention_backward", _sizes(query, values, window), *inputs, *outputs)
    return gradients


@windowed_read_backward.register_fake
def _(grad, query, keys, values, sink, out, lse, window, wanted):
    return _empty_gradients(query, keys, values, wanted)


def _save(ctx, inputs, output):
    query, keys, values, sink, ctx.window = inputs
    ctx.save_for_backward(query, keys, values, sink, *output)
    ctx.set_materialize_grads(False)


def _gradients(ctx, grad, _):
    if grad is None:
        return None, None, None, None, None
    wanted = list(ctx.needs_input_grad[:4])
    found = windowed_read_backward(grad, *ctx.saved_tensors, ctx.window, wanted)
    return *(x if want else None for x, want in zip(found, wanted, strict=True)), None


windowed_read.register_autograd(_gradients, setup_context=_save)


def _out_shape(query: Tensor, values: Tensor) -> tuple[int, ...]:
    return query.shape[0], values.shape[1], query.shape[2], query.shape[3]


def _lse_shape(query: Tensor) -> tuple[int, ...]:
    return query.shape[0], query.shape[2], query.shape[3]


def _empty_gradients(query: Tensor, keys: Tensor, values: Tensor, wanted: list[bool]) -> list[Tensor]:
    shapes = query.shape, keys.shape, values.shape, (1,)
    return [query.new_empty(shape if want else (0,)) for shape, want in zip(shapes, wanted, strict=True)]


def _contiguous(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


def _sizes(query: Tensor, values: Tensor, window: int) -> ctypes.Array:
    (b, c, h, w), (_, d, t, _, _) = query.shape, values.shape
    return (ctypes.c_long * 8)(b, c, d, t, h, w, window, torch.get_num_threads())


def _call(name: str, sizes: ctypes.Array, *tensors: Tensor | None) -> None:
    """Calls the library; ctypes lets go of the interpreter's lock meanwhile."""
    pointers = [None if x is None else ctypes.c_void_p(x.data_ptr()) for x in tensors]
    if getattr(built().library, name)(sizes, _gomp_parallel(), *pointers):
        raise MemoryError("the attention's working memory could not be allocated")


def _gomp_parallel() -> ctypes.c_void_p | None:
    """The entry of the OpenMP runtime that PyTorch loaded, so that both share one pool of threads."""
    if os.getpid() != _OWNER:
        return None
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except AttributeError:
        return None
