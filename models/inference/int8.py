"""Encoder and decoder in 8-bit integers, run by ONNX Runtime, for the CPU; what belongs to the memory in bfloat16.

Static quantization: scales follow from calibration frames. Activations are unsigned and weights signed, with a scale
per channel: the fastest combination on processors with VNNI. The encoder's first layers stay float32, and so does a
decoder's last transposed convolution: little work, but most of the loss of accuracy.

Heads, attention and fusion, whose gates lose much in 8 bits, multiply bfloat16 where the processor does: as fast, and
more precise. Elsewhere the heads are in 8 bits, attention and fusion in float32.
"""

import importlib.util
import logging
import platform
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from models.inference.bfloat16 import use_bfloat16
from models.inference.fast_copy import JoinedHeads, SharedHead
from models.inference.onnx import NEEDED, exported
from models.inference.runtime_part import (
    ChannelsLast,
    EncoderWithHeads,
    RuntimeEncoder,
    RuntimeHeads,
    RuntimePart,
    SplitHeads,
)
from models.lmanet import LMANet
from utils.errors import OptionError

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

PACKAGES = (*NEEDED, "onnxruntime")
QUANTIZED = (
    "Conv",
    "Relu",
    "Add",
    "MaxPool",
    "Concat",
    "Mul",
    "GlobalAveragePool",
    "ReduceMean",
    "Transpose",
    "Reshape",
)
FINE = 4  # convolutions whose input has more than 1/4 of the frame's height stay float32 in the encoder
EQUALIZED_BY = 4  # inputs are enough for equalization

Inputs = tuple[Tensor, ...]  # of a part, for one frame


@torch.inference_mode()
def quantize(fast: LMANet, frames: Sequence[Tensor]) -> None:
    """Replaces encoder, heads and decoder of a ``fast_copy`` by 8-bit ones, in place.

    ``frames``, each ``1 3 H W`` and normalized, are the calibration set, taken as a video with a memory; afterwards the
    network takes frames of that size only. Raises ``OptionError`` without frames or without ONNX Runtime.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f"int8 is computed by {' and '.join(PACKAGES)}: pip install {' '.join(missing)}")
    if not frames:
        raise OptionError("int8 has no frames to be calibrated on: expected one or more, for example 16")
    start, (height, width) = time.perf_counter(), frames[0].shape[-2:]
    new: dict[str, nn.Module] = {}
    why_not = use_bfloat16(fast)
    for name, inputs in _inputs_of_parts(fast, frames).items():
        part = fast.get_submodule(name)
        if isinstance(part, JoinedHeads):
            heads = SplitHeads(part)
            new[name] = RuntimeHeads(_quantized(ChannelsLast(heads, heads.keys), inputs), part)
        else:
            new[name] = RuntimePart(_quantized(ChannelsLast(AtSize(part, (height, width)), planes=[0]), inputs))
    new |= _encoder(fast, [(frame,) for frame in frames], kept_from=height // FINE)
    for name, part in new.items():
        fast.set_submodule(name, part)
    log.info("%s in int8, from %d frames, in %.1f s", ", ".join(new), len(frames), time.perf_counter() - start)
    if not fast.config.baseline:
        log.info("memory in %s", "bfloat16" if why_not is None else f"float32: {why_not}")


def _encoder(fast: LMANet, frames: list[Inputs], kept_from: int) -> dict[str, nn.Module]:
    """The encoder, as one graph with the heads that read its features, unless these are in bfloat16."""
    if fast.config.baseline or _joined_heads(fast)["query_head"].in_bfloat16:
        part = ChannelsLast(fast.encoder, takes_planes=True)
        return {"encoder": RuntimePart(_quantized(part, frames, kept_from=kept_from))}
    joined = _joined_heads(fast)
    heads = joined["query_head"]
    both = EncoderWithHeads(fast.encoder, heads, fast.config.traits.features)
    levels = len(both(*frames[0])) - len(heads.sizes)
    keys = [levels + place for place in both.heads.keys]
    graph = _quantized(ChannelsLast(both, keys, takes_planes=True), frames, kept_from=kept_from)
    encoder = RuntimeEncoder(graph, heads)
    made = {f"{name}.joined": encoder.made_heads for name, each in joined.items() if each is heads}
    return {"encoder": encoder, **made}


def _joined_heads(fast: LMANet) -> dict[str, JoinedHeads]:
    """The heads of the query and of the memory by name; in most structures both are one convolution of the features."""
    found = {}
    for name in ("query_head", "memory_head"):
        head = fast.get_submodule(name)
        assert isinstance(head, SharedHead)
        assert isinstance(head.joined, JoinedHeads)
        found[name] = head.joined
    return found


class AtSize(nn.Module):
    """A decoder with logits of a fixed size; levels are arguments of their own."""

    def __init__(self, decoder: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.decoder, self.size = decoder, size

    def forward(self, *levels: Tensor) -> Tensor:
        return self.decoder(levels if len(levels) > 1 else levels[0], self.size)


class _Calibration:
    """Calibration data reader of ONNX Runtime's quantization."""

    def __init__(self, inputs: Sequence[dict[str, np.ndarray]]):
        self._feeds = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _inputs_of_parts(fast: LMANet, frames: Sequence[Tensor]) -> dict[str, list[Inputs]]:
    """Inputs of each part but encoder and joint heads, by its name: over a video with a memory, and of the decoder for
    each frame alone too."""
    names = ["decoder"]
    if not fast.config.baseline:
        joined = _joined_heads(fast)
        names += ["memory_decoder"] if fast.config.structure == "mem_only" else []
        has_own = joined["memory_head"] is not joined["query_head"] and not joined["memory_head"].in_bfloat16
        names += ["memory_head.joined"] if has_own else []
    seen: dict[str, list[Inputs]] = {name: [] for name in names}

    def keep(name: str, part: nn.Module, arguments: tuple[object, ...]) -> None:
        given = [x for each in arguments for x in (each if isinstance(each, tuple) else (each,))]
        seen[name].append(tuple(x.contiguous().clone() for x in given if isinstance(x, Tensor)))

    hooks = [fast.get_submodule(name).register_forward_pre_hook(partial(keep, name)) for name in names]
    memory = None
    try:
        for frame in frames if len(frames) > 1 else [*frames, *frames]:  # a memory is read by the second
            _, memory = fast.step(frame, memory)
            if not fast.config.baseline:
                fast.step(frame, None)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: inputs for name, inputs in seen.items() if inputs}


