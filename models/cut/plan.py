"""Finds by dry runs how a network is cut: what crosses the cut, the level for the memory, the sizes of frames."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.cut.halves import Decoder, Encoder, FrameHere, Gap, Handed, Plan
from models.cut.norm_pairs import convolutions_with_norms
from models.cut.structure import logits_of, replaced, tensors_of
from utils.errors import OptionError

SIDES = (64, 128, 224, 256, 384, 512, 640)  # of the frames of dry runs, the first that the network takes
MULTIPLES = (1, 2, 4, 8, 14, 16, 28, 32, 64, 128)
ONE_SIZE = 1 << 20  # side multiple of a network that takes no other side
MEMORY_STRIDES = (8, 16)
LIKELY_CUTS = ("encoder", "backbone", "body", "features", "trunk", "stem_and_stages")


class _NoLevelError(OptionError):
    """Nothing that crosses the cut is a map of features at a whole stride, or at the wanted one."""


@dataclass(frozen=True)
class Measured:
    """What dry runs found out about a cut network; ``classifier`` is the decoder's last layer with its logits."""

    features: int
    stride: int
    side_multiple: int
    side_offset: int
    num_logits: int
    classifier: str | None


@dataclass
class _Record:
    """A run of the whole network: its logits, calls of modules in order, and the outputs of modules before the cut."""

    logits: Tensor
    calls: list[tuple[str, str]]  # ("start" or "end", name)
    arguments: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)  # as they were returned
    copies: dict[str, list[Tensor]] = field(default_factory=dict)  # their tensors, before anything changed them


