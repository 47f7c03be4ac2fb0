"""Finds by dry runs how a network is cut: what crosses the cut, the level for the memory, the sizes of frames."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from models.cut.ending import enlarging_module, last_layer
from models.cut.frame_numbers import with_frame_numbers
from models.cut.frames import Size, gap_of, line_of, random_frame, resized, sides_at, size_of, sizes_taken, stride_of
from models.cut.halves import Decoder, Encoder, FrameHere, Handed, Plan
from models.cut.norm_pairs import convolutions_with_norms
from models.cut.record import Record, around, maps_of, recorded, sources_of
from models.cut.structure import copy_of, logits_of, replaced, tensors_of
from models.cut.training_mode import held_in_evaluation
from utils.errors import OptionError

SIDES = (64, 128, 224, 256, 384, 512, 640)  # of the frames of dry runs, the first that the network takes
MULTIPLES = (1, 2, 4, 8, 14, 16, 28, 32, 64, 128)
ENOUGH = 4  # sizes of frames that the network takes, and from which no sides may grow: it takes one size
MEMORY_STRIDES = (8, 16)
LIKELY_CUTS = ("encoder", "backbone", "body", "features", "trunk", "stem_and_stages")
WRAPPERS = ("", "module.", "_orig_mod.")  # what names begin with in a network that PyTorch wrapped


class _NoLevelError(OptionError):
    """Nothing that crosses the cut is a map of features at a whole stride, or at the wanted one."""


@dataclass(frozen=True)
class Measured:
    """What dry runs found out about a cut network; ``classifier`` is the decoder's last layer with its logits.

    ``one_size`` is the only size of frames that it takes, if it is so.
    """

    features: int
    stride: int
    side_multiple: int
    side_offset: int
    one_size: Size | None
    num_logits: int
    classifier: str | None


def plan_cut(
    network: nn.Module,
    cut: str | None = None,
    stride: int | None = None,
    sides: Sequence[int] = (),
    size: Size | None = None,
) -> tuple[Plan, Measured]:
    """How ``network``, ``B 3 H W`` -> ``B K h w``, is cut behind the module named ``cut``.

    ``stride`` names the level for the memory (default: the deepest of stride 8 or 16). ``sides`` are tried first for
    the square frames of dry runs, and frames of ``size`` where the network takes no squares, or one alone. Raises
    ``OptionError`` that says why where the network cannot be cut there.
    """
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _own_copy(network)
        cut = _checked_name(network, cut)
        # Of frames whose sides are no multiple of it, a stride such as 18 is not seen.
        of_stride = () if stride is None else (8 * stride,)
        squares = [(side, side) for side in (*sides, SIDES[0], *of_stride, *SIDES)]
        last = () if size is None else (size,)
        trial = _best_trial(network, cut, stride, sizes_taken(network, (*squares, *last)), size)
        plan, encoder, decoder, size = trial.plan, trial.encoder, trial.decoder, trial.size
        frame = random_frame(size)
        encoded = encoder(frame)
        folds = (
            convolutions_with_norms(encoder, lambda: encoder(frame)),
            convolutions_with_norms(decoder, lambda: decoder(encoded, size)),
        )
        num_logits = decoder(encoded, size).shape[1]
        plan = replace(
            plan,
            folds=folds,
            enlarging=enlarging_module(decoder, encoded, size),
            held=held_in_evaluation(network, frame, cut, list(plan.sources)),
        )
        multiple = trial.multiple or 1
        measured = Measured(
            _first(encoded).shape[1],
            trial.stride,
            multiple,
            size[0] % multiple,
            None if trial.multiple else size,
            num_logits,
            last_layer(decoder, encoded, size, num_logits),
        )
    return plan, measured


def _own_copy(network: nn.Module) -> nn.Module:
    """A copy for dry runs, in evaluation mode and with gradients. Raises ``OptionError`` where there can be none."""
    name = type(network).__name__
    if isinstance(network, torch.jit.ScriptModule):
        raise OptionError(f"{name} is a scripted or traced module, which cannot be cut: expected the nn.Module itself")
    try:
        network = copy_of(network).eval().cpu()
    except Exception as error:  # whatever the network raises, such as for tensors of its last run that it keeps
        raise OptionError(f"{name} cannot be copied ({line_of(error)}): expected a network of modules") from error
    lazy = [each for each, tensor in network.named_parameters() if is_lazy(tensor)]
    if lazy:
        raise OptionError(
            f"{lazy[0]} of {name} has no shape so far: expected a network that ran once, or no lazy layers"
        )
    return network.requires_grad_(True)


@dataclass(frozen=True)
class _Trial:
    """A network cut by frames of one size, and the multiple by which its sides may grow; ``None``: they may not."""

    plan: Plan
    encoder: Encoder
    decoder: Decoder
    size: Size
    stride: int
    multiple: int | None


def _best_trial(
    network: nn.Module, cut: str, wanted: int | None, sizes: Iterator[Size], preferred: Size | None
) -> _Trial:
    """The first trial whose sides may grow; else, for a network of one size, that of the preferred one or the first."""
    best, reason = None, None
    for tried, size in enumerate(sizes):
        if tried >= ENOUGH and size != preferred:
            continue
        try:
            trial = _trial(network, cut, wanted, size)
        except _NoLevelError as error:  # which sides of patches of 14 have, where those of the frame are none of 14
            reason = reason or error
            continue
        if trial.multiple:
            return trial
        if best is None or size == preferred:
            best = trial
    if best is None:
        assert reason is not None
        raise reason
    return best


def _trial(network: nn.Module, cut: str, wanted: int | None, size: Size) -> _Trial:
    plan = _plan_at(network, cut, wanted, size)
    encoder, decoder = Encoder(network, plan).eval(), Decoder(network, plan).eval()
    frame = random_frame(size)
    stride = stride_of(_first(encoder(frame)), frame)
    assert stride is not None
    return _Trial(plan, encoder, decoder, size, stride, _side_multiple(network, encoder, decoder, size, stride))


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
    cut = next((cut.removeprefix(each) for each in WRAPPERS if cut.removeprefix(each) in names), cut)
    if cut not in names:
        near = difflib.get_close_matches(cut, names, 3) or [name for name, _ in network.named_children()]
        raise OptionError(f"cut={cut!r} is no module of {type(network).__name__}: expected one such as {_some(near)}")
    return cut


def _some(names: Sequence[str], shown: int = 6) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def _plan_at(network: nn.Module, cut: str, stride: int | None, size: Size) -> Plan:
    """The plan that hands over what the decoder depends on, the level for the memory first."""
    frame, name = random_frame(size), type(network).__name__
    sources = sources_of(network, recorded(network, frame, set(), cut), cut)
    record = recorded(network, frame, set(sources), cut)
    if not torch.equal(record.logits, logits_of(network(frame))):
        raise OptionError(f"{name} returns other logits for the same frame, in evaluation mode: it cannot be cut")
    with_frame_numbers(network, record, frame)
    plan, given = _everything_handed(record, sources, cut, frame)

    decoder = Decoder(network, plan).eval()
    leaves = [tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in given]
    levels = [leaf.clone() for leaf in leaves]
    versions = [level._version for level in levels]
    try:
        logits = decoder(tuple(levels), size)
    except Exception as error:  # whatever the network's code raises
        raise OptionError(f"{cut} of {name} is no cut: what comes behind it fails alone: {line_of(error)}") from error
    written = {number for number, level in enumerate(levels) if level._version != versions[number]}
    whole = resized(record.logits, frame)
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
    strides = {number: stride_of(leaves[number], frame) for number in numbers if used[number]}
    level = _memory_level(
        {number: found for number, found in strides.items() if found is not None and found > 1},
        stride,
        cut,
        [tuple(leaves[number].shape) for number in numbers if used[number]],
        lambda: maps_of(network, frame, cut),
    )
    kept = [number for number in numbers if used[number] or gap_of(leaves[number], frame) is None]
    order = [level, *(number for number in kept if number != level)]
    position = {number: place for place, number in enumerate(order)}
    if used[-1]:
        position[len(leaves) - 1] = len(order)

    def renumbered(leaf: object) -> object:
        if not isinstance(leaf, Handed):
            return leaf
        return Handed(position[leaf.number]) if leaf.number in position else gap_of(leaves[leaf.number], frame)

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


def _everything_handed(record: Record, sources: list[str], cut: str, frame: Tensor) -> tuple[Plan, list[Tensor]]:
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
    network: nn.Module, record: Record, decoder: Decoder, levels: list[Tensor], frame: Tensor
) -> frozenset[str]:
    """Names of tensors that lie in a module around the cut itself, and that what is handed over depends on.

    Raises ``OptionError`` for one that both halves depend on.
    """
    plan, found = decoder.plan, set()
    names = set(network.state_dict())
    for module_name in around(plan.cut):
        module = network.get_submodule(module_name)
        for own in (*module._parameters, *module._buffers):
            name = f"{module_name}.{own}".lstrip(".")
            tensor = getattr(module, own)
            if name not in names or not tensor.is_floating_point():
                continue
            with _changed(tensor):
                again = recorded(network, frame, set(plan.sources), plan.cut)
            differs = any(
                not torch.equal(one, other)
                for source in plan.sources
                for one, other in zip(record.copies[source], again.copies[source], strict=True)
            )
            if not differs:
                continue
            found.add(name)
            before = decoder(tuple(level.clone() for level in levels), size_of(frame))
            with _changed(getattr(decoder.network.get_submodule(module_name), own)):
                after = decoder(tuple(level.clone() for level in levels), size_of(frame))
            if not torch.equal(before, after):
                raise OptionError(
                    f"{name} is used before and behind the cut at {plan.cut}: expected a cut with it on one side"
                )
    return frozenset(found)


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


def _memory_level(
    strides: dict[int, int], wanted: int | None, cut: str, shapes: list[tuple[int, ...]], maps: Callable[[], list[str]]
) -> int:
    """The number of the level for the memory: the last of the wanted stride, or the deepest of stride 8 or 16."""
    if not strides:
        found = ", ".join(" ".join(map(str, shape)) for shape in shapes[:4])
        # Maps may have a whole stride in frames of another size; what is none stays none.
        error = _NoLevelError if any(len(shape) == 4 for shape in shapes) else OptionError
        raise error(
            f"{cut} returns no map of features that the decoder uses (B C h w at a whole stride): it returns {found}; "
            f"expected a cut behind which features are maps, such as {_some(maps()) or 'a module for them'}"
        )
    choices = sorted(set(strides.values()))
    if wanted is not None and wanted not in choices:
        raise _NoLevelError(f"stride {wanted} is no level of {cut}: expected one of {', '.join(map(str, choices))}")
    if wanted is None:
        preferred = [stride for stride in choices if stride in MEMORY_STRIDES]
        wanted = max(preferred) if preferred else min(choices, key=lambda stride: abs(stride - MEMORY_STRIDES[-1]))
    return max(number for number, stride in strides.items() if stride == wanted)


def _same(network: nn.Module, encoder: Encoder, decoder: Decoder, frame: Tensor) -> bool:
    return torch.equal(resized(logits_of(network(frame)), frame), decoder(encoder(frame), size_of(frame)))


@torch.no_grad()
def _side_multiple(network: nn.Module, encoder: Encoder, decoder: Decoder, size: Size, stride: int) -> int | None:
    """The least number by which sides may grow so that the cut network is the whole one, and features round up.

    ``None`` for a network that takes no other size.
    """
    try:
        same, why = _same(network, encoder, decoder, random_frame(size, batch=2)), ""
    except Exception as error:  # whatever the network's code raises
        same, why = False, f" ({line_of(error)})"
    if not same:
        raise OptionError(
            f"the cut at {encoder.plan.cut} does not return the logits of the whole network for another frame{why}: "
            "expected a network that keeps nothing of a frame in its modules"
        )
    height, width = size
    for multiple in MULTIPLES:
        if (height - width) % multiple:  # which traits have one offset for
            continue
        frame = random_frame((height + multiple, width + 8 * multiple))
        try:
            first = _first(encoder(frame))
            if first.shape[-2:] == sides_at(frame, stride) and _same(network, encoder, decoder, frame):
                return multiple
        except Exception:  # whatever the network raises for a size that it does not take
            continue
    return None
