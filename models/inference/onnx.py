"""ONNX files: one step of a stream, with the memory as inputs and outputs, or the single-frame network.

One graph serves all frames, the first too, so a memory in ONNX always has T frames, and ``filled`` says how many of
them, the last ones, are there. Start with zeros and ``filled`` 0, and feed each call what the last one returned.
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.inference.fast_copy import fast_copy
from models.lmanet import LMANet
from models.memory import PaddedMemory, PushPadded
from models.memory_read import PaddedRead
from models.weights.export import options_of
from utils.errors import OptionError

if TYPE_CHECKING:
    import onnxruntime

NEEDED = ("onnx", "onnxscript")
EXPORTABLE_STRUCTURES = ("original", "aux_mem_loss")
STREAM_INPUTS = ("frame", "keys", "values", "filled")
STREAM_OUTPUTS = ("logits", "new_keys", "new_values", "new_filled")


class StreamingStep(nn.Module):
    """``LMANet.step`` on tensors of fixed shapes: frame ``1 3 H W``, keys ``1 C T h w``, values ``1 D T h w``, filled
    (int64, no dimension) -> logits ``1 K H W`` and the same three for the next frame."""

    def __init__(self, model: LMANet):
        super().__init__()
        self.model = fast_copy(model)
        self.model.read, self.model.push = PaddedRead(model.config), PushPadded()

    def forward(self, frame: Tensor, keys: Tensor, values: Tensor, filled: Tensor) -> tuple[Tensor, ...]:
        logits, memory = self.model.step(frame, PaddedMemory(keys, values, filled))
        assert isinstance(memory, PaddedMemory)
        return logits, *memory


class SingleFrame(nn.Module):
    """Encoder and decoder: frame ``1 3 H W`` -> logits ``1 K H W``."""

    def __init__(self, model: LMANet):
        super().__init__()
        self.model = fast_copy(model)

    def forward(self, frame: Tensor) -> Tensor:
        return self.model.single_frame(frame)


def export_step(model: LMANet, size: tuple[int, int], option: str = "--export-onnx") -> bytes:
    """An ONNX file of one streaming step for frames of that size, or of the single frame in baseline mode.

    ``option`` is what asks for it, for messages.

    Raises ``OptionError`` for a network that has no such form, and where onnx or onnxscript is not installed,
    ``ValueError`` for a size that the backbone does not take.
    """
    config = model.config
    model.check_sides(size)
    if config.baseline:
        return export_single_frame(model, size)
    if config.structure not in EXPORTABLE_STRUCTURES or not config.local:
        found = "--no-local-correlation" if not config.local else f"--model-struct {config.structure}"
        raise OptionError(f"{option} does not go with {found}: expected --model-struct original, local attention")
    example = (torch.zeros(1, 3, *size), *empty_memory(model, size))
    return exported(StreamingStep(model), example, STREAM_INPUTS, STREAM_OUTPUTS, metadata(model))


def export_single_frame(model: LMANet, size: tuple[int, int]) -> bytes:
    """An ONNX file of the network without its memory. Raises ``OptionError`` where a package is not installed."""
    example = (torch.zeros(1, 3, *size),)
    return exported(SingleFrame(model), example, STREAM_INPUTS[:1], STREAM_OUTPUTS[:1], metadata(model))


def metadata(model: LMANet) -> dict[str, str]:
    """The network's options and classes as JSON, by the names that weight files have for them; ``mean`` and ``std``
    normalize RGB in [0, 1] (``null``: not at all)."""
    traits = model.config.traits
    content = options_of(model).content() | {"mean": traits.mean, "std": traits.std}
    return {name: json.dumps(value) for name, value in content.items()}


def empty_memory(model: LMANet, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and ``filled`` to start a stream with."""
    config = model.config
    height, width = config.traits.feature_size(size)
    keys = torch.zeros(1, config.traits.key_channels, config.memory_size, height, width)
    values = torch.zeros(1, config.value_channels, config.memory_size, height, width)
    return keys, values, torch.zeros((), dtype=torch.int64)


def runtime_session(content: bytes) -> "onnxruntime.InferenceSession":
    """An ONNX file in ONNX Runtime, on the CPU, with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would take time from the others
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def exported(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """An ONNX file of any module; ``metadata`` are properties of the file that every ONNX runtime can read.

    Raises ``OptionError`` where a package is not installed.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f"ONNX files are written by {' and '.join(missing)}: pip install {' '.join(missing)}")
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [each.level for each in logs]
    for each in logs:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module.eval(), example, input_names=inputs, output_names=outputs, dynamo=True, verbose=False
            )
    finally:
        for each, level in zip(logs, levels, strict=True):
            each.setLevel(level)
    assert program is not None  # it is None for the exporter without dynamo
    program.model.metadata_props.update(metadata or {})
    return program.model_proto.SerializeToString()
