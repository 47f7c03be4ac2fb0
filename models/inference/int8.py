"""Encoder and decoder in 8-bit integers, run by ONNX Runtime, for the CPU.

Static quantization: scales follow from calibration frames. Activations are unsigned and weights signed, with a scale
per channel: the fastest combination on processors with VNNI. Heads, attention and fusion stay float32, and so do the
encoder's first layers: little work, but most of the loss of accuracy.
"""

import importlib.util
import logging
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from models.inference.onnx import NEEDED, exported, runtime_session
from models.lmanet import LMANet
from utils.errors import OptionError

if TYPE_CHECKING:
    import onnx

log = logging.getLogger(__name__)

PACKAGES = (*NEEDED, "onnxruntime")
QUANTIZED = ["Conv", "Relu", "Add", "MaxPool", "Concat", "Mul", "GlobalAveragePool", "ReduceMean"]
FINE = 4  # convolutions whose input has more than 1/4 of the frame's height stay float32 in the encoder
EQUALIZED_BY = 4  # inputs are enough for equalization


@torch.inference_mode()
def quantize(fast: LMANet, frames: Sequence[Tensor]) -> None:
    """Replaces encoder and decoder of a ``fast_copy`` by 8-bit ones, in place.

    ``frames``, each ``1 3 H W`` and normalized, are the calibration set, taken as a video with a memory; afterwards the
    network takes frames of that size only. Raises ``OptionError`` without frames or without ONNX Runtime.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f"int8 is computed by {' and '.join(PACKAGES)}: pip install {' '.join(missing)}")
    if not frames:
        raise OptionError("int8 has no frames to be calibrated on: expected one or more, for example 16")
    start, (height, width) = time.perf_counter(), frames[0].shape[-2:]
    features = _decoder_inputs(fast, frames)
    encoder = _quantized(fast.encoder, [(frame.numpy(),) for frame in frames], kept_from=height // FINE)
    decoder = _quantized(AtSize(fast.decoder, (height, width)), features)
    fast.encoder, fast.decoder = RuntimePart(encoder), RuntimePart(decoder)
    log.info("encoder and decoder in int8, from %d frames, in %.1f s", len(frames), time.perf_counter() - start)


class RuntimePart(nn.Module):
    """An ONNX graph as a module; tensors have fixed shapes, several inputs or outputs are a tuple."""

    def __init__(self, content: bytes):
        super().__init__()
        self.session = runtime_session(content)
        self.inputs, self.outputs = self.session.get_inputs(), self.session.get_outputs()

    def forward(self, x: Tensor | tuple[Tensor, ...], size: tuple[int, int] | None = None) -> Tensor | tuple:
        given = [each.contiguous() for each in (x if isinstance(x, tuple) else (x,))]
        found, expected = [list(each.shape) for each in given], [each.shape for each in self.inputs]
        if found != expected:
            shapes = [", ".join(str(tuple(shape)) for shape in each) for each in (found, expected)]
            raise ValueError(f"input has shape {shapes[0]}: expected {shapes[1]}, as calibrated")
        results = tuple(torch.empty(output.shape) for output in self.outputs)
        binding = self.session.io_binding()  # neither side is copied
        for tensor, to in zip(given, self.inputs, strict=True):
            binding.bind_input(to.name, "cpu", 0, np.float32, to.shape, tensor.data_ptr())
        for tensor, of in zip(results, self.outputs, strict=True):
            binding.bind_output(of.name, "cpu", 0, np.float32, of.shape, tensor.data_ptr())
        self.session.run_with_iobinding(binding)
        return results if len(results) > 1 else results[0]


class AtSize(nn.Module):
    """A decoder with logits of a fixed size; levels are arguments of their own."""

    def __init__(self, decoder: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.decoder, self.size = decoder, size

    def forward(self, *levels: Tensor) -> Tensor:
        return self.decoder(levels if len(levels) > 1 else levels[0], self.size)


Inputs = tuple[np.ndarray, ...]  # of a part, for one frame


class _Calibration:
    """Calibration data reader of ONNX Runtime's quantization."""

    def __init__(self, inputs: Sequence[dict[str, np.ndarray]]):
        self._feeds = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _decoder_inputs(fast: LMANet, frames: Sequence[Tensor]) -> list[Inputs]:
    """Inputs of the decoder for each frame: the encoder's features alone, and fused with the memory's read."""
    seen: list[Inputs] = []

    def keep(decoder: nn.Module, arguments: tuple[Tensor | tuple[Tensor, ...], ...]) -> None:
        levels = arguments[0] if isinstance(arguments[0], tuple) else (arguments[0],)
        seen.append(tuple(level.contiguous().numpy().copy() for level in levels))

    hook, memory = fast.decoder.register_forward_pre_hook(keep), None
    try:
        for frame in frames:
            _, memory = fast.step(frame, memory)
            if not fast.config.baseline:
                fast.step(frame, None)
    finally:
        hook.remove()
    return seen


def _quantized(part: nn.Module, inputs: Sequence[Inputs], kept_from: int | None = None) -> bytes:
    """The quantized ONNX graph of a part; first layers with inputs of more than ``kept_from`` rows stay float32."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from models.inference.equalize import equalize

    names = tuple(f"x{number}" for number in range(len(inputs[0])))
    content = exported(part, tuple(torch.from_numpy(each) for each in inputs[0]), names)
    feeds = [dict(zip(names, each, strict=True)) for each in inputs]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.onnx"
        whole = Path(folder) / "whole.onnx"
        whole.write_bytes(content)  # of a graph in memory its constants would be kept apart, where shapes are unseen
        quant_pre_process(whole, file, skip_symbolic_shape=True)
        graph = onnx.load(file)
        equalize(graph, feeds[:: max(1, len(feeds) // EQUALIZED_BY)])
        quantize_static(
            graph,
            file,
            _Calibration(feeds),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            reduce_range=_saturates(),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[] if kept_from is None else _fine_nodes(graph, kept_from),
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
