"""``--dataset VSPW``: 124 classes, every frame labeled (Miao et al., *VSPW*, CVPR 2021).

On disk: ``ROOT/data/VIDEO/origin/*.jpg`` and ``ROOT/data/VIDEO/mask/*.png``, and the names of the videos of a split,
one a line, in ``ROOT/train.txt`` and ``ROOT/val.txt``. Ids begin with 1; 0 and 255 are ignored.
"""

from pathlib import Path

from datasets.clips import Video
from datasets.file_lists import files_below, without_ending
from datasets.registry import VideoDataset, register_dataset
from utils.class_set import ClassSet, default_colors
from utils.errors import DataError

# By their ids, from 1 on.
NAMES = (
    "wall", "ceiling", "door", "stair", "ladder", "escalator", "Playground_slide", "handrail_or_fence", "window",
    "rail", "goal", "pillar", "pole", "floor", "ground", "grass", "sand", "athletic_field", "road", "path", "crosswalk",
    "building", "house", "bridge", "tower", "windmill", "well_or_well_lid", "other_construction", "sky", "mountain",
    "stone", "wood", "ice", "snowfield", "grandstand", "sea", "river", "lake", "waterfall", "water",
    "billboard_or_Bulletin_Board", "sculpture", "pipeline", "flag", "parasol_or_umbrella", "cushion_or_carpet", "tent",
    "roadblock", "car", "bus", "truck", "bicycle", "motorcycle", "wheeled_machine", "ship_or_boat", "raft", "airplane",
    "tyre", "traffic_light", "lamp", "person", "cat", "dog", "horse", "cattle", "other_animal", "tree", "flower",
    "other_plant", "toy", "ball_net", "backboard", "skateboard", "bat", "ball", "cupboard_or_showcase_or_storage_rack",
    "box", "traveling_case_or_trolley_case", "basket", "bag_or_package", "trash_can", "cage", "plate",
    "tub_or_bowl_or_pot", "bottle_or_cup", "barrel", "fishbowl", "bed", "pillow", "table_or_desk", "chair_or_seat",
    "bench", "sofa", "shelf", "bathtub", "gun", "commode", "roaster", "other_machine", "refrigerator",
    "washing_machine", "Microwave_oven", "fan", "curtain", "textiles", "clothes", "painting_or_poster", "mirror",
    "flower_pot_or_vase", "clock", "book", "tool", "blackboard", "tissue", "screen_or_television", "computer",
    "printer", "Mobile_phone", "keyboard", "other_electronic_product", "fruit", "food", "instrument", "train",
)  # fmt: skip


class Vspw(VideoDataset):
    """The benchmark in its own layout."""

    name = "VSPW"
    summary = "124 classes, every frame labeled"
    default_root = "data/vspw"
    classes = ClassSet(
        names=NAMES,
        colors=default_colors(len(NAMES)),
        file_ids=tuple(range(1, len(NAMES) + 1)),
        ignored_file_ids=frozenset({0, 255}),
        written_ignored=0,
    )

    def videos(self, root: Path, split: str) -> list[Video]:
        file = root / f"{split}.txt"
        if not file.is_file():
            raise DataError(f"no {file}: expected the names of the videos of split {split} in it, one a line")
        names = sorted({line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()})
        if not names:
            raise DataError(f"{file} is empty: expected the names of videos in data/, one a line")
        return [_video(root / "data" / name, file) for name in names]


def _video(folder: Path, file: Path) -> Video:
    origin, mask = folder / "origin", folder / "mask"
    if not origin.is_dir():
        raise DataError(f"{file} names {folder.name}, but there is no folder {origin}: copy it there")
    frames = {without_ending(name): path for name, path in files_below(str(origin), (".jpg", ".png"), subfolders=False)}
    masks = files_below(str(mask), (".png",), subfolders=False) if mask.is_dir() else ()
    labels = {without_ending(name): path for name, path in masks}
    lost = sorted(set(labels) - set(frames))
    if lost:
        raise DataError(f"label {labels[lost[0]]} has no frame: expected {origin / lost[0]}.jpg")
    if not frames:
        raise DataError(f"no frames in {origin}: expected files such as 00000000.jpg")
    ordered = sorted(frames)
    return Video(
        folder.name,
        tuple(Path(frames[name]) for name in ordered),
        tuple(Path(labels[name]) if name in labels else None for name in ordered),
    )


register_dataset(Vspw())
