"""The two halves of a network that was cut: its own code runs in both, its parts in one of them.

The encoder is the network up to the cut. The decoder is the network once more, where the parts before the cut return
what the encoder has handed over.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from torch import Tensor, fx, nn
from torch.nn import functional as F

from models.cut.structure import Placeholder, copy_of, logits_of, replaced, tensors_of
from models.enlarging import EnlargingDecoder
from models.norms import BackboneNorm

# What no layer computes: in float16 too it is far below every logit, and a softmax gives it nothing.
NEVER = -1e4
PLAIN_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)  # not what others made of them
NAME = "network."  # before the network's own names of tensors, in both halves


@dataclass(frozen=True)
class Handed(Placeholder):
    """In place of a tensor: the one of this number among those that the encoder hands over."""

    number: int


class FrameHere(Placeholder):
    """In place of the frame, among the arguments of a call."""


@dataclass(frozen=True)
class Gap(Placeholder):
    """In place of a tensor that the decoder looks at, but does not use: zeros of its shape."""

    channels: int
    stride: int

    def zeros(self, frame: Tensor) -> Tensor:
        height, width = (-(-side // self.stride) for side in frame.shape[-2:])
        return frame.new_zeros(()).expand(frame.shape[0], self.channels, height, width)


@dataclass(frozen=True)
class Number(Placeholder):
    """In place of a whole number that follows from the frame: its height and width at strides, 0 for neither of them,
    and the batch size, multiplied."""

    height_stride: int
    width_stride: int
    by_batch: bool

    def of(self, frame: Tensor) -> int:
        """The number for frames ``B 3 H W``, with sides rounded up."""
        number = frame.shape[0] if self.by_batch else 1
        for side, stride in zip(frame.shape[-2:], (self.height_stride, self.width_stride), strict=True):
            number *= -(-side // stride) if stride else 1
        return number


@dataclass(frozen=True)
class Plan:
    """Where a network is cut, and what crosses the cut.

    ``sources`` are the modules before the cut with their outputs, tensors replaced by ``Handed`` or ``Gap``; the last
    one is the module of the cut. ``takes`` are for each tensor that is handed over its source and its place in the
    source's output; the features come first. With ``frame`` the frame itself is the last of them. ``call`` are the
    arguments of the cut module where it is called with the frame itself, and nothing comes before it. ``own`` are names
    of tensors that lie directly in a module around the cut, and are used before it. ``written`` are numbers of levels
    that the decoder changes in place, ``folds`` pairs of a convolution and its batch norm in encoder and decoder,
    ``unused`` names of parameters that no logit depends on, ``enlarging`` the module at the end that enlarges logits,
    ``held`` are names of modules that stay in evaluation mode in training, as they return something else there.
    """

    cut: str
    sources: Mapping[str, object]
    takes: tuple[tuple[str, int], ...] = ()
    frame: bool = False
    call: tuple[tuple[object, ...], Mapping[str, object]] | None = None
    own: frozenset[str] = frozenset()
    written: frozenset[int] = frozenset()
    folds: tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]] = ((), ())
    unused: frozenset[str] = frozenset()
    enlarging: str | None = None
    held: frozenset[str] = frozenset()


_now = threading.local()  # clips of a step run in threads


class Encoder(nn.Module):
    """B 3 H W -> the features B F h w, or a tuple of these and further levels, each of its own size."""

    def __init__(self, network: nn.Module, plan: Plan):
        super().__init__()
        self.plan, self.convolutions_with_norms = plan, plan.folds[0]
        self.network = _carved(network, "", plan, before=True)
        _prepare(self, plan)

    def train(self, mode: bool = True) -> Encoder:
        super().train(mode)
        _hold(self)
        return self

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        plan = self.plan
        if plan.call is not None:
            arguments, named = replaced(plan.call, lambda leaf: _of_frame(leaf, x))
            outputs = {plan.cut: self.network.get_submodule(plan.cut)(*arguments, **named)}
        else:
            outputs = _now.outputs = {}
            with suppress(_Reached):
                self.network(x)
        found = {name: list(tensors_of(output)) for name, output in outputs.items()}
        levels = [found[source][place] for source, place in plan.takes]
        if plan.frame:
            levels.append(x)
        return tuple(levels) if len(levels) > 1 else levels[0]


class Decoder(EnlargingDecoder):
    """What the encoder returns, and the size (H, W) -> logits B K H W; ``added`` logits no layer computes."""

    def __init__(self, network: nn.Module, plan: Plan, added: int = 0):
        super().__init__()
        self.plan, self.added, self.convolutions_with_norms = plan, added, plan.folds[1]
        self.network = _carved(network, "", plan, before=False)
        self._left_out: nn.Upsample | None = None
        _prepare(self, plan)

    def stop_enlarging(self) -> None:
        super().stop_enlarging()
        if self.plan.enlarging is not None and self._left_out is None:
            last = self.network.get_submodule(self.plan.enlarging)
            assert isinstance(last, nn.Upsample)
            self._left_out, self.align_corners = last, bool(last.align_corners)
            self.network.set_submodule(self.plan.enlarging, nn.Identity())

    def train(self, mode: bool = True) -> Decoder:
        super().train(mode)
        _hold(self)
        return self

    def forward(self, features: Tensor | tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        plan, levels = self.plan, list(features) if isinstance(features, tuple) else [features]
        for number in plan.written:  # by an operation in place; the memory still needs them
            levels[number] = levels[number].clone()
        first = levels[0]
        frame = levels[-1] if plan.frame else first.new_zeros(()).expand(first.shape[0], 3, *size)

        def filled(leaf: object) -> object:
            return levels[leaf.number] if isinstance(leaf, Handed) else _of_frame(leaf, frame)

        _now.outputs = {name: replaced(output, filled) for name, output in plan.sources.items()}
        logits = self.enlarged(logits_of(self.network(frame)), size)
        if self._left_out is not None and not _reaches(logits, self._left_out, size):  # is enlarged once more
            logits = F.interpolate(self._left_out(logits), size, mode="bilinear", align_corners=False)
        return F.pad(logits, (0, 0, 0, 0, 0, self.added), value=NEVER) if self.added else logits


def _of_frame(leaf: object, frame: Tensor) -> object:
    """What stands for a leaf of a module's arguments or outputs that follows from the frame."""
    if isinstance(leaf, FrameHere):
        return frame
    if isinstance(leaf, Number):
        return leaf.of(frame)
    return leaf.zeros(frame) if isinstance(leaf, Gap) else leaf


