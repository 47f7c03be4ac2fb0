"""The decoder of ``--shallow-dec``, the same for every backbone."""

from torch import Tensor, nn


class ShallowDecoder(nn.Module):
    """B C h w -> logits B K h w, by one 1x1 convolution; of several levels it takes the first, the memory's."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, features: Tensor | tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:
        return self.classifier(features[0] if isinstance(features, tuple) else features)
