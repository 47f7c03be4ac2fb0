"""The ``cpu`` backend: calls of the fused C++ kernels, float32. Results do not depend on the number of threads."""

import ctypes
import itertools
import os
from collections.abc import Sequence

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
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    sink: Tensor | None,
    window: int,
    masked: bool = False,
    in_bfloat16: bool = False,
) -> tuple[Tensor, Tensor]:
    """query ``B C h w``, keys ``B C T h w``, values ``B D T h w``, contiguous -> ``B D h w``, log-sum-exp ``B h w``.

    Values may be channels-last (``torch.channels_last_3d``), as a ``fast_copy`` makes them: then the output is too.
    With ``in_bfloat16`` all factors, those of scores too, are rounded to it before they are multiplied (see
    ``why_not_bfloat16``); NaN in a value may then reach the queries one column beside those whose window holds it.
    """
    assert not masked  # fused_in_float masks by another channel
    b, _, h, w = query.shape
    out, lse = empty_output(query, values), query.new_empty((b, h, w))
    sizes = _sizes(query, values, window, is_channels_last(values), in_bfloat16)
    _call("local_attention_forward", sizes, query, keys, values, sink, out, lse)
    return out, lse


def read_in_bfloat16(query: Tensor, keys: Tensor, values: Tensor, sink: Tensor | None, window: int) -> Tensor:
    """The forward's output for float32 tensors in any order, with the factors of all products rounded to bfloat16."""
    values = values if is_channels_last(values) else values.contiguous()
    sink = None if sink is None else sink.reshape(1).float()
    return forward(query.contiguous(), keys.contiguous(), values, sink, window, in_bfloat16=True)[0]


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
    """Channels read come in multiples of this for ``line_convolution``; 0 where there is no library."""
    library = built().library
    return 0 if library is None else library.line_block()


def line_lanes() -> int:
    """Channels made come in multiples of this for ``line_convolution``; 0 where there is no library."""
    library = built().library
    return 0 if library is None else library.line_lanes()


def why_not_bfloat16() -> str | None:
    """Why products of bfloat16 numbers are not computed here at twice the pace, as a phrase; None if they are."""
    problem = _build_problem()
    if problem is not None:
        return f"the library is missing: {problem}"
    library = built().library
    assert library is not None
    return None if library.has_bfloat16() else "this processor, or the compiler, has no avx512_bf16"


def line_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, added: Tensor | None, dilation: int, along_rows: bool, relu: bool
) -> Tensor:
    """A convolution of three taps along rows or columns plus ``added``, and its ReLU: ``B C h w`` -> ``B D h w``.

    ``weight`` is the filter at Winograd's points (``models/line_convolution.py``); in bfloat16 the products are of
    numbers rounded to it (see ``why_not_bfloat16``). All others are float32; the result is channels-last.
    """
    (b, c, h, w), d = x.shape, len(bias)
    pixel = x.stride(3)  # a slice of the channels is read where it lies
    if x.stride() != (h * w * pixel, 1, w * pixel, pixel):
        x, pixel = x.contiguous(memory_format=torch.channels_last), c
    added = None if added is None else added.contiguous(memory_format=torch.channels_last)
    out = torch.empty((b, h, w, d)).permute(0, 3, 1, 2)
    lines = (w, h, 1, w) if along_rows else (h, w, w, 1)
    taps, is_short = 1 if len(weight) == 6 else 3, weight.dtype == torch.bfloat16
    sizes = (ctypes.c_long * 13)(b, *lines, c, d, taps, dilation, relu, torch.get_num_threads(), is_short, pixel)
    _call("line_convolution", sizes, x, weight, bias, added, out)
    return out


Filter = tuple[Tensor, Tensor]  # of 3x3 taps, at Winograd's points as for ``line_convolution``, and its bias


