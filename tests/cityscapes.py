"""Cityscapes' classes by the benchmark's names, and what tests build with them."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor

from datasets import class_weights, labels
from datasets.cache import FrameCache
from datasets.cityscapes import CITYSCAPES_CLASSES, label_coding
from datasets.clip_dataset import ClipDataset
from datasets.registry import dataset_named
from datasets.transforms import Augmentation

CITYSCAPES = dataset_named("Cityscapes")
IGNORED, NUM_CLASSES = CITYSCAPES_CLASSES.ignored, CITYSCAPES_CLASSES.num_outputs
CLASS_NAMES, PALETTE = CITYSCAPES_CLASSES.output_names, CITYSCAPES_CLASSES.palette
LOSS_WEIGHTS, LOSS_WEIGHTS_SHALLOW = CITYSCAPES_CLASSES.output_weights(), CITYSCAPES_CLASSES.output_weights(True)
CLASSES = tuple(
    SimpleNamespace(name=name, train_id=index, label_id=file_id, color=color)
    for index, (name, file_id, color) in enumerate(
        zip(CITYSCAPES_CLASSES.names, CITYSCAPES_CLASSES.file_ids, CITYSCAPES_CLASSES.colors, strict=True)
    )
)
label_ids_to_train_ids, train_ids_to_label_ids = (
    CITYSCAPES_CLASSES.file_id_coding.to_index,
    CITYSCAPES_CLASSES.to_file_id,
)

CityscapesClips = partial(ClipDataset, CITYSCAPES)
CityscapesAugmentation = partial(Augmentation, IGNORED)
pixel_counts = partial(class_weights.pixel_counts, CITYSCAPES)
weights_table = partial(class_weights.weights_table, CITYSCAPES_CLASSES)


def read_label(path: str | Path, size: tuple[int, int] | None) -> Tensor:
    """A label whose name tells its coding."""
    return labels.read_label(path, size, label_coding(path))


class CityscapesCache(FrameCache):
    """A cache whose labels' names tell their coding."""

    def label(self, path: str | Path, size: tuple[int, int]) -> Tensor:
        return super().label(path, size, label_coding(path))
