"""Any single-frame network as a backbone: ``make_video`` in a program, ``register_network`` in a ``--plugin`` file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from models.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneCard,
    BackboneTraits,
    Classifier,
    keep_card,
    register_later,
)
from models.choices import RESIDUAL
from models.config import LMANetConfig
from models.cut.frames import line_of
from models.cut.halves import NAME, Decoder, Encoder, Plan
from models.cut.plan import Measured, plan_cut
from models.lmanet import LMANet, build_lmanet
from models.weights.file_kinds import SHALLOW, FileKind, Pairs, lmanet_kind
from utils.class_set import ClassSet
from utils.errors import OptionError

WORK_SIZE = (512, 1024)
FEW_CLASSES = 7  # of the networks that are only built to be measured
RGB = tuple[float, float, float]


def register_network(
    name: str,
    make: Callable[[int], nn.Module],
    cut: str | None = None,
    stride: int | None = None,
    work_size: tuple[int, int] = WORK_SIZE,
    mean: RGB | None = IMAGENET_MEAN,
    std: RGB | None = IMAGENET_STD,
    aside: Sequence[str] = (),
) -> None:
    """Registers any single-frame network as ``--backbone NAME``.

    ``make`` is called with the number of classes K and returns a module ``B 3 H W -> B K h w``, or one that returns a
    dictionary or tuple with such logits; they are resized to the frame where they are smaller, and one more logit, for
    what is ignored, is never the largest. ``cut`` names the module that ends the first half (default: ``encoder``,
    ``backbone`` or the like), ``stride`` the level of its output that passes through the memory (default: the deepest
    of 8 or 16); all other levels reach the decoder as they are. ``mean`` and ``std`` normalize RGB in [0, 1]; ``None``:
    not at all. Weight files are those of the network itself; ``aside`` are prefixes of tensors in them without use.

    Channels, strides and sides are found by dry runs when the backbone is first asked for. ``OptionError`` is then
    raised, with the reason, where the cut network would not return the same logits, bit by bit.
    """
    register_later(name, lambda: card_of(name, make, cut, stride, work_size, mean, std, tuple(aside)))


def make_video(
    network: nn.Module,
    cut: str | None = None,
    stride: int | None = None,
    classes: ClassSet | None = None,
    work_size: tuple[int, int] = WORK_SIZE,
    mean: RGB | None = IMAGENET_MEAN,
    std: RGB | None = IMAGENET_STD,
    name: str = "",
    **options: Any,
) -> LMANet:
    """An LMANet of a single-frame network ``B 3 H W -> B K h w``, with its weights; the network itself is unchanged.

    ``cut`` to ``std`` are those of ``register_network``. With ``classes``, of which the network has one logit each, a
    logit for what is ignored is added; without, the logits are the network's own. ``options`` are fields of
    ``LMANetConfig``, such as ``memory_size=4``. Until it is trained it returns the logits of single frames: that is how
    the residual fusion starts, which is the default here. ``name`` is that of the backbone in weight files (default:
    made of the network's class and shapes, so that the same call knows its files).

    Raises ``OptionError`` where the network cannot be cut there, or has another number of logits.
    """
    if not isinstance(network, nn.Module):
        raise OptionError(f"network is a {type(network).__name__}: expected a nn.Module")
    network = _unwrapped(network)
    name = name or f"{type(network).__name__}-{_digest(network, cut, stride)}"
    card = card_of(name, lambda num_classes: network, cut, stride, work_size, mean, std, given=True)
    keep_card(card)
    assert isinstance(card.maker, CutBackbone)
    logits = card.maker.num_logits
    if classes is not None and logits not in (len(classes.names), classes.num_outputs):
        raise OptionError(
            f"the network has {logits} logits: expected {len(classes.names)}, one for each of the classes"
        )
    num_classes = logits if classes is None else classes.num_outputs
    return build_lmanet(LMANetConfig(backbone=name, num_classes=num_classes, **options), classes, card.traits.work_size)


@dataclass(frozen=True)
class CutBackbone:
    """Makes the two halves of a network; ``num_logits`` are its own, where it is ``given`` and not made anew."""

    make: Callable[[int], nn.Module]
    plan: Plan
    features: int
    num_logits: int
    given: bool = False

    def __call__(self, config: LMANetConfig) -> _Halves:
        return _Halves(self, config)


@dataclass(frozen=True)
class _Halves:
    backbone: CutBackbone
    config: LMANetConfig

    def make_encoder(self) -> nn.Module:
        return Encoder(self._network(self.config.num_classes - 1), self.backbone.plan)

    def make_decoder(self, channels: int, num_classes: int) -> nn.Module:
        backbone = self.backbone
        if channels != backbone.features:
            raise OptionError(
                f"--model-struct {self.config.structure} decodes {channels} channels, the decoder of "
                f"--backbone {self.config.backbone} takes {backbone.features}: add --fusion-strategy residual"
            )
        added = num_classes - backbone.num_logits if backbone.given else 1
        if added not in (0, 1):
            raise OptionError(
                f"num_classes is {num_classes}: --backbone {self.config.backbone} has {backbone.num_logits} logits, "
                f"expected {backbone.num_logits + 1}"
            )
        return Decoder(self._network(num_classes - 1), backbone.plan, added)

    def _network(self, num_classes: int) -> nn.Module:
        return self.backbone.make(num_classes)


def card_of(
    name: str,
    make: Callable[[int], nn.Module],
    cut: str | None = None,
    stride: int | None = None,
    work_size: tuple[int, int] = WORK_SIZE,
    mean: RGB | None = IMAGENET_MEAN,
    std: RGB | None = IMAGENET_STD,
    aside: tuple[str, ...] = (),
    sides: Sequence[int] = (),
    given: bool = False,
) -> BackboneCard:
    """The card of a network that is cut; see ``register_network``. ``sides`` are tried first in the dry runs."""
    _check_work_size(name, work_size)
    make = _checked(name, make)
    with torch.random.fork_rng(devices=[]):
        network = make(FEW_CLASSES)
        try:
            plan, found = plan_cut(network, cut, stride, sides, work_size)
        except OptionError as error:
            raise OptionError(f"--backbone {name}: {error}") from error
        if not given and found.num_logits != FEW_CLASSES:
            raise OptionError(
                f"--backbone {name}: made for {FEW_CLASSES} classes it returns {found.num_logits} logits: expected "
                f"{FEW_CLASSES}"
            )
        classifiers = (
            [Classifier(f"decoder.{found.classifier}.")] if given and found.classifier else _classifiers(network, make)
        )
    encoder, decoder = _names(Encoder(network, plan), Decoder(network, plan))
    kind = FileKind(f"a single-frame {name}", encoder, decoder, SHALLOW, aside=aside, prefix="")
    return BackboneCard(
        name,
        _traits(found, work_size, mean, std),
        CutBackbone(make, plan, found.features, found.num_logits, given),
        (kind,),
        lmanet_kind(f"LMANet on {name}"),
        tuple(classifiers),
        constant_logits=0 if given else 1,
    )


def _checked(name: str, make: Callable[[int], nn.Module]) -> Callable[[int], nn.Module]:
    """A maker that returns the network itself where it is wrapped, and raises ``OptionError`` for all that fails."""

    def made(num_classes: int) -> nn.Module:
        try:
            network = make(num_classes)
        except OptionError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise OptionError(
                f"--backbone {name}: its maker fails for {num_classes} classes: {type(error).__name__}: "
                f"{line_of(error)}; expected a function such as lambda classes: Network(classes)"
            ) from error
        if not isinstance(network, nn.Module):
            raise OptionError(f"--backbone {name}: its maker returns {type(network).__name__}: expected a nn.Module")
        return _unwrapped(network)

    return made


def _unwrapped(network: nn.Module) -> nn.Module:
    """The network in a wrapper of PyTorch's, for several GPUs or for compiling."""
    while True:
        parallel = isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel)
        inner = network.module if parallel else getattr(network, "_orig_mod", None)  # the latter of torch.compile
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def _check_work_size(name: str, size: object) -> None:
    sides = size if isinstance(size, tuple | list) else ()
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        raise OptionError(
            f"--backbone {name}: work_size is {size!r}: expected a height and a width, for example (512, 1024)"
        )


