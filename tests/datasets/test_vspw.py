"""VSPW in its own layout."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.labels import read_label
from datasets.registry import dataset_named
from utils.errors import DataError

VSPW = dataset_named("VSPW")


def write_video(root: Path, name: str, masks: list[np.ndarray]) -> None:
    for number, mask in enumerate(masks):
        for kind, ending, pixels in (("origin", "jpg", np.stack([mask] * 3, 2)), ("mask", "png", mask)):
            path = root / "data" / name / kind / f"{100 + number:08d}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def test_ids_begin_with_1(tmp_path):
    write_video(tmp_path, "12_abc", [np.array([[0, 1, 61, 124, 255]], np.uint8)] * 3)
    write_video(tmp_path, "9_other", [np.zeros((1, 5), np.uint8)])
    (tmp_path / "val.txt").write_text("12_abc\n")
    (video,) = VSPW.videos(tmp_path, "val")
    assert (video.name, len(video.frames), all(video.labels)) == ("12_abc", 3, True)
    label = read_label(video.labels[0], None, VSPW.label_coding(video.labels[0]))
    assert label.tolist() == [[124, 0, 60, 123, 124]]
    assert (VSPW.classes.names[0], VSPW.classes.names[60], VSPW.classes.names[123]) == ("wall", "person", "train")
    assert len(VSPW.classes.names) == 124
    assert VSPW.classes.to_file_id[[0, 123, 124]].tolist() == [1, 124, 0]
    assert len(VSPW.clips(tmp_path, "val", 2)) == 2


def test_what_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"no .*val.txt: expected the names of the videos"):
        VSPW.videos(tmp_path, "val")
    (tmp_path / "val.txt").write_text("12_abc\n")
    with pytest.raises(DataError, match=r"val.txt names 12_abc, but there is no folder .*origin: copy it there"):
        VSPW.videos(tmp_path, "val")
    write_video(tmp_path, "12_abc", [np.zeros((1, 5), np.uint8)] * 2)
    (tmp_path / "data/12_abc/origin/00000101.jpg").unlink()
    with pytest.raises(DataError, match=r"label .*00000101.png has no frame: expected .*00000101.jpg"):
        VSPW.videos(tmp_path, "val")
