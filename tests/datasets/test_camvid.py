"""CamVid in its layouts: SegNet's with ids, the original one with colors."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.labels import read_label
from datasets.registry import dataset_named
from utils.errors import DataError


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_segnet(root: Path, names: dict[str, list[str]], ids=(0, 3, 11)) -> Path:
    for split, stems in names.items():
        for stem in stems:
            save(root / split / f"{stem}.png", np.zeros((2, len(ids), 3), np.uint8))
            save(root / f"{split}annot" / f"{stem}.png", np.array([ids, ids], np.uint8))
        lines = [f"/SegNet/CamVid/{split}/{stem}.png /SegNet/CamVid/{split}annot/{stem}.png" for stem in stems]
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return root


NAMES = {"train": ["0001TP_006690", "0001TP_006720", "0006R0_f00930"], "val": ["0016E5_07959", "0016E5_07961"]}


def test_segnets_lists_written_on_another_machine(tmp_path):
    camvid = dataset_named("CamVid")
    write_segnet(tmp_path, NAMES)
    clips = camvid.clips(tmp_path, "train", 1)
    assert [clip.name.rpartition("_")[2] for clip in clips] == ["006690", "006720", "f00930"]
    assert clips[0].label == tmp_path / "trainannot" / "0001TP_006690.png"
    label = read_label(clips[0].label, None, camvid.label_coding(clips[0].label))
    assert label.tolist() == [[0, 3, 11]] * 2  # 11 is the ignore index of 11 classes
    assert [len(clip.frames) for clip in camvid.clips(tmp_path, "val", 2)] == [2]


def test_frames_between_the_labeled_ones(tmp_path):
    write_segnet(tmp_path, {**NAMES, "train": ["0001TP_006690"]})
    for number in range(6680, 6690):
        save(tmp_path / "frames" / f"0001TP_{number:06d}.png", np.zeros((2, 3, 3), np.uint8))
    (clip,) = dataset_named("CamVid").clips(tmp_path, "train", 4)
    assert [frame.stem[-4:] for frame in clip.frames] == ["6687", "6688", "6689", "6690"]


ROW = [(0, 0, 64), (192, 192, 128), (0, 0, 0), (64, 64, 0), (192, 0, 64)]  # cone, pole, void, pedestrian, lane marking


def write_original(root: Path, stems: list[str]) -> Path:
    for stem in stems:
        save(root / "701_StillsRaw_full" / f"{stem}.png", np.zeros((1, 5, 3), np.uint8))
        save(root / "LabeledApproved_full" / f"{stem}_L.png", np.array([ROW], np.uint8))
    return root


@pytest.mark.parametrize(
    ("name", "indices", "count"), [("CamVid", [2, 2, 11, 9, 3], 11), ("CamVid32", [23, 8, 31, 16, 11], 31)]
)
def test_original_colors(name, indices, count, tmp_path):
    camvid = dataset_named(name)
    assert len(camvid.classes.names) == count
    write_original(tmp_path, ["0001TP_006690", "0001TP_008550", "0016E5_07959", "0016E5_00390", "Seq05VD_f00000"])
    splits = {split: [clip.frames[0].stem for clip in camvid.clips(tmp_path, split, 1)] for split in ("train", "val")}
    assert splits == {"train": ["0001TP_006690", "0016E5_00390"], "val": ["0016E5_07959"]}
    assert len(camvid.clips(tmp_path, "test", 1)) == 2
    (clip,) = camvid.clips(tmp_path, "val", 1)
    assert read_label(clip.label, None, camvid.label_coding(clip.label)).tolist() == [indices]
    (tmp_path / "val.txt").write_text("0001TP_008550.png\n")
    assert [clip.frames[0].stem for clip in camvid.clips(tmp_path, "val", 1)] == ["0001TP_008550"]


def test_colors_in_folders_of_splits(tmp_path):
    for stem in ("0016E5_07959", "0016E5_07961"):
        save(tmp_path / "val" / f"{stem}.png", np.zeros((1, 5, 3), np.uint8))
        save(tmp_path / "val_labels" / f"{stem}_L.png", np.array([ROW], np.uint8))
    for name in ("CamVid", "CamVid32"):
        (clip,) = dataset_named(name).clips(tmp_path, "val", 2)
        assert clip.label.name == "0016E5_07961_L.png"


def test_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"no labels of split val in .*: expected valannot/ with val.txt"):
        dataset_named("CamVid").clips(tmp_path, "val", 1)
    write_segnet(tmp_path, NAMES)
    (clip,) = dataset_named("CamVid32").clips(tmp_path, "val", 2)
    with pytest.raises(DataError, match="CamVid32 reads the original colors"):
        dataset_named("CamVid32").label_coding(clip.label)
