"""The 19 classes of the Cityscapes benchmark and class 19, which is ignored: names, ids, colors and loss weights."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SegmentationClass:
    """One class: its id in tensors (train id), its id in the benchmark's files (label id), RGB color, loss weights."""

    name: str
    train_id: int
    label_id: int
    color: tuple[int, int, int]
    weight: float
    weight_shallow: float


CLASSES = (
    SegmentationClass("road", 0, 7, (128, 64, 128), 2.8149201869965, 2.3653597831726),
    SegmentationClass("sidewalk", 1, 8, (244, 35, 232), 6.9850029945374, 4.4237880706787),
    SegmentationClass("building", 2, 11, (70, 70, 70), 3.7890393733978, 2.9691488742828),
    SegmentationClass("wall", 3, 12, (102, 102, 156), 9.9428062438965, 5.3442072868347),
    SegmentationClass("fence", 4, 13, (190, 153, 153), 9.7702074050903, 5.2983593940735),
    SegmentationClass("pole", 5, 17, (153, 153, 153), 9.5110931396484, 5.2275490760803),
    SegmentationClass("traffic light", 6, 19, (250, 170, 30), 10.311357498169, 5.4394111633301),
    SegmentationClass("traffic sign", 7, 20, (220, 220, 0), 10.026463508606, 5.3659925460815),
    SegmentationClass("vegetation", 8, 21, (107, 142, 35), 4.6323022842407, 3.4170460700989),
    SegmentationClass("terrain", 9, 22, (152, 251, 152), 9.5608062744141, 5.2414722442627),
    SegmentationClass("sky", 10, 23, (70, 130, 180), 7.8698215484619, 4.7376127243042),
    SegmentationClass("person", 11, 24, (220, 20, 60), 9.5168733596802, 5.2286224365234),
    SegmentationClass("rider", 12, 25, (255, 0, 0), 10.373730659485, 5.455126285553),
    SegmentationClass("car", 13, 26, (0, 0, 142), 6.6616044044495, 4.3019247055054),
    SegmentationClass("truck", 14, 27, (0, 0, 70), 10.260489463806, 5.4264230728149),
    SegmentationClass("bus", 15, 28, (0, 60, 100), 10.287888526917, 5.4331531524658),
    SegmentationClass("train", 16, 31, (0, 80, 100), 10.289801597595, 5.433765411377),
    SegmentationClass("motorcycle", 17, 32, (0, 0, 230), 10.405355453491, 5.4631009101868),
    SegmentationClass("bicycle", 18, 33, (119, 11, 32), 10.138095855713, 5.3947434425354),
)
IGNORED = 19
NUM_CLASSES = 20

# Each has 20 entries, the last for the ignored class.
CLASS_NAMES = (*(c.name for c in CLASSES), "ignored")
PALETTE = (*(c.color for c in CLASSES), (0, 0, 0))
LOSS_WEIGHTS = (*(c.weight for c in CLASSES), 0.0)
LOSS_WEIGHTS_SHALLOW = (*(c.weight_shallow for c in CLASSES), 0.0)

# What the benchmark's files may hold: 0..33 and the license plate's -1, which 8 bits store as 255.
VALID_LABEL_IDS = frozenset((*range(34), 255))

# uint8[256]: label id -> train id, 19 for what is not one of the 19 classes.
label_ids_to_train_ids = np.full(256, IGNORED, dtype=np.uint8)
# uint8[256]: train id -> label id, 0 ("unlabeled") for 19 and above.
train_ids_to_label_ids = np.zeros(256, dtype=np.uint8)
for _class in CLASSES:
    label_ids_to_train_ids[_class.label_id] = _class.train_id
    train_ids_to_label_ids[_class.train_id] = _class.label_id
label_ids_to_train_ids.setflags(write=False)
train_ids_to_label_ids.setflags(write=False)
