"""The ``cpu`` backend: calls of the fused C++ kernels, float32. Results do not depend on the number of threads."""

import ctypes
import os

import torch
from torch import Tensor

from models.local_attention.cpu_build import built

_OWNER = os.getpid()  # a forked process must not use the thread pool that it inherited


def why_not_cpu(query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None) -> str | None:
    """Why the call cannot be run, as a phrase; None if it can. Compiles the library at the first call."""
    if query.device.type != "cpu":
        return f"it needs tensors on the CPU, found {query.device}"
    if query.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it computes in float32, found {query.dtype}"
    return _build_problem()


@torch.compiler.assume_constant_result
def _build_problem() -> str | None:
    return built().problem


def forward(
    query: Tensor, keys: Tensor, values: Tensor, sink: Tensor | None, window: int, masked: bool = False
) -> tuple[Tensor, Tensor]:
    """query ``B C h w``, keys ``B C T h w``, values ``B D T h w``, contiguous -> ``B D h w``, log-sum-exp ``B h w``.

    Values may be channels-last (``torch.channels_last_3d``), as a ``fast_copy`` makes them: then the output is too.
    """
    assert not masked  # fused_in_float masks by another channel
    b, _, h, w = query.shape
    out, lse = empty_output(query, values), query.new_empty((b, h, w))
    sizes = _sizes(query, values, window, is_channels_last(values))
    _call("local_attention_forward", sizes, query, keys, values, sink, out, lse)
    return out, lse


def empty_output(query: Tensor, values: Tensor) -> Tensor:
    """``B D h w``, channels-last if the values ``B D T h w`` are."""
    (b, _, h, w), d = query.shape, values.shape[1]
    if is_channels_last(values):
        return query.new_empty((b, h, w, d)).permute(0, 3, 1, 2)
    return query.new_empty((b, d, h, w))


def is_channels_last(values: Tensor) -> bool:
    """Whether values ``B D T h w`` have the memory order ``B T h w D``, and are not contiguous as well."""
    return values.is_contiguous(memory_format=torch.channels_last_3d) and not values.is_contiguous()


def backward(
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
    shapes = query.shape, keys.shape, values.shape, (1,)
    gradients = [query.new_empty(shape if want else (0,)) for shape, want in zip(shapes, wanted, strict=True)]
    outputs = [x if want else None for x, want in zip(gradients, wanted, strict=True)]
    inputs = (grad, query, keys, values, sink, out, lse)
    _call("local_attention_backward", _sizes(query, values, window), *inputs, *outputs)
    return gradients


def line_block() -> int:
    """Channels come in multiples of this for ``line_convolution``; 0 where there is no library."""
    library = built().library
    return 0 if library is None else library.line_block()


def line_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, dilation: int, along_rows: bool, relu: bool
) -> Tensor:
    """A convolution of three taps along rows or columns plus ``added``, and its ReLU: ``B C h w`` -> ``B D h w``.

    ``weight`` is the filter at Winograd's points (``models/line_convolution.py``). All are float32; the result is
    channels-last.
    """
    (b, c, h, w), d = x.shape, len(bias)
    x = x.contiguous(memory_format=torch.channels_last)
    added = None if added is None else added.contiguous(memory_format=torch.channels_last)
    out = torch.empty((b, h, w, d)).permute(0, 3, 1, 2)
    lines = (w, h, 1, w) if along_rows else (h, w, w, 1)
    taps = weight.shape[2] // c
    sizes = (ctypes.c_long * 11)(b, *lines, c, d, taps, dilation, relu, torch.get_num_threads())
    _call("line_convolution", sizes, x, weight, bias, added, out)
    return out


Between = tuple[Tensor, Tensor]  # positions, int32, and weights of the ones behind them


def labels_of_logits(logits: Tensor, size: tuple[int, int], rows: Between, columns: Between) -> Tensor:
    """The index of the largest of ``1 K h w`` logits, enlarged to ``size`` on the way -> uint8 ``H W``.

    ``rows`` and ``columns`` say which two each of the output lies between.
    """
    out = torch.empty(size, dtype=torch.uint8)
    sizes = (ctypes.c_long * 9)(*logits.shape[1:], *size, *logits.stride()[1:], torch.get_num_threads())
    _call("labels_of_logits", sizes, logits, *rows, *columns, out)
    return out


def _sizes(query: Tensor, values: Tensor, window: int, nhwc: bool = False) -> ctypes.Array:
    (b, c, h, w), (_, d, t, _, _) = query.shape, values.shape
    return (ctypes.c_long * 9)(b, c, d, t, h, w, window, torch.get_num_threads(), nhwc)


def _call(name: str, sizes: ctypes.Array, *tensors: Tensor | None) -> None:
    """Calls the library; ctypes releases the GIL meanwhile."""
    pointers = [None if x is None else ctypes.c_void_p(x.data_ptr()) for x in tensors]
    if getattr(built().library, name)(sizes, _gomp_parallel(), *pointers):
        raise MemoryError(f"working memory could not be allocated for {name}")


def _gomp_parallel() -> ctypes.c_void_p | None:
    """Entry point of the OpenMP runtime that PyTorch loaded, so that both share one thread pool."""
    if os.getpid() != _OWNER:
        return None
    try:
        return ctypes.cast(ctypes.CDLL(None).GOMP_parallel, ctypes.c_void_p)
    except AttributeError:
        return None
