"""Traits of single-frame networks, known before they are built, and the registry of all of them.

A backbone is a file or a folder in ``models/backbones/``, or a file of the user's, that calls ``register_backbone``. No
torch here: the command line is checked before torch is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from models.choices import FUSION_WIDTH
from models.weights.file_kinds import SHALLOW, FileKind, Pairs, lmanet_kind
from utils.errors import OptionError
from utils.modules import import_all

if TYPE_CHECKING:
    from torch import nn

    from models.config import LMANetConfig

# Means and deviations of RGB in [0, 1] that most networks are trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Above this, the 3x3 gates of the other fusions would outweigh the backbone.
WIDEST_FOR_3X3_GATES = 512


class Backbone(Protocol):
    """Makes the two halves of a single-frame network."""

    def make_encoder(self) -> nn.Module:
        """A module B 3 H W -> B F h w, or a tuple of that and further levels of any size, which the decoder takes."""

    def make_decoder(self, channels: int, num_classes: int) -> nn.Module:
        """A module called with features B C h w and the size (H, W) -> logits B K H W; with further levels behind the
        features, as a tuple, where the encoder returns such."""


Maker = Callable[["LMANetConfig"], Backbone]


@dataclass(frozen=True)
class BackboneTraits:
    """Traits of a backbone that are needed before it is built; the first three are enough.

    The encoder returns ``features`` channels for the memory, at ``1 / stride`` of the input's size rounded up, and
    behind them ``skip_channels`` channels that reach the decoder without passing through the memory, such as fine
    detail of the current frame.
    ``work_size`` is the height and width that frames are resized to. Input sides must be a multiple of
    ``side_multiple``, plus ``side_offset``; with ``one_size`` frames of ``work_size`` alone are taken. ``mean`` and
    ``std`` normalize RGB in [0, 1], which is not normalized where they are ``None``. With ``batch_norm_optional`` the
    backbone can be built without its batch norms.

    Defaults follow from ``features`` by the rules of the published networks: ``key_channels`` a 16th of them, in steps
    of 16, at least 16; ``default_fusion`` by their number; ``value_channels`` such that the fusion's output has
    ``features`` channels. Values as wide as the features are the features themselves, without a convolution.
    """

    features: int
    stride: int
    work_size: tuple[int, int]
    key_channels: int = 0
    value_channels: int = 0
    default_fusion: str = ""
    skip_channels: int = 0
    side_multiple: int = 1
    side_offset: int = 0
    one_size: bool = False
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    batch_norm_optional: bool = False

    def __post_init__(self) -> None:
        for name, least in (
            ("features", 1),
            ("stride", 1),
            ("side_multiple", 1),
            ("skip_channels", 0),
            ("side_offset", 0),
        ):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise OptionError(f"{name} is {value!r}: expected a whole number of {least} or more")
        sides = self.work_size if isinstance(self.work_size, tuple | list) and len(self.work_size) == 2 else (0, 0)
        if any(type(side) is not int or self.nearest_sides(side, axis) != [side] for axis, side in enumerate(sides)):
            raise OptionError(
                f"work_size is {self.work_size!r}: expected a height and a width, multiples of {self.side_multiple} "
                f"plus {self.side_offset}"
            )
        if not self.key_channels:
            object.__setattr__(self, "key_channels", 16 * max(1, round(self.features / 256)))
        if not self.default_fusion:
            narrow = self.features % 2 == 0 and self.features <= WIDEST_FOR_3X3_GATES
            object.__setattr__(self, "default_fusion", "sigmoid-do1" if narrow else "sigmoid-down1")

    def value_channels_for(self, fusion: str) -> int:
        """Channels D of the values that a fusion takes."""
        width = FUSION_WIDTH[fusion]
        if width is None:
            return self.features
        return self.value_channels or self.features // width

    def fitting_fusions(self) -> list[str]:
        """Names of the fusions whose output has as many channels as the decoder takes."""
        wanted = self.features
        return [n for n, width in FUSION_WIDTH.items() if width is None or width * self.value_channels_for(n) == wanted]

    def nearest_sides(self, side: int, axis: int = 0) -> list[int]:
        """The allowed side at or below ``side`` and the one above it; one number where ``side`` itself is allowed.

        ``axis`` is 0 for heights and 1 for widths.
        """
        if self.one_size:
            return [self.work_size[axis]] if self.work_size[axis] > 0 else []
        below = (side - self.side_offset) // self.side_multiple * self.side_multiple + self.side_offset
        if below == side > 0:
            return [side]
        return [allowed for allowed in (below, below + self.side_multiple) if allowed > 0]

    def size_above(self, size: tuple[int, int]) -> tuple[int, int]:
        """The allowed height and width at or above those of a size."""
        height, width = (self.nearest_sides(side, axis)[-1] for axis, side in enumerate(size))
        return height, width

    def feature_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The encoder's output size h, w for frames of size H, W."""
        height, width = size
        return -(-height // self.stride), -(-width // self.stride)


@dataclass(frozen=True)
class Classifier:
    """A layer whose output channels are the classes: the prefix of its tensors' names here, such as ``decoder.head.``,
    and the dimension of its weight that indexes the classes (1 in a transposed convolution)."""

    prefix: str
    class_dim: int = 0


SHALLOW_CLASSIFIER = Classifier("decoder.classifier.")


@dataclass(frozen=True)
class BackboneCard:
    """A registered backbone.

    ``maker`` is called with the configuration and returns a ``Backbone``; as a string, ``module:name``, it is imported
    when it is first needed. ``files`` are the kinds of single-frame weight files, of which the first is written;
    ``lmanet_file`` is the kind of an LMANet's. ``classifiers`` are the decoder's layers that start fresh for other
    classes. ``constant_logits`` counts the last logits that no layer computes (PSPNet's of the ignore index is 0).
    """

    name: str
    traits: BackboneTraits
    maker: Maker | str
    files: tuple[FileKind, ...]
    lmanet_file: FileKind
    classifiers: tuple[Classifier, ...] = ()
    constant_logits: int = 0

    def make(self, config: LMANetConfig) -> Backbone:
        """The backbone of a configuration."""
        if callable(self.maker):
            return self.maker(config)
        module, _, name = self.maker.partition(":")
        return getattr(import_module(module), name)(config)

    def file_kinds(self) -> tuple[FileKind, ...]:
        """All kinds of weight files that a network on this backbone can read."""
        return *self.files, FileKind.own(memory=False), self.lmanet_file, FileKind.own(memory=True)


_CARDS: dict[str, BackboneCard] = {}
_LATER: dict[str, Callable[[], BackboneCard]] = {}  # registered, and not asked for so far
_FAMILIES: dict[str, tuple[str, str]] = {}
_OF_FAMILIES: dict[str, BackboneCard] = {}
_loading = False
_shipped: tuple[str, ...] = ()


def register_backbone(
    name: str,
    traits: BackboneTraits,
    maker: Maker | str,
    encoder_names: Pairs = (("encoder.", "encoder."),),
    decoder_names: Pairs = (("decoder.", "decoder."),),
    classifier: Sequence[str | Classifier] = (),
    files: tuple[FileKind, ...] = (),
    lmanet_file: FileKind | None = None,
    constant_logits: int = 0,
) -> None:
    """Registers a single-frame network as ``--backbone NAME`` and ``LMANetConfig(backbone=NAME)``.

    ``maker`` is called with the configuration and returns a ``Backbone``; it may be a class. The rest is for reading
    and writing the network's own single-frame weight files. ``encoder_names`` and ``decoder_names`` are pairs of name
    prefixes here and in the file, such as ``("encoder.", "body.")``. ``classifier`` are the layers that start fresh
    where a file has other classes, as prefixes here (``"decoder.head."``) or as ``Classifier`` where the classes lie in
    another dimension than the first. ``files`` and ``lmanet_file`` replace these names where there are several kinds of
    files.

    Raises ``ValueError`` for a name that is taken, ``OptionError`` for what is no name, traits or maker.
    """
    if not isinstance(name, str) or not name:
        raise OptionError(f"a backbone is called {name!r}: expected a name, such as 'small'")
    if not isinstance(traits, BackboneTraits):
        raise OptionError(f"backbone {name} has the traits {traits!r}: expected BackboneTraits")
    if not callable(maker) and not (isinstance(maker, str) and ":" in maker):
        raise OptionError(f"backbone {name} has the maker {maker!r}: expected a function, a class or 'module:name'")
    _refuse_taken(name)
    classifiers = tuple(Classifier(layer) if isinstance(layer, str) else layer for layer in classifier)
    own = FileKind(name, encoder_names, decoder_names, SHALLOW, prefix="")
    lmanet = lmanet_file or lmanet_kind(f"LMANet on {name}")
    _CARDS[name] = BackboneCard(name, traits, maker, files or (own,), lmanet, classifiers, constant_logits)


def register_later(name: str, make_card: Callable[[], BackboneCard]) -> None:
    """Registers ``--backbone NAME``, whose card is made when it is first asked for: that may take torch and seconds.

    Raises ``ValueError`` for a name that is taken.
    """
    _refuse_taken(name)
    _LATER[name] = make_card


def keep_card(card: BackboneCard) -> None:
    """Registers a card that was made in this program; one of the same name gives way to it.

    Raises ``ValueError`` for the name of a backbone of the project.
    """
    if card.name in shipped_backbones():
        _refuse_taken(card.name)
    _CARDS[card.name] = card


def register_family(name: str, form: str, make_card: str) -> None:
    """Registers all of ``--backbone NAME/...`` as one family; ``form`` is how its names read, for messages and help.

    ``make_card`` is ``module:function``, imported when it is first needed: called with the whole name it returns a
    ``BackboneCard``, or raises ``OptionError``.
    """
    _FAMILIES[name] = form, make_card


def backbone_names() -> tuple[str, ...]:
    """Names of all backbones, those of the project first; those of families, which are found by name, are left out."""
    _load_shipped()
    return (*_CARDS, *_LATER)


def backbone_forms() -> tuple[str, ...]:
    """How the names of families read, such as ``smp/ARCH:ENCODER``."""
    _load_shipped()
    return tuple(sorted(form for form, _ in _FAMILIES.values()))


def shipped_backbones() -> tuple[str, ...]:
    """Names of the project's own backbones, without those of families."""
    _load_shipped()
    return _shipped


def is_registered(name: str) -> bool:
    """Whether a backbone of this name, or a family of its, is registered."""
    return name in backbone_names() or _family_of(name) is not None


def backbone_card(name: str) -> BackboneCard:
    """The card of a backbone. Raises ``OptionError`` where there is none of that name."""
    known = backbone_names()
    if name in _LATER:
        _CARDS[name] = _LATER[name]()
        del _LATER[name]
    if name in _CARDS:
        return _CARDS[name]
    family = _family_of(name)
    if family is None:
        choices = ", ".join((*known, *backbone_forms()))
        raise OptionError(f"--backbone {name} is not known: expected one of {choices}")
    if name not in _OF_FAMILIES:
        module, _, function = _FAMILIES[family][1].partition(":")
        _OF_FAMILIES[name] = getattr(import_module(module), function)(name)
    return _OF_FAMILIES[name]


def _family_of(name: str) -> str | None:
    family = name.partition("/")[0]
    return family if family in _FAMILIES and "/" in name else None


def _refuse_taken(name: str) -> None:
    _load_shipped()
    if is_registered(name):
        raise ValueError(f"a backbone named {name!r} is there already: expected another name, such as {name + '_2'!r}")


def _load_shipped() -> None:
    global _loading, _shipped
    if not _loading:  # while it loads, each of them asks whether it is there
        _loading = True
        import_all("models.backbones")
        _shipped = (*_CARDS, *_LATER)
