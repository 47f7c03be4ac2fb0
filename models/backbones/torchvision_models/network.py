"""The segmentation models that torchvision ships, cut before their heads. Nothing is fetched: weights are the user's.

FCN and DeepLabV3 hand one level of features to their head. LR-ASPP hands over two: the finer one is folded to the
coarser one's size (2x2 pixels become channels, which loses nothing) and reaches the head as skip features.
"""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import segmentation
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.models.segmentation.lraspp import LRASPPHead

from models.backbone import BackboneCard
from models.config import LMANetConfig
from models.cut.card import card_of, cut_and_stride
from models.enlarging import EnlargingDecoder
from models.norms import BackboneNorm

FINE_CHANNELS = 40  # of LR-ASPP's finer level
FOLD = 2
POOLED_CHANNELS = 256


class Encoder(nn.Module):
    """B 3 H W -> B F h w."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)["out"]


class Decoder(EnlargingDecoder):
    """A head, resized: B C h w -> logits B K H W."""

    def __init__(self, head: nn.Module):
        super().__init__()
        self.head = head

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        return self.enlarged(self.head(features), size)


class TwoLevelEncoder(nn.Module):
    """B 3 H W, sides multiples of 16 -> B 960+160 H/16 W/16."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        levels = self.body(x)
        return torch.cat([levels["high"], F.pixel_unshuffle(levels["low"], FOLD)], dim=1)


class TwoLevelDecoder(EnlargingDecoder):
    """LR-ASPP's head on both levels, resized: B C+160 h w -> logits B K H W."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.split = [channels - FINE_CHANNELS * FOLD**2, FINE_CHANNELS * FOLD**2]
        self.head = LRASPPHead(FINE_CHANNELS, self.split[0], num_classes, inter_channels=128)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        high, folded = features.split(self.split, dim=1)
        logits = self.head({"high": high, "low": F.pixel_shuffle(folded, FOLD)})
        return self.enlarged(logits, size)


@dataclass(frozen=True)
class TorchvisionBackbone:
    """Makes the two halves of ``torchvision.models.segmentation.NAME``."""

    name: str

    def make_encoder(self) -> nn.Module:
        body = getattr(segmentation, self.name)(weights=None, weights_backbone=None).backbone
        return TwoLevelEncoder(body) if self._has_two_levels else Encoder(body)

    def make_decoder(self, channels: int, num_classes: int) -> nn.Module:
        if self._has_two_levels:
            return TwoLevelDecoder(channels, num_classes)
        if self.name.startswith("fcn"):
            return Decoder(FCNHead(channels, num_classes))
        head = DeepLabHead(channels, num_classes)
        # Its pooling to 1x1 has to train at batch size 1 too.
        head[0].convs[-1][2] = BackboneNorm(POOLED_CHANNELS)
        return Decoder(head)

    @property
    def _has_two_levels(self) -> bool:
        return self.name.startswith("lraspp")


def from_config(config: LMANetConfig) -> TorchvisionBackbone:
    """The model that ``--backbone torchvision/NAME`` names."""
    return TorchvisionBackbone(config.backbone.partition("/")[2])


def cut_card(name: str, model: str, place: str) -> BackboneCard:
    """The card of ``torchvision/NAME@PLACE``, whose model is cut by dry runs: at a stride, or behind a module."""
    cut, stride = cut_and_stride(place, "backbone")
    return card_of(name, partial(Unresized, model), cut, stride, aside=("aux_classifier.",))


class Unresized(nn.Module):
    """One of torchvision's models without the resizing at its end, which a cut network does itself."""

    def __init__(self, name: str, num_classes: int):
        super().__init__()
        model = getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=num_classes)
        self.backbone, self.classifier = model.backbone, model.classifier

    def forward(self, x: Tensor) -> Tensor:  # B 3 H W -> B K h w
        levels = self.backbone(x)
        logits: Tensor = self.classifier(levels if isinstance(self.classifier, LRASPPHead) else levels["out"])
        return logits
