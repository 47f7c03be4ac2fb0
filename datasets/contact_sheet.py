"""A contact sheet of a data set: frames, their labels, the labels over the frames, and the legend."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from datasets.clips import Frame
from datasets.images import image_size, read_frame
from datasets.labels import read_label
from datasets.registry import VideoDatasetBase
from utils.visualize import colorized, legend, overlay, side_by_side, stacked

WIDTH = 400  # of a picture
ROWS = 4


def contact_sheet(dataset: VideoDatasetBase, labeled: Sequence[tuple[str, Frame, Path]]) -> np.ndarray:
    """RGB uint8 ``H W 3``: rows of frame, label and overlay, with a caption, for frames and their labels.

    Of many, as many as there are rows are taken, evenly.
    """
    count, palette = min(ROWS, len(labeled)), dataset.classes.palette
    pictures: list[tuple[str, np.ndarray]] = []
    size: tuple[int, int] | None = None
    for caption, frame, label in (labeled[row * len(labeled) // count] for row in range(count)):
        height, width = image_size(frame)
        size = size or (max(1, round(height * WIDTH / width)), WIDTH)  # that of the first for all
        image = read_frame(frame, size).permute(1, 2, 0).numpy()
        indices = read_label(label, None, dataset.label_coding(label)).numpy()
        indices = cv2.resize(indices, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        pictures += [
            (caption, image),
            ("label", colorized(indices, palette)),
            ("label over the frame", overlay(image, indices, palette)),
        ]
    sheet = side_by_side(pictures, columns=3)
    return stacked([sheet, legend([*dataset.classes.names, "without a label"], palette, sheet.shape[1])])
