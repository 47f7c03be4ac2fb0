"""Parts of a network that are ONNX graphs, run by ONNX Runtime, in the place of the modules that they were made of."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.inference.fast_copy import JoinedHeads
from models.inference.onnx import runtime_session

LAST = "_last"  # ends the names of inputs and outputs B h w C


class ChannelsLast(nn.Module):
    """A part whose inputs and outputs of four dimensions are ``B h w C``, as 8-bit convolutions take and return them.

    Those outputs whose places are in ``planes`` stay ``B C h w``, and with ``takes_planes`` the inputs too. Names of
    the others end with ``LAST``, by which a ``RuntimePart`` knows them.
    """

    def __init__(self, part: nn.Module, planes: Collection[int] = (), takes_planes: bool = False):
        super().__init__()
        self.part, self.planes, self.takes_planes = part, planes, takes_planes

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = self.part(*(x if self.takes_planes else _to_first(x) for x in inputs))
        return tuple(x if place in self.planes else _to_last(x) for place, x in enumerate(_all_of(found)))

    def inputs(self, given: Sequence[Tensor]) -> dict[str, Tensor]:
        """Inputs ``B C h w`` of the part as this takes them, by name."""
        if self.takes_planes:
            return {f"x{place}": x for place, x in enumerate(given)}
        return {f"x{place}{LAST if x.dim() == 4 else ''}": _to_last(x).contiguous() for place, x in enumerate(given)}

    def output_names(self, given: Sequence[Tensor]) -> list[str]:
        """Names of the outputs, for inputs ``B C h w``."""
        found = _all_of(self.part(*given))
        is_last = [x.dim() == 4 and place not in self.planes for place, x in enumerate(found)]
        return [f"y{place}{LAST if last else ''}" for place, last in enumerate(is_last)]


def _all_of(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _to_last(x: Tensor) -> Tensor:  # B C h w -> B h w C
    return x.permute(0, 2, 3, 1) if x.dim() == 4 else x


def _to_first(x: Tensor) -> Tensor:  # B h w C -> B C h w
    return x.permute(0, 3, 1, 2) if x.dim() == 4 else x


class RuntimePart(nn.Module):
    """An ONNX graph as a module of tensors ``B C h w``, whatever their order in the graph; shapes are fixed.

    Several outputs are a tuple. Levels of a decoder may be one argument; a size that follows them is that of the graph.
    """

    def __init__(self, content: bytes):
        super().__init__()
        self.session = runtime_session(content)
        self.inputs, self.outputs = self.session.get_inputs(), self.session.get_outputs()

    def forward(self, x: Tensor | tuple[Tensor, ...], *others: Tensor | tuple[int, int]) -> Tensor | tuple[Tensor, ...]:
        results = self.run(*(x if isinstance(x, tuple) else (x,)), *(y for y in others if isinstance(y, Tensor)))
        return results if len(results) > 1 else results[0]

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """All outputs of the graph."""
        expected = [_planes(to) for to in self.inputs]
        found = [list(each.shape) for each in inputs]
        if found != expected:
            shapes = [", ".join(str(tuple(shape)) for shape in each) for each in (found, expected)]
            raise ValueError(f"input has shape {shapes[0]}: expected {shapes[1]}, as calibrated")
        given = [(_to_last(x) if _is_last(to) else x).contiguous() for x, to in zip(inputs, self.inputs, strict=True)]
        results = tuple(torch.empty(output.shape) for output in self.outputs)
        binding = self.session.io_binding()  # neither side is copied
        for tensor, to in zip(given, self.inputs, strict=True):
            binding.bind_input(to.name, "cpu", 0, np.float32, to.shape, tensor.data_ptr())
        for tensor, of in zip(results, self.outputs, strict=True):
            binding.bind_output(of.name, "cpu", 0, np.float32, of.shape, tensor.data_ptr())
        self.session.run_with_iobinding(binding)
        return tuple(_to_first(x) if _is_last(of) else x for x, of in zip(results, self.outputs, strict=True))


def _is_last(value: object) -> bool:
    return value.name.endswith(LAST)  # type: ignore[attr-defined]  # a NodeArg of ONNX Runtime, which has no types


def _planes(value: object) -> list[int]:
    """The shape ``B C h w`` of an input."""
    shape: list[int] = value.shape  # type: ignore[attr-defined]
    return [shape[0], shape[3], shape[1], shape[2]] if _is_last(value) else shape


class SplitHeads(nn.Module):
    """Keys and values by convolutions of their own, so that each has its own 8-bit scale: B F h w -> key, value, key,
    value; ``keys`` are the keys' places."""

    def __init__(self, heads: JoinedHeads):
        super().__init__()
        self.convolutions = nn.ModuleList(heads.single_convolutions())
        self.keys = range(0, len(heads.sizes), 1 if heads.passes_features else 2)

    def forward(self, features: Tensor) -> tuple[Tensor, ...]:
        return tuple(conv(features) for conv in self.convolutions)


class EncoderWithHeads(nn.Module):
    """An encoder's levels, and behind them what ``SplitHeads`` make of its features."""

    def __init__(self, encoder: nn.Module, heads: JoinedHeads, features: int):
        super().__init__()
        self.encoder, self.heads, self.features = encoder, SplitHeads(heads), features

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        levels = _all_of(self.encoder(frame))
        return *levels, *self.heads(levels[0][:, : self.features])


@dataclass
class _Made:
    """What the heads in a ``RuntimeEncoder`` made last, and of which features."""

    features: Tensor | None = None
    outputs: tuple[Tensor, ...] = ()


class RuntimeEncoder(RuntimePart):
    """An ``EncoderWithHeads`` in place of an encoder; ``heads`` are its heads, in place of ``JoinedHeads``."""

    def __init__(self, content: bytes, heads: JoinedHeads):
        super().__init__(content)
        self.levels, self._made = len(self.outputs) - len(heads.sizes), _Made()
        self.made_heads = HeadsOfEncoder(heads, self._made)

    def run(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The encoder's levels; keys and values are kept for the heads."""
        results = super().run(*inputs)
        self._made.features, self._made.outputs = results[0], results[self.levels :]
        return results[: self.levels]


class HeadsOfEncoder(nn.Module):
    """Heads whose outputs the encoder has made already; of other features they are computed in float32."""

    def __init__(self, heads: JoinedHeads, made: _Made):
        super().__init__()
        self.heads, self._made = heads, made

    def forward(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:  # B F h w -> a key and a value for each head
        made = self._made
        if made.features is None or features.data_ptr() != made.features.data_ptr():
            return self.heads(features)
        return self.heads.pairs(made.outputs, features)


class RuntimeHeads(RuntimePart):
    """``JoinedHeads`` as a graph of single convolutions."""

    def __init__(self, content: bytes, heads: JoinedHeads):
        super().__init__(content)
        self.heads = heads

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor]]:  # type: ignore[override]  # in place of JoinedHeads
        return self.heads.pairs(self.run(x), x)
