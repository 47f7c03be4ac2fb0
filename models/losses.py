"""The training loss: cross-entropy with class weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class WeightedCrossEntropy(nn.Module):
    """Class-weighted mean cross-entropy over the last frame's pixels; ``ignored`` is the ignore index.

    Takes logits ``B S K H W`` (the last of S counts), or a pair of such whose losses are averaged, and labels
    ``B H W``. Where every pixel is ignored the loss and its gradient are 0. With ``weight_of_all`` the sum is divided
    by that instead, for a share of the mean over the labels of several batches.
    """

    class_weights: Tensor

    def __init__(self, class_weights: Sequence[float], ignored: int):
        super().__init__()
        self.register_buffer("class_weights", torch.tensor(class_weights, dtype=torch.float32))
        self.ignored = ignored
        self._weights = [weight for number, weight in enumerate(self.class_weights.tolist()) if number != ignored]

    def weight(self, label: Tensor) -> float:
        """Sum of the class weights over the pixels of labels ``B H W`` that are not ignored: the mean's denominator."""
        counts = torch.bincount(label.flatten(), minlength=self.ignored + 1).tolist()
        del counts[self.ignored]
        return sum(count * weight for count, weight in zip(counts, self._weights, strict=True))

    def forward(
        self, logits: Tensor | tuple[Tensor, Tensor], label: Tensor, weight_of_all: float | None = None
    ) -> Tensor:
        if isinstance(logits, tuple):
            return torch.stack([self.forward(each, label, weight_of_all) for each in logits]).mean()
        label = label.long()
        # One frame alone is no slice of others: the backward need not fill in zeros for these.
        last = (logits.squeeze(1) if logits.shape[1] == 1 else logits[:, -1]).float()
        total = F.cross_entropy(last, label, self.class_weights, ignore_index=self.ignored, reduction="sum")
        weight = self.weight(label) if weight_of_all is None else weight_of_all
        return total / max(weight, torch.finfo(torch.float32).tiny)
