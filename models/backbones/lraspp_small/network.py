"""LR-ASPP (Howard et al., *Searching for MobileNetV3*, 2019, figure 10) on torchvision's MobileNetV3-small.

torchvision ships this head on MobileNetV3-large alone. Levels and channels are those of its own builder.
"""

from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.segmentation.lraspp import LRASPPHead

from models.backbone import BackboneCard
from models.cut.card import card_of

LOW, HIGH = 2, 12  # blocks whose outputs are taken, at strides 8 and 16
LOW_CHANNELS, HIGH_CHANNELS, HEAD_CHANNELS = 24, 576, 128
# PyTorch's. torchvision's 0.01 is for trainings of hundreds of epochs: after a few hundred steps the running statistics
# are still those of the start, and an evaluation is worthless.
MOMENTUM = 0.1


class LrasppSmall(nn.Module):
    """B 3 H W -> logits B K H/8 W/8; tensors have the names that torchvision's LR-ASPP has."""

    def __init__(self, num_classes: int):
        super().__init__()
        features = mobilenet_v3_small(weights=None, dilated=True).features
        self.backbone = IntermediateLayerGetter(features, {str(LOW): "low", str(HIGH): "high"})
        self.classifier = LRASPPHead(LOW_CHANNELS, HIGH_CHANNELS, num_classes, HEAD_CHANNELS)
        for norm in features.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.momentum = MOMENTUM

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.backbone(x))
        return logits


def card(name: str) -> BackboneCard:
    """Its card: the memory lies behind the head's reduction to 128 channels, at stride 16."""
    return card_of(name, LrasppSmall, cut="classifier.scale")