def gated_fusion(
    query: Tensor, read: Tensor, prepared: tuple[Tensor, Tensor] | None, filters: Sequence[Filter], shift: Tensor
) -> Tensor:
    """A gated fusion with its convolutions: channels-last float32 ``B D h w`` twice -> ``B E h w``, channels-last.

    With ``prepared``, a scale and a shift of D elements, it begins with the ReLU of ``query``, and that of ``read``
    times the scale plus the shift. ``filters`` make the gates, 2E of both inputs or E for both, and the features, E of
    each input. ``shift``, of E elements, is added to their sum, before a last ReLU.
    """
    (b, channels, h, w), made = query.shape, len(shift)
    out = torch.empty((b, h, w, made)).permute(0, 3, 1, 2)
    gates, bias = filters[0]
    one_gate, is_short = len(bias) == made, gates.dtype == torch.bfloat16
    sizes = (ctypes.c_long * 8)(b, h, w, channels, made, one_gate, torch.get_num_threads(), is_short)
    _call("gated_fusion", sizes, query, read, *(prepared or (None, None)), *itertools.chain(*filters), shift, out)
    return out


def residual_fusion(query: Tensor, read: Tensor, reduce: Filter, gate: Filter) -> Tensor:
    """The difference of ``read`` to ``query`` times a gate: channels-last float32 ``B F h w`` twice -> ``B F h w``.

    ``reduce`` makes what the gate is made of, through a ReLU, of both inputs and their absolute difference.
    """
    b, channels, h, w = query.shape
    out = torch.empty((b, h, w, channels)).permute(0, 3, 1, 2)
    is_short = gate[0].dtype == torch.bfloat16
    sizes = (ctypes.c_long * 7)(b, h, w, channels, len(reduce[1]), torch.get_num_threads(), is_short)
    _call("residual_fusion", sizes, query, read, *reduce, *gate, out)
    return out


def why_not_average(logits: Tensor) -> str | None:
    """Why ``average`` cannot take these, as a phrase; None if it can."""
    return _build_problem() if logits.device.type == "cpu" else f"it needs logits on the CPU, found {logits.device}"


def average(
    logits: Tensor,
    before: Tensor | None,
    index: Tensor | None,
    trust: Tensor | None,
    weight: float,
    sure: float,
) -> Tensor:
    """The softmax of logits ``1 K h w``, averaged with the probabilities ``before``, ``[h w, K]`` -> ``[h w, K]``.

    ``index``, int32, is each pixel's row there (None: its own), ``trust`` a factor of the share of the past, which is
    ``weight``, or with an index ``weight * trust * (1 - sure * p)`` with the largest probability p of the pixel.
    """
    (_, classes, height, width), logits = logits.shape, logits.float()
    if logits.stride(1) == 1 and logits.is_contiguous(memory_format=torch.channels_last):
        strides = 1, classes
    else:
        logits, strides = logits.contiguous(), (height * width, 1)
    index, trust = (None if x is None else x.contiguous() for x in (index, trust))
    out = torch.empty(height * width, classes)
    sizes = (ctypes.c_long * 5)(height * width, classes, *strides, torch.get_num_threads())
    _call("average", sizes, logits, before, index, trust, torch.tensor([weight, sure]), out)
    return out


Between = tuple[Tensor, Tensor]  # positions, int32, and weights of the ones behind them


def labels_of_logits(logits: Tensor, size: tuple[int, int], rows: Between, columns: Between) -> tuple[Tensor, Tensor]:
    """The index of the largest of ``1 K h w`` logits, enlarged to ``size`` on the way -> uint8 ``H W``, and whether all
    logits are finite, one element.

    ``rows`` and ``columns`` say which two each of the output lies between.
    """
    out, is_finite = torch.empty(size, dtype=torch.uint8), torch.empty((), dtype=torch.bool)
    sizes = (ctypes.c_long * 9)(*logits.shape[1:], *size, *logits.stride()[1:], torch.get_num_threads())
    _call("labels_of_logits", sizes, logits, *rows, *columns, out, is_finite)
    return out, is_finite


def _sizes(query: Tensor, values: Tensor, window: int, nhwc: bool = False, in_bfloat16: bool = False) -> ctypes.Array:
    (b, c, h, w), (_, d, t, _, _) = query.shape, values.shape
    return (ctypes.c_long * 10)(b, c, d, t, h, w, window, torch.get_num_threads(), nhwc, in_bfloat16)


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
