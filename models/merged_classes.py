"""A network of many classes that predicts groups of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.lmanet import LMANet
from utils.class_set import ClassSet


class MergedDecoder(nn.Module):
    """A decoder whose logits are those of groups of its classes: the probability of a group is its members' sum."""

    def __init__(self, decoder: nn.Module, groups: Sequence[int], count: int):
        super().__init__()
        self.decoder = decoder
        self.members = [[old for old, group in enumerate(groups) if group == new] for new in range(count)]

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:  # B C h w -> B K H W
        logits = self.decoder(features, size)
        # exp(logit) is a probability but for a factor, which all classes share.
        return torch.stack([logits[:, members].logsumexp(1) for members in self.members], dim=1)


def merge_classes(model: LMANet, groups: Sequence[int], classes: ClassSet) -> None:
    """Makes a network predict ``classes``, in place: ``groups`` are the new indices of all of its logits.

    For inference only: its weights can no longer be saved.
    """
    model.decoder = MergedDecoder(model.decoder, groups, classes.num_outputs)
    if hasattr(model, "memory_decoder"):
        model.memory_decoder = MergedDecoder(model.memory_decoder, groups, classes.num_outputs)
    model.classes = classes
