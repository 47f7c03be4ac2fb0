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
from collections.abc import Iterator, Sequence
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
QUANTIZED = ["Conv", "Relu", "Add", "MaxPool", "Concat"]
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
    encoder = _quantized(fast.encoder, [frame.numpy() for frame in frames], kept_from=height // FINE)
    decoder = _quantized(_AtSize(fast.decoder, (height, width)), features)
    fast.encoder, fast.decoder = RuntimePart(encoder), RuntimePart(decoder)
    log.info("encoder and decoder in int8, from %d frames, in %.1f s", len(frames), time.perf_counter() - start)


class RuntimePart(nn.Module):
    """An ONNX graph of one input and one output as a module; both have fixed shapes."""

    def __init__(self, content: bytes):
        super().__init__()
        self.session = runtime_session(content)
        self.input, self.output = self.session.get_inputs()[0], self.session.get_outputs()[0]

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        x = x.contiguous()
        if list(x.shape) != self.input.shape:
            raise ValueError(f"input has shape {tuple(x.shape)}: expected {tuple(self.input.shape)}, as calibrated")
        output = torch.empty(self.output.shape)
        binding = self.session.io_binding()  # neither side is copied
        binding.bind_input(self.input.name, "cpu", 0, np.float32, self.input.shape, x.data_ptr())
        binding.bind_output(self.output.name, "cpu", 0, np.float32, self.output.shape, output.data_ptr())
        self.session.run_with_iobinding(binding)
        return output


class _AtSize(nn.Module):
    """A decoder with logits of a fixed size."""

    def __init__(self, decoder: nn.Module, size: tuple[int, int]):
        super().__init__()
        self.decoder, self.size = decoder, size

    def forward(self, features: Tensor) -> Tensor:
        return self.decoder(features, self.size)


class _Calibration:
    """Calibration data reader of ONNX Runtime's quantization."""

    def __init__(self, name: str, inputs: Sequence[np.ndarray]):
        self._feeds: Iterator[dict[str, np.ndarray]] = ({name: each} for each in inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def _decoder_inputs(fast: LMANet, frames: Sequence[Tensor]) -> list[np.ndarray]:
    """Inputs of the decoder for each frame: the encoder's features alone, and fused with the memory's read."""
    seen: list[np.ndarray] = []

    def keep(decoder: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(arguments[0].contiguous().numpy().copy())

    hook, memory = fast.decoder.register_forward_pre_hook(keep), None
    try:
        for frame in frames:
            _, memory = fast.step(frame, memory)
            if not fast.config.baseline:
                fast.step(frame, None)
    finally:
        hook.remove()
    return seen


def _quantized(part: nn.Module, inputs: Sequence[np.ndarray], kept_from: int | None = None) -> bytes:
    """The quantized ONNX graph of a part; first layers with inputs of more than ``kept_from`` rows stay float32."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from models.inference.equalize import equalize

    content = exported(part, (torch.from_numpy(inputs[0]),), ("x",), ("y",))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "part.onnx"
        quant_pre_process(onnx.load_from_string(content), file, skip_symbolic_shape=True)
        graph = onnx.load(file)
        equalize(graph, inputs[:: max(1, len(inputs) // EQUALIZED_BY)])
        quantize_static(
            graph,
            file,
            _Calibration("x", inputs),
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
    height = {value.name: _height(value) for value in (*graph.input, *graph.value_info)}
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
