"""Single-frame networks, each cut into an encoder and a decoder behind one small protocol."""

from collections.abc import Callable
from typing import Protocol

from torch import nn

from models.backbones.erfnet import ErfNet
from models.backbones.pspnet import PspNet101
from models.backbones.torchvision import TorchvisionBackbone
from models.config import BACKBONES, BackboneTraits, LMANetConfig
from models.weights.file_kinds import SHALLOW, FileKind, Pairs, register_files


class Backbone(Protocol):
    """Makes the two halves of a single-frame network; its ``BackboneTraits`` tell what else must be known of it."""

    def make_encoder(self) -> nn.Module:
        """A module B 3 H W -> B F h w."""

    def make_decoder(self, channels: int, num_classes: int) -> nn.Module:
        """A module called with features B C h w and the size (H, W) -> logits B K H W."""


Maker = Callable[[LMANetConfig], Backbone]


def _torchvision(config: LMANetConfig) -> Backbone:
    return TorchvisionBackbone(config.backbone.partition("/")[2])


_MAKERS: dict[str, Maker] = {
    "erf": lambda config: ErfNet(config.batch_norm),
    "psp101": lambda config: PspNet101(config.batch_norm),
    **{name: _torchvision for name in BACKBONES if name.startswith("torchvision/")},
}


def build_backbone(config: LMANetConfig) -> Backbone:
    """The backbone that a configuration names."""
    return _MAKERS[config.backbone](config)


def register_backbone(
    name: str,
    traits: BackboneTraits,
    maker: Maker,
    encoder_names: Pairs = (("encoder.", "encoder."),),
    decoder_names: Pairs = (("decoder.", "decoder."),),
    classifier: tuple[str, ...] = (),
) -> None:
    """Makes a single-frame network known as ``LMANetConfig(backbone=name)``.

    ``maker`` is called with the configuration and gives a ``Backbone``; it may be a class. The rest is for reading and
    writing the network's own single-frame weight files: pairs of the beginnings of names here and in the file, for
    each half, such as ``("encoder.", "body.")``, and beginnings of names here (``"decoder."``) of the layers that
    start fresh where a file has another number of classes.

    Raises ``ValueError`` for a name that is taken.
    """
    if name in BACKBONES:
        raise ValueError(f"a backbone named {name!r} is there already: expected another name, such as {name + '_2'!r}")
    BACKBONES[name] = traits
    _MAKERS[name] = maker
    single_frame = FileKind(name, encoder_names, decoder_names, SHALLOW, prefix="", classifier=classifier)
    register_files(name, single_frame)