def _reaches(logits: Tensor, enlarging: nn.Upsample, size: tuple[int, int]) -> bool:
    """Whether a module enlarges logits ``B K h w`` to the size (H, W)."""
    scale = enlarging.scale_factor
    assert isinstance(scale, float | int)
    return all(int(here * scale) == there for here, there in zip(logits.shape[-2:], size, strict=True))


class _Reached(Exception):
    """The cut is reached: nothing that comes behind it is computed."""


class _Part:
    """A module of a half: it is copied as it is, where its kind would make it anew of parts that are not here."""

    def __deepcopy__(self, memo: dict[int, object]) -> object:
        new = memo[id(self)] = object.__new__(type(self))
        new.__dict__.update(copy.deepcopy(vars(self), memo))
        return new


class _Returns(_Part):
    """A module before the cut, in the decoder: it returns what was handed over, whatever it is called with."""

    cut_name: str
    training: bool

    def forward(self, *arguments: object, **named: object) -> object:
        return _now.outputs[self.cut_name]

    def train(self, mode: bool = True) -> _Returns:  # some modules choose among their parts, which are not here
        self.training = mode
        return self


class _Notes(_Part, nn.Module):
    """A module before the cut, in the encoder: what it returns is noted, and the cut ends the run.

    Around the call and not by a hook in it: exporters, which follow the calls of modules, must see each of them end.
    """

    cut_name: str
    cut_here: bool

    def __call__(self, *arguments: object, **named: object) -> object:
        _now.outputs[self.cut_name] = output = super().__call__(*arguments, **named)
        if self.cut_here:
            raise _Reached
        return output

    def train(self, mode: bool = True) -> _Notes:
        if isinstance(self, fx.GraphModule):  # of torchvision, it would compile another graph in place of ``__call__``
            return nn.Module.train(self, mode)
        super().train(mode)
        return self