def _quantized(part: ChannelsLast, inputs: Sequence[Inputs], kept_from: int | None = None) -> bytes:
    """The quantized ONNX graph of a part; first layers with inputs of more than ``kept_from`` rows stay float32."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from models.inference.equalize import equalize
    from models.inference.onnx_layout import enter_channels_last, split_transposed_convolutions

    example = part.inputs(inputs[0])
    content = exported(part, tuple(example.values()), tuple(example), tuple(part.output_names(inputs[0])))
    feeds = [{name: x.numpy() for name, x in part.inputs(each).items()} for each in inputs]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.onnx"
        whole = Path(folder) / "whole.onnx"
        whole.write_bytes(content)  # of a graph in memory its constants would be kept apart, where shapes are unseen
        quant_pre_process(whole, file, skip_symbolic_shape=True)
        graph = onnx.load(file)
        split_transposed_convolutions(graph)
        equalize(graph, feeds[:: max(1, len(feeds) // EQUALIZED_BY)])
        fine = [] if kept_from is None else _fine_nodes(graph, kept_from)
        enter_channels_last(
            graph, {name for node in graph.graph.node if node.name in fine for name in node.output}, fine
        )
        quantize_static(
            graph,
            file,
            _Calibration(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTIZED),
            per_channel=True,
            reduce_range=_saturates(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=fine,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return file.read_bytes()


def _fine_nodes(model: "onnx.ModelProto", rows: int) -> list[str]:
    """Names of the first nodes: convolutions of more than ``rows`` input rows, and nodes that read them alone."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    height = {value.name: _height(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    fine, names = {value.name for value in graph.input}, []
    stored = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        read = [name for name in node.input if name not in stored]
        if all(name in fine for name in read) and (node.op_type != "Conv" or height[read[0]] > rows):
            fine.update(node.output)
            names.append(node.name)
    return names


def _height(value: "onnx.ValueInfoProto") -> int:
    sides = value.type.tensor_type.shape.dim
    return sides[2].dim_value if len(sides) == 4 else 0


def _saturates() -> bool:
    """Whether sums of two 8-bit products saturate 16 bits here: on x86 without VNNI, where weights get 7 bits."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return platform.machine().lower() in ("x86_64", "amd64") and not (found.get("avx512_vnni") or found.get("avx_vnni"))
