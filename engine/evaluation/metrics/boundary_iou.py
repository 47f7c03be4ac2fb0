"""Mean boundary IoU (Cheng et al., *Boundary IoU*, CVPR 2021): how well outlines are met, of thin things above all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from engine.evaluation.metric import Metric, register_metric

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from engine.evaluation.confusion_matrix import ConfusionMatrix
    from utils.class_set import ClassSet

SHARE_OF_DIAGONAL = 0.005  # the boundary's width, as for Cityscapes in the paper


class BoundaryIou(Metric):
    """IoU of the pixels of each class that lie near another class, in label and prediction; mean over the classes.

    Near is a distance, along rows or columns, of up to 0.5 % of the frame's diagonal, and of one pixel at least. The
    edge of the frame is no boundary, nor is that of what has no label. Pixels are summed over all clips first.
    """

    name, title = "boundary_iou", "mean boundary IoU"

    def counts(self, prediction: Tensor, label: Tensor, classes: ClassSet) -> Tensor:
        """Pixels of the intersection and the union by class, ``2 K-1``."""
        import numpy as np  # here, as options are parsed without it
        import torch

        none = classes.ignored
        labeled = label.numpy()
        predicted = np.where(labeled == none, none, prediction.numpy())
        height, width = labeled.shape
        reach = max(1, round(SHARE_OF_DIAGONAL * math.hypot(height, width)))
        of_label, of_prediction = (_boundary(indices, none, reach) for indices in (labeled, predicted))
        pairs = np.bincount(
            of_label.astype(np.intp).ravel() * (none + 1) + of_prediction.ravel(), minlength=(none + 1) ** 2
        )
        table = torch.from_numpy(pairs).view(none + 1, none + 1)
        both = table.diagonal()[:none]
        return torch.stack([both, table.sum(0)[:none] + table.sum(1)[:none] - both])

    def value(self, confusion: ConfusionMatrix, counts: Tensor | None) -> float:
        if counts is None:
            return math.nan
        both, either = counts.double()
        return (both / either).nanmean().item()


def _boundary(indices: np.ndarray, none: int, reach: int) -> np.ndarray:
    """Class indices ``H W`` with ``none`` where no other class is as near as ``reach``."""
    import cv2
    import numpy as np

    side = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    # Of a neighborhood with one class alone the smallest and the largest index are that one's; what has no label, the
    # largest index, takes no part in either. Outside of the frame OpenCV's neutral values lie.
    smallest = cv2.erode(indices, side)
    largest = cv2.dilate(np.where(indices == none, 0, indices).astype(np.uint8), side)
    is_inside = (smallest == indices) & (largest == indices)
    return np.where(is_inside, none, indices)


register_metric(BoundaryIou())
