"""Confusion matrix, IoU and accuracy, as the Cityscapes benchmark defines them."""

import torch
from torch import Tensor


class ConfusionMatrix:
    """Pixel counts ``K K`` by label (rows) and prediction (columns), without pixels labeled with the ignore index.

    ``num_classes`` is K and includes the ignore index, the last one. Counts are integers, whose sums are exact.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        self.ignored = num_classes - 1
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Adds predictions and labels, class indices of the same shape; raises ``ValueError`` for different shapes."""
        if prediction.shape != label.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and label {tuple(label.shape)} differ in shape")
        counted = label != self.ignored
        size = len(self.counts)
        cells = label[counted].long() * size + prediction[counted].long()
        self.counts += torch.bincount(cells, minlength=size * size).view(size, size).to(self.counts.device)

    def iou(self) -> Tensor:
        """IoU by class, float64 ``K-1`` in [0, 1], without the ignore index; NaN where neither labeled nor predicted.

        Predicting the ignore index on a labeled pixel is a false negative.
        """
        return iou_of_counts(self.counts)[: self.ignored]

    def mean_iou(self) -> float:
        """Mean IoU in [0, 1] over the classes that are labeled or predicted; NaN where there is none."""
        return self.iou().nanmean().item()

    def accuracy(self) -> float:
        """Pixel accuracy in [0, 1]; NaN without labeled pixels."""
        counts = self.counts.cpu().double()
        return (counts.diagonal().sum() / counts.sum()).item()


def iou_of_counts(counts: Tensor) -> Tensor:
    """IoU of each class from the pixel counts ``K K`` of two labelings: float64 ``K`` on the CPU, in [0, 1].

    NaN for classes that neither labeling has.
    """
    counts = counts.cpu().double()
    hits = counts.diagonal()
    return hits / (counts.sum(0) + counts.sum(1) - hits)