def cut_and_stride(place: str, cut: str) -> tuple[str, int | None]:
    """Cut and stride of a backbone's name by what stands behind its ``@``: a stride, behind ``cut``, or another cut."""
    return (cut, int(place)) if place.isdecimal() else (place or cut, None)


def _traits(found: Measured, work_size: tuple[int, int], mean: RGB | None, std: RGB | None) -> BackboneTraits:
    def with_size(size: tuple[int, int]) -> BackboneTraits:
        return BackboneTraits(
            found.features,
            found.stride,
            work_size=size,
            default_fusion=RESIDUAL,  # with fresh weights too it returns the network's own logits
            side_multiple=found.side_multiple,
            side_offset=found.side_offset,
            one_size=found.one_size is not None,
            mean=mean,
            std=std,
        )

    allowed = found.side_offset or found.side_multiple
    return with_size(found.one_size or with_size((allowed, allowed)).size_above(work_size))


def _classifiers(network: nn.Module, make: Callable[[int], nn.Module]) -> list[Classifier]:
    """The layers whose shapes follow the number of classes."""
    own, other = network.state_dict(), make(FEW_CLASSES + 1).state_dict()
    found: dict[str, int] = {}
    for name, tensor in own.items():
        shape = other[name].shape if name in other else tensor.shape
        if shape != tensor.shape:
            dims = [dim for dim, sides in enumerate(zip(tensor.shape, shape, strict=False)) if sides[0] != sides[1]]
            layer = f"decoder.{NAME}{name.rpartition('.')[0]}."
            found[layer] = max(found.get(layer, 0), dims[0])
    return [Classifier(layer, dim) for layer, dim in found.items()]


def _names(encoder: nn.Module, decoder: nn.Module) -> tuple[Pairs, Pairs]:
    """For both halves the pairs of prefixes here and in the network's own files, as short as tells the halves apart."""
    inside, outside = ([name.removeprefix(NAME) for name in half.state_dict()] for half in (encoder, decoder))
    return _pairs("encoder.", inside, outside), _pairs("decoder.", outside, inside)


def _pairs(half: str, names: list[str], others: list[str]) -> Pairs:
    found: dict[str, None] = {}
    for name in names:
        parts = name.split(".")
        prefixes = [".".join(parts[:length]) + "." for length in range(1, len(parts))]
        short = next((each for each in prefixes if not any(other.startswith(each) for other in others)), name)
        found[short] = None
    return tuple((f"{half}{NAME}{prefix}", prefix) for prefix in found)


def _digest(network: nn.Module, cut: str | None, stride: int | None) -> str:
    state = network.state_dict()
    shapes = [(name, None if is_lazy(tensor) else tuple(tensor.shape)) for name, tensor in state.items()]
    return hashlib.sha256(repr((shapes, cut, stride)).encode()).hexdigest()[:8]
