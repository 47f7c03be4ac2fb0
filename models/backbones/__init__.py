"""Single-frame networks, each cut into an encoder and a decoder behind one small protocol."""

from typing import Protocol

from torch import nn

from models.backbones.erfnet import ErfNet
from models.config import LMANetConfig


class Backbone(Protocol):
    """Makes the two halves of a single-frame network; its ``BackboneTraits`` tell what else must be known of it."""

    def make_encoder(self) -> nn.Module:
        """A module B 3 H W -> B F h w."""

    def make_decoder(self, channels: int, num_classes: int) -> nn.Module:
        """A module called with features B C h w and the size (H, W) -> logits B K H W."""

    def make_shallow_decoder(self, channels: int, num_classes: int) -> nn.Module:
        """A module called with features B C h w and the size (H, W) -> logits B K h w."""


_MAKERS = {"erf": ErfNet}


def build_backbone(config: LMANetConfig) -> Backbone:
    """The backbone that a configuration names."""
    return _MAKERS[config.backbone](batch_norm=config.batch_norm)