def plan_cut(
    network: nn.Module, cut: str | None = None, stride: int | None = None, sides: Sequence[int] = ()
) -> tuple[Plan, Measured]:
    """How ``network``, ``B 3 H W`` -> ``B K h w``, is cut behind the module named ``cut``.

    ``stride`` names the level for the memory (default: the deepest of stride 8 or 16). ``sides`` are tried first for
    the square frames of dry runs. Raises ``OptionError`` that says why where the network cannot be cut there.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = copy.deepcopy(network).eval().cpu()
        network.requires_grad_(True)
        cut = _checked_name(network, cut)
        # Of frames whose sides are no multiple of it, a stride such as 18 is not seen.
        multiple = () if stride is None else (8 * stride,)
        trial = _best_trial(network, cut, stride, _sides_taken(network, (*sides, SIDES[0], *multiple, *SIDES)))
        plan, encoder, decoder, side = trial.plan, trial.encoder, trial.decoder, trial.side
        frame = _frame(side, side)
        encoded = encoder(frame)
        folds = (
            convolutions_with_norms(encoder, lambda: encoder(frame)),
            convolutions_with_norms(decoder, lambda: decoder(encoded, (side, side))),
        )
        num_logits = decoder(encoded, (side, side)).shape[1]
        enlarging = _enlarging(decoder, encoded, side)
        measured = Measured(
            _first(encoded).shape[1],
            trial.stride,
            trial.multiple,
            side if trial.multiple == ONE_SIZE else side % trial.multiple,
            num_logits,
            _last_layer(decoder, encoded, side, num_logits),
        )
    return replace(plan, folds=folds, enlarging=enlarging), measured


@dataclass(frozen=True)
class _Trial:
    """A network cut by frames of one size, and the multiple by which its sides may grow."""

    plan: Plan
    encoder: Encoder
    decoder: Decoder
    side: int
    stride: int
    multiple: int


def _best_trial(network: nn.Module, cut: str, wanted: int | None, sides: Iterator[int]) -> _Trial:
    """The first trial whose sides may grow; else the first one, for a network of one size."""
    first, reason = None, None
    for side in sides:
        try:
            trial = _trial(network, cut, wanted, side)
        except _NoLevelError as error:  # which sides of patches of 14 have, where those of the frame are none of 14
            reason = reason or error
            continue
        if trial.multiple != ONE_SIZE:
            return trial
        first = first or trial
    if first is None:
        assert reason is not None
        raise reason
    return first


def _trial(network: nn.Module, cut: str, wanted: int | None, side: int) -> _Trial:
    plan = _plan_at(network, cut, wanted, side)
    encoder, decoder = Encoder(network, plan).eval(), Decoder(network, plan).eval()
    frame = _frame(side, side)
    stride = _stride_of(_first(encoder(frame)), frame)
    assert stride is not None
    return _Trial(plan, encoder, decoder, side, stride, _side_multiple(network, encoder, decoder, side, stride))


def _first(encoded: Tensor | tuple[Tensor, ...]) -> Tensor:
    return encoded[0] if isinstance(encoded, tuple) else encoded


def _checked_name(network: nn.Module, cut: str | None) -> str:
    names = [name for name, _ in network.named_modules() if name]
    if cut is None:
        prefix = getattr(network, "base_model_prefix", "")  # of transformers' models
        children = [name for name, _ in network.named_children()]
        for likely in (*LIKELY_CUTS, prefix):
            if likely in children:
                return likely
        raise OptionError(f"no cut is given, and no module is called encoder: expected one of {_some(children)}")
    if cut not in names:
        near = difflib.get_close_matches(cut, names, 3) or [name for name, _ in network.named_children()]
        raise OptionError(f"cut={cut!r} is no module of {type(network).__name__}: expected one such as {_some(near)}")
    return cut


def _some(names: Sequence[str], shown: int = 6) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def _frame(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, height, width)


def _sides_taken(network: nn.Module, sides: Sequence[int]) -> Iterator[int]:
    """Those of some sides for which the network runs on square frames, one or more."""
    first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
    if first is not None and first.in_channels in (1, 2, 4):
        channels = f"{first.in_channels} channel{'s' if first.in_channels > 1 else ''}"
        raise OptionError(
            f"{type(network).__name__} takes frames of {channels}, by its first convolution: expected 3, RGB"
        )
    reasons: dict[int, str] = {}
    candidates = dict.fromkeys(sides)
    for side in candidates:
        try:
            with torch.no_grad():
                logits_of(network(_frame(side, side)))
            yield side
        except OptionError:
            raise
        except Exception as error:  # whatever the network raises
            reasons[side] = f"{type(error).__name__}: {_line(error)}"
    if len(reasons) < len(candidates):
        return
    side, reason = next(iter(reasons.items()))
    raise OptionError(f"{type(network).__name__} does not run on frames, such as {side} x {side} x 3: {reason}")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"{text[:200]} ..."


@contextmanager
def _hooked(network: nn.Module, record: _Record, wanted: set[str], cut: str) -> Iterator[None]:
    """Notes the order of calls, and the outputs of modules that are ``wanted``."""
    hooks = []

    def start(name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        record.calls.append(("start", name))
        if name == cut:
            record.arguments = arguments, named

    def end(name: str, output: Any) -> None:
        record.calls.append(("end", name))
        if name in wanted:
            record.outputs[name] = output
            record.copies[name] = [tensor.detach().clone() for tensor in tensors_of(output)]

    for name, module in network.named_modules():
        pre = lambda _, arguments, named, name=name: start(name, arguments, named)  # noqa: E731
        post = lambda _, arguments, output, name=name: end(name, output)  # noqa: E731
        hooks += [module.register_forward_pre_hook(pre, with_kwargs=True), module.register_forward_hook(post)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _recorded(network: nn.Module, frame: Tensor, wanted: set[str], cut: str) -> _Record:
    record = _Record(torch.empty(0), [])
    with _hooked(network, record, wanted, cut):
        record.logits = logits_of(network(frame))
    return record


def _sources(network: nn.Module, record: _Record, cut: str) -> list[str]:
    """Modules with tensors that are called before the cut, the largest first called, and the cut; each is called once.

    Raises ``OptionError`` where one of them is called behind the cut too.
    """
    name = type(network).__name__
    count = record.calls.count(("start", cut))
    if count != 1:
        how = "not called" if count == 0 else f"called {count} times"
        raise OptionError(f"{cut} of {name} is {how} for a frame: expected a cut that is called once, as encoders are")
    at = record.calls.index(("start", cut))
    called = [each for _, each in record.calls]
    around = {".".join(cut.split(".")[:length]) for length in range(cut.count(".") + 1)} | {""}
    found: dict[str, None] = {}
    for kind, each in record.calls[:at]:
        if kind == "start" and each not in around:
            parts = each.split(".")
            prefixes = [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
            unit = next(prefix for prefix in prefixes if prefix not in around and prefix in called)
            if next(iter(network.get_submodule(unit).state_dict()), None) is not None:
                found[unit] = None
    for unit in found:
        behind = sum(1 for kind, each in record.calls[at:] if kind == "start" and each == unit)
        if behind or record.calls.count(("start", unit)) > 1:
            where = "before and behind the cut" if behind else "more than once before the cut"
            raise OptionError(f"{unit} of {name} is called {where} at {cut}: expected another cut, such as {unit}")
    return [*found, cut]


def _plan_at(network: nn.Module, cut: str, stride: int | None, side: int) -> Plan:
    """The plan that hands over what the decoder depends on, the level for the memory first."""
    frame, name = _frame(side, side), type(network).__name__
    sources = _sources(network, _recorded(network, frame, set(), cut), cut)
    record = _recorded(network, frame, set(sources), cut)
    if not torch.equal(record.logits, logits_of(network(frame))):
        raise OptionError(f"{name} returns other logits for the same frame, in evaluation mode: it cannot be cut")
    plan, given = _everything_handed(record, sources, cut, frame)

    decoder = Decoder(network, plan).eval()
    leaves = [tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in given]
    levels = [leaf.clone() for leaf in leaves]
    versions = [level._version for level in levels]
    try:
        logits = decoder(tuple(levels), (side, side))
    except Exception as error:  # whatever the network's code raises
        raise OptionError(f"{cut} of {name} is no cut: what comes behind it fails alone: {_line(error)}") from error
    written = {number for number, level in enumerate(levels) if level._version != versions[number]}
    whole = _resized(record.logits, frame)
    if not torch.equal(whole, logits):
        raise OptionError(
            f"the cut at {cut} changes the logits of {name} by up to {(whole - logits).abs().max():.2g}: something "
            "passes by it; expected a module that all of the network's first half goes through"
        )
    # Integers, such as the places that a pooling noted for its unpooling, have no gradients: they are all handed over.
    used = [
        depends or not leaf.is_floating_point()
        for depends, leaf in zip(_depended_on(logits, leaves), leaves, strict=True)
    ]

    numbers = range(len(leaves) - 1)  # the last one is the frame
    strides = {number: _stride_of(leaves[number], frame) for number in numbers if used[number]}
    level = _memory_level(
        {number: found for number, found in strides.items() if found is not None and found > 1},
        stride,
        cut,
        [tuple(leaves[number].shape) for number in numbers],
    )
    kept = [number for number in numbers if used[number] or _gap(leaves[number], frame) is None]
    order = [level, *(number for number in kept if number != level)]
    position = {number: place for place, number in enumerate(order)}
    if used[-1]:
        position[len(leaves) - 1] = len(order)

    def renumbered(leaf: object) -> object:
        if not isinstance(leaf, Handed):
            return leaf
        return Handed(position[leaf.number]) if leaf.number in position else _gap(leaves[leaf.number], frame)

    unused = _unused(network, record.logits)
    return replace(
        plan,
        sources={source: replaced(output, renumbered) for source, output in plan.sources.items()},
        takes=tuple(plan.takes[number] for number in order),
        frame=used[-1],
        own=frozenset() if plan.call else _used_before(network, record, decoder, leaves, frame),
        written=frozenset(position[number] for number in written if number in position),
        unused=unused,
    )


def _everything_handed(record: _Record, sources: list[str], cut: str, frame: Tensor) -> tuple[Plan, list[Tensor]]:
    """A plan that hands over every tensor of the sources, and the frame; and these tensors."""
    numbers: dict[int, int] = {}
    takes: list[tuple[str, int]] = []
    given: list[Tensor] = []
    outputs: dict[str, object] = {}
    for source in sources:
        for place, tensor in enumerate(tensors_of(record.outputs[source])):
            if tensor is not frame and id(tensor) not in numbers:
                numbers[id(tensor)] = len(takes)
                takes.append((source, place))
                given.append(record.copies[source][place])
    numbers[id(frame)] = len(takes)
    for source in sources:
        outputs[source] = replaced(
            record.outputs[source], lambda leaf: Handed(numbers[id(leaf)]) if isinstance(leaf, Tensor) else leaf
        )
    plan = Plan(cut, outputs, tuple(takes), frame=True)
    if len(sources) == 1 and record.arguments is not None:
        tensors = list(tensors_of(record.arguments))
        if len(tensors) == 1 and tensors[0] is frame:
            call = replaced(record.arguments, lambda leaf: FrameHere() if isinstance(leaf, Tensor) else leaf)
            plan = replace(plan, call=call)
    return plan, [*given, frame]


def _depended_on(logits: Tensor, tensors: Sequence[Tensor]) -> list[bool]:
    """Which of some tensors the logits depend on: those with a gradient. All of them where there are no gradients."""
    floating = [tensor for tensor in tensors if tensor.requires_grad]
    try:
        gradients = torch.autograd.grad(logits.sum(), floating, allow_unused=True, retain_graph=True)
    except RuntimeError:  # such as operations in place that only inference allows
        return [True] * len(tensors)
    found = {id(tensor) for tensor, gradient in zip(floating, gradients, strict=True) if gradient is not None}
    return [id(tensor) in found for tensor in tensors]


def _unused(network: nn.Module, logits: Tensor) -> frozenset[str]:
    """Names of parameters that no logit depends on."""
    parameters = dict(network.named_parameters())
    used = _depended_on(logits, list(parameters.values()))
    return frozenset(name for name, is_used in zip(parameters, used, strict=True) if not is_used)


def _used_before(
    network: nn.Module, record: _Record, decoder: Decoder, levels: list[Tensor], frame: Tensor
) -> frozenset[str]:
    """Names of tensors that lie in a module around the cut itself, and that what is handed over depends on.

    Raises ``OptionError`` for one that both halves depend on.
    """
    plan, found = decoder.plan, set()
    names = set(network.state_dict())
    for module_name in _around(plan.cut):
        module = network.get_submodule(module_name)
        for own in (*module._parameters, *module._buffers):
            name = f"{module_name}.{own}".lstrip(".")
            tensor = getattr(module, own)
            if name not in names or not tensor.is_floating_point():
                continue
            with _changed(tensor):
                again = _recorded(network, frame, set(plan.sources), plan.cut)
            differs = any(
                not torch.equal(one, other)
                for source in plan.sources
                for one, other in zip(record.copies[source], again.copies[source], strict=True)
            )
            if not differs:
                continue
            found.add(name)
            before = decoder(tuple(level.clone() for level in levels), _size(frame))
            with _changed(getattr(decoder.network.get_submodule(module_name), own)):
                after = decoder(tuple(level.clone() for level in levels), _size(frame))
            if not torch.equal(before, after):
                raise OptionError(
                    f"{name} is used before and behind the cut at {plan.cut}: expected a cut with it on one side"
                )
    return frozenset(found)


def _around(cut: str) -> list[str]:
    """Names of the modules that the module of the cut lies in; the network itself is ``""``."""
    parts = cut.split(".")
    return [".".join(parts[:length]) for length in range(len(parts))]


@contextmanager
def _changed(tensor: Tensor) -> Iterator[None]:
    """A tensor with other numbers, for a while."""
    kept = tensor.detach().clone()
    with torch.no_grad():
        tensor.add_(torch.rand_like(tensor))
    try:
        yield
    finally:
        with torch.no_grad():
            tensor.copy_(kept)


def _size(frame: Tensor) -> tuple[int, int]:
    return frame.shape[-2], frame.shape[-1]


def _resized(logits: Tensor, frame: Tensor) -> Tensor:
    if logits.shape[-2:] == frame.shape[-2:]:
        return logits
    return F.interpolate(logits, frame.shape[-2:], mode="bilinear", align_corners=False)


def _stride_of(level: Tensor, frame: Tensor) -> int | None:
    """The stride of features ``B C h w``, with sides rounded up; ``None`` for a tensor that is none."""
    return _map_stride(level, frame) if level.is_floating_point() and level.numel() else None


def _map_stride(level: Tensor, frame: Tensor) -> int | None:
    """The stride of a tensor of the shape of features, whatever its numbers are; ``None`` for another shape."""
    if level.dim() != 4 or level.shape[0] != frame.shape[0]:
        return None
    stride = round(frame.shape[-2] / max(1, level.shape[-2]))
    return stride if stride >= 1 and level.shape[-2:] == _sides(frame, stride) else None


def _sides(frame: Tensor, stride: int) -> tuple[int, int]:
    """Height and width of features at a stride, rounded up."""
    height, width = frame.shape[-2:]
    return -(-height // stride), -(-width // stride)


def _gap(level: Tensor, frame: Tensor) -> Gap | None:
    """What stands for a tensor that the decoder does not use; ``None`` where it has no shape of features."""
    stride = _map_stride(level, frame)
    return None if stride is None else Gap(level.shape[1], stride)


def _memory_level(strides: dict[int, int], wanted: int | None, cut: str, shapes: list[tuple[int, ...]]) -> int:
    """The number of the level for the memory: the last of the wanted stride, or the deepest of stride 8 or 16."""
    if not strides:
        found = ", ".join(" ".join(map(str, shape)) for shape in shapes[:4])
        raise _NoLevelError(
            f"{cut} returns no map of features that the decoder uses (B C h w at a whole stride): it returns {found}; "
            "expected a cut behind which features are maps"
        )
    choices = sorted(set(strides.values()))
    if wanted is not None and wanted not in choices:
        raise _NoLevelError(f"stride {wanted} is no level of {cut}: expected one of {', '.join(map(str, choices))}")
    if wanted is None:
        preferred = [stride for stride in choices if stride in MEMORY_STRIDES]
        wanted = max(preferred) if preferred else min(choices, key=lambda stride: abs(stride - MEMORY_STRIDES[-1]))
    return max(number for number, stride in strides.items() if stride == wanted)


def _same(network: nn.Module, encoder: Encoder, decoder: Decoder, frame: Tensor) -> bool:
    return torch.equal(_resized(logits_of(network(frame)), frame), decoder(encoder(frame), _size(frame)))


@torch.no_grad()
def _side_multiple(network: nn.Module, encoder: Encoder, decoder: Decoder, side: int, stride: int) -> int:
    """The least number by which sides may grow so that the cut network is the whole one, and features round up."""
    if not _same(network, encoder, decoder, _frame(side, side, batch=2)):
        raise OptionError(f"the cut at {encoder.plan.cut} does not return the logits of the whole network")
    for multiple in MULTIPLES:
        frame = _frame(side + multiple, side + 8 * multiple)
        try:
            first = _first(encoder(frame))
            if first.shape[-2:] == _sides(frame, stride) and _same(network, encoder, decoder, frame):
                return multiple
        except Exception:  # whatever the network raises for a size that it does not take
            continue
    return ONE_SIZE


def _last_layer(decoder: Decoder, encoded: Tensor | tuple[Tensor, ...], side: int, channels: int) -> str | None:
    """The name of the last convolution or linear layer with as many outputs as there are logits: the classifier."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in decoder.named_modules()
        if getattr(module, "out_channels", getattr(module, "out_features", None)) == channels
    ]
    try:
        decoder(encoded, (side, side))
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1] if called else None


def _enlarging(decoder: Decoder, encoded: Tensor | tuple[Tensor, ...], side: int) -> str | None:
    """The name of the module that enlarges the logits bilinearly at the end; ``None`` where there is none."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: outputs.update({name: output}))
        for name, module in decoder.network.named_modules()
        if isinstance(module, nn.Upsample)
        and module.mode == "bilinear"
        and isinstance(module.scale_factor, float | int)
    ]
    try:
        logits = decoder(encoded, (side, side))
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name, output in outputs.items() if output is logits), None)