class _Around(_Part, nn.Module):
    """A module around the cut, in the encoder: its call, which does not end, is followed by nobody."""

    def __call__(self, *arguments: object, **named: object) -> object:
        return self.forward(*arguments, **named)


def _like(kind: type, first: type) -> type:
    """A class of modules that are like those of a kind, but for what ``first`` does.

    It has the name of the kind, by which transformers looks up what it records of a module.
    """
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    return type(kind.__name__, (first, kind), named)


def _carved(module: nn.Module, name: str, plan: Plan, before: bool) -> nn.Module:
    """A copy of a part of the network, by its name, without the tensors of the other half."""
    if name in plan.sources:
        if not before:
            new = _stripped(module)
            new.__class__ = _like(type(module), _Returns)
            new.cut_name = name  # type: ignore[assignment]  # for nn.Module, whose attributes are tensors and modules
            return new
        new = copy_of(module)
        if plan.call is None:
            new.__class__ = _like(type(module), _Notes)
            new.cut_name, new.cut_here = name, name == plan.cut  # type: ignore[assignment]  # as above
        return new
    around = name == "" or any(source.startswith(f"{name}.") for source in plan.sources)
    if not around:
        is_stateless = next(iter(module.state_dict()), None) is None
        return copy_of(module) if is_stateless or not before else _stripped(module)
    new = _stripped(module)
    if before and plan.call is None:
        new.__class__ = _like(type(module), _Around)
    dot = f"{name}." if name else ""
    for child, part in module._modules.items():
        if before and plan.call is not None and not f"{plan.cut}.".startswith(f"{dot}{child}."):
            continue  # the module of the cut is called by itself
        new._modules[child] = None if part is None else _carved(part, dot + child, plan, before)
    for kind in ("_parameters", "_buffers"):
        own = getattr(new, kind)
        for each, tensor in getattr(module, kind).items():
            if tensor is None or (dot + each in plan.own) == before:
                own[each] = copy.deepcopy(tensor)
            else:  # of the other half: there for code that looks at it, in no file
                del own[each]
                new._buffers[each] = tensor.detach().clone()
                new._non_persistent_buffers_set.add(each)
    return new


def _stripped(module: nn.Module) -> nn.Module:
    """A shallow copy without parts, whose tensors are ``None``: attributes and methods are there."""
    new: nn.Module = object.__new__(type(module))
    new.__dict__.update(vars(module))  # and not by copy, as traced modules are made anew of their parts
    new._parameters, new._buffers = dict.fromkeys(module._parameters), dict.fromkeys(module._buffers)
    new._modules = {}
    new._non_persistent_buffers_set = set(module._non_persistent_buffers_set)
    if isinstance(new, nn.modules.batchnorm._BatchNorm):
        new.track_running_stats = False  # when weights are loaded it would ask for its counter of batches
    if hasattr(type(module), "__deepcopy__"):
        new.__class__ = _like(type(module), _Part)
    return new


def _hold(half: Encoder | Decoder) -> None:
    for name, module in half.network.named_modules():
        if name in half.plan.held:
            module.training = False


def _prepare(half: nn.Module, plan: Plan) -> None:
    """Makes a half trainable at batch size 1, and freezes what no logit depends on."""
    for parent in list(half.modules()):
        for name, child in parent.named_children():
            if not isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm) or type(child) not in PLAIN_NORMS:
                continue
            if child.affine and child.track_running_stats:
                norm = BackboneNorm(child.num_features, eps=child.eps)
                norm.momentum, norm.training = child.momentum, child.training
                norm._parameters, norm._buffers = child._parameters, child._buffers
                setattr(parent, name, norm)
    for own, parameter in half.named_parameters():
        if own.removeprefix(NAME) in plan.unused:
            parameter.requires_grad_(False)
