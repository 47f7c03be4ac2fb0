"""``--dataset CamVid`` and ``CamVid32`` (Brostow et al., *Semantic object classes in video*, 2009).

SegNet's layout, of 11 classes and void (11): ``ROOT/{train,val,test}.txt`` with a frame and its label in each line,
``ROOT/train/NAME.png``, ``ROOT/trainannot/NAME.png``. The original layout, of 32 colors, black for void:
``ROOT/701_StillsRaw_full/NAME.png`` and ``ROOT/LabeledApproved_full/NAME_L.png``, or ``ROOT/train/NAME.png`` and
``ROOT/train_labels/NAME_L.png``; lists of names make the splits, else those of SegNet are taken.

``CamVid`` reads both as 11 classes, ``CamVid32`` the original colors. Every 30th frame is labeled; the others may lie
in ``ROOT/frames/``, called as the labeled ones.
"""

import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from datasets.clips import Video
from datasets.file_lists import read_pairs, without_ending
from datasets.layout import IMAGE_ENDINGS, Layout
from datasets.registry import VideoDataset, register_dataset
from utils.class_set import IGNORED_COLOR, ClassSet, Color, LabelCoding
from utils.errors import DataError

SPLITS = ("train", "val", "test")
VOID = 11
# SegNet's 11 classes: name, color, and the original classes that each of them holds.
_GROUPS: tuple[tuple[str, Color, tuple[str, ...]], ...] = (
    ("sky", (128, 128, 128), ("Sky",)),
    ("building", (128, 0, 0), ("Archway", "Bridge", "Building", "Tunnel", "Wall")),
    ("pole", (192, 192, 128), ("Column_Pole", "TrafficCone")),
    ("road", (128, 64, 128), ("LaneMkgsDriv", "LaneMkgsNonDriv", "Road")),
    ("pavement", (60, 40, 222), ("ParkingBlock", "RoadShoulder", "Sidewalk")),
    ("tree", (128, 128, 0), ("Tree", "VegetationMisc")),
    ("sign", (192, 128, 128), ("Misc_Text", "SignSymbol", "TrafficLight")),
    ("fence", (64, 64, 128), ("Fence",)),
    ("car", (64, 0, 128), ("Car", "OtherMoving", "SUVPickupTruck", "Train", "Truck_Bus")),
    ("pedestrian", (64, 64, 0), ("Animal", "CartLuggagePram", "Child", "Pedestrian")),
    ("bicyclist", (0, 128, 192), ("Bicyclist", "MotorcycleScooter")),
)
# The original classes; the 32nd is Void, black.
_COLORS: dict[str, Color] = {
    "Animal": (64, 128, 64), "Archway": (192, 0, 128), "Bicyclist": (0, 128, 192), "Bridge": (0, 128, 64),
    "Building": (128, 0, 0), "Car": (64, 0, 128), "CartLuggagePram": (64, 0, 192), "Child": (192, 128, 64),
    "Column_Pole": (192, 192, 128), "Fence": (64, 64, 128), "LaneMkgsDriv": (128, 0, 192),
    "LaneMkgsNonDriv": (192, 0, 64), "Misc_Text": (128, 128, 64), "MotorcycleScooter": (192, 0, 192),
    "OtherMoving": (128, 64, 64), "ParkingBlock": (64, 192, 128), "Pedestrian": (64, 64, 0), "Road": (128, 64, 128),
    "RoadShoulder": (128, 128, 192), "SUVPickupTruck": (64, 128, 192), "Sidewalk": (0, 0, 192),
    "SignSymbol": (192, 128, 128), "Sky": (128, 128, 128), "TrafficCone": (0, 0, 64), "TrafficLight": (0, 64, 64),
    "Train": (192, 64, 128), "Tree": (128, 128, 0), "Truck_Bus": (192, 128, 192), "Tunnel": (64, 0, 64),
    "VegetationMisc": (192, 192, 0), "Wall": (64, 192, 0),
}  # fmt: skip


