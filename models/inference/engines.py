"""The parts of a network between reads of its memory, computed by ONNX Runtime or OpenVINO, for the CPU.

Encoder, heads, fusion and decoder become graphs for frames of one size, through ONNX; the attention stays this
project's own operator. Which engine is the fastest depends on the network and the processor: see docs/speed.md.
"""

import importlib.util
import logging
import time
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from models.choices import TORCH
from models.inference.int8 import AtSize
from models.inference.onnx import NEEDED, exported
from models.inference.openvino import openvino_module
from models.inference.runtime_part import RuntimePart
from models.lmanet import LMANet
from utils.errors import OptionError

log = logging.getLogger(__name__)

PARTS = ("encoder", "query_head.joined.conv", "memory_head.joined.conv", "fusion", "memory_decoder", "decoder")
PRECISIONS = {None: "f32", torch.bfloat16: "bf16"}  # OpenVINO's names


def check_engine(engine: str, amp: torch.dtype | None, others: dict[str, bool]) -> None:
    """Raises ``OptionError`` for an engine that does not go with a precision, or with one of ``others`` that is on."""
    if engine == TORCH:
        return
    for other, is_on in others.items():
        if is_on:
            raise OptionError(f"engine {engine} is for the CPU and does not go with {other}: leave one of them out")
    if amp is not None and (engine != "openvino" or amp not in PRECISIONS):
        raise OptionError(
            f"engine {engine} does not compute in {str(amp).removeprefix('torch.')}: leave amp out, or take bfloat16 "
            "with engine openvino"
        )


@torch.inference_mode()
def use_engine(fast: LMANet, engine: str, size: tuple[int, int], amp: torch.dtype | None = None) -> None:
    """Replaces the parts of a ``fast_copy`` by graphs of ``engine``, in place; it then takes frames of ``size`` only.

    They run in as many threads as PyTorch has now, in float32 or what ``amp`` says. Raises ``OptionError`` where a
    package is not installed, and for a part that has no such graph.
    """
    start = time.perf_counter()
    if engine == "openvino":
        openvino_module("engine openvino")
    else:
        missing = [name for name in (*NEEDED, "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise OptionError(f"engine {engine} needs {' and '.join(missing)}: pip install {' '.join(missing)}")
    for name, inputs in _inputs_of_parts(fast, size).items():
        part = fast.get_submodule(name)
        part = AtSize(part, size) if name.endswith("decoder") else part
        try:
            content = exported(part, inputs, tuple(f"x{number}" for number in range(len(inputs))))
            made = RuntimePart(content) if engine == "onnxruntime" else OpenVinoPart(content, PRECISIONS[amp])
        except OptionError:
            raise
        except Exception as error:  # exporters and engines raise all kinds of errors for what they do not know
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise OptionError(
                f"engine {engine}: the {name.partition('.')[0]} of {fast.config.backbone} has no graph for frames of "
                f"{size[0]} x {size[1]} ({reason}): take engine {TORCH}"
            ) from error
        fast.set_submodule(name, _OfTensors(made) if name == "fusion" else made)
    log.info("the network is computed by %s, made in %.1f s", engine, time.perf_counter() - start)


def _inputs_of_parts(fast: LMANet, size: tuple[int, int]) -> dict[str, tuple[Tensor, ...]]:
    """The inputs of the parts that a stream calls, by name, in two of its frames: the second reads the memory."""
    parts, seen = dict(fast.named_modules()), dict[str, tuple[Tensor, ...]]()

    def keep(name: str, part: nn.Module, arguments: tuple[object, ...]) -> None:
        given = [x for each in arguments for x in (each if isinstance(each, tuple) else (each,))]
        seen[name] = tuple(x.contiguous().clone() for x in given if isinstance(x, Tensor))

    hooks = [parts[name].register_forward_pre_hook(partial(keep, name)) for name in PARTS if name in parts]
    memory = None
    try:
        for _ in range(2):
            _, memory = fast.step(torch.zeros(1, 3, *size), memory)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


class OpenVinoPart(nn.Module):
    """An ONNX graph as a module, run by OpenVINO; tensors have fixed shapes, several inputs or outputs are a tuple."""

    def __init__(self, content: bytes, precision: str):
        super().__init__()
        openvino = openvino_module("engine openvino")
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": precision,
        }
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(content), "CPU", settings)
        self.wrapped, self.request = openvino.Tensor, compiled.create_infer_request()
        self.inputs, self.outputs = ([tuple(x.shape) for x in side] for side in (compiled.inputs, compiled.outputs))

    def forward(self, x: Tensor | tuple[Tensor, ...], size: tuple[int, int] | None = None) -> Tensor | tuple:
        given = [each.contiguous() for each in (x if isinstance(x, tuple) else (x,))]
        found = [tuple(each.shape) for each in given]
        if found != self.inputs:
            raise ValueError(
                f"input has shape {_text(found)}: expected {_text(self.inputs)}, as the graph was made for"
            )
        results = [np.empty(shape, np.float32) for shape in self.outputs]
        for number, tensor in enumerate(given):  # neither side is copied
            self.request.set_input_tensor(number, self.wrapped(tensor.numpy(), shared_memory=True))
        for number, result in enumerate(results):
            self.request.set_output_tensor(number, self.wrapped(result, shared_memory=True))
        self.request.infer()
        tensors = tuple(map(torch.from_numpy, results))
        return tensors if len(tensors) > 1 else tensors[0]


def _text(shapes: list[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))


class _OfTensors(nn.Module):
    """A part whose inputs are arguments of their own."""

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part = part

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.part(inputs)