class CamVid(VideoDataset):
    """11 classes, from label files with ids or with the original colors."""

    name = "CamVid"
    summary = "11 classes, in SegNet's layout or in the original one"
    default_root = "data/camvid"
    classes = ClassSet(
        names=tuple(name for name, _, _ in _GROUPS),
        colors=tuple(color for _, color, _ in _GROUPS),
        ignored_file_ids=frozenset({VOID, 255}),
        written_ignored=VOID,
    )

    def videos(self, root: Path, split: str) -> list[Video]:
        frames = "frames" if (root / "frames").is_dir() else None
        stills, labels = root / "701_StillsRaw_full", root / "LabeledApproved_full"
        if stills.is_dir() and labels.is_dir():
            masks = f"{labels.name}/{{name}}_L.png"
            layout = Layout({split: (stills.name,)}, {split: masks}, frames, splits_at_gaps=True)
            return _of_split(layout.videos(root, split, self.name), root, split)
        if (root / f"{split}_labels").is_dir():
            masks = f"{split}_labels/{{name}}_L.png"
        elif (root / f"{split}annot").is_dir():
            masks = f"{split}annot"
        else:
            raise DataError(
                f"no labels of split {split} in {root}: expected {split}annot/ with {split}.txt (SegNet's layout), "
                f"{split}_labels/, or {labels.name}/ beside {stills.name}/"
            )
        listed = root / f"{split}.txt"
        entry = listed.name if listed.is_file() and masks == f"{split}annot" else split
        layout = Layout({split: (entry,)}, {split: masks}, frames, splits_at_gaps=True)
        return layout.videos(root, split, self.name)

    def label_coding(self, label: Path) -> LabelCoding:
        return self._color_coding if label.stem.endswith("_L") else self.classes.file_id_coding

    @cached_property
    def _color_coding(self) -> LabelCoding:
        return replace(self.classes.file_id_coding, valid=frozenset(), colors=self.color_indices())

    def color_indices(self) -> dict[Color, int]:
        """Class indices of the original colors."""
        group_of = {name: index for index, (_, _, names) in enumerate(_GROUPS) for name in names}
        return {IGNORED_COLOR: self.classes.ignored} | {color: group_of[name] for name, color in _COLORS.items()}


class CamVid32(CamVid):
    """The original classes: 31, and Void."""

    name = "CamVid32"
    summary = "its original classes"
    classes = ClassSet(tuple(_COLORS), tuple(_COLORS.values()))

    def color_indices(self) -> dict[Color, int]:
        return {IGNORED_COLOR: self.classes.ignored} | {color: index for index, color in enumerate(_COLORS.values())}

    def label_coding(self, label: Path) -> LabelCoding:
        if not label.stem.endswith("_L"):
            raise DataError(
                f"label {label}: {self.name} reads the original colors, NAME_L.png: expected these, or --dataset CamVid"
            )
        return self._color_coding


def _of_split(videos: list[Video], root: Path, split: str) -> list[Video]:
    """The videos with the labels of a split alone: that of the list ``SPLIT.txt``, or else SegNet's."""
    listed = root / f"{split}.txt"
    names = None
    if listed.is_file():
        names = {without_ending(Path(frame).name) for frame, _ in read_pairs(listed, IMAGE_ENDINGS)}
    found = []
    for video in videos:
        stems = [frame.stem for frame in video.frames]
        inside = [stem in names if names is not None else _segnet_split(stem) == split for stem in stems]
        labels = [label if mine else None for label, mine in zip(video.labels, inside, strict=True)]
        if any(labels):
            found.append(replace(video, labels=tuple(labels)))
    if not found:
        raise DataError(f"no labels of split {split} in {root}: expected frames of it, or a list {listed.name}")
    return found


def _segnet_split(name: str) -> str:
    """The split of a frame by its name, ``SEQUENCE_NUMBER``: 367 train, 101 validate, 233 test."""
    sequence, _, number = name.rpartition("_")
    frame = int(re.sub(r"\D", "", number) or 0)
    if sequence.startswith("Seq05VD") or (sequence.startswith("0001TP") and frame >= 8550):
        return "test"
    return "val" if sequence.startswith("0016E5") and frame >= 7959 else "train"


for _dataset in (CamVid(), CamVid32()):
    register_dataset(_dataset)
