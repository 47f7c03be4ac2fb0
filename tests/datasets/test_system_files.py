"""Data sets that macOS or Windows has looked at hold the same clips as before."""

from pathlib import Path

import pytest

from datasets.cityscapes import cities_of, find_clips
from datasets.clips import Video
from datasets.registry import VideoDataset
from datasets.synthetic.disk import write_dataset
from datasets.synthetic.options import StreetOptions
from tests.litter import litter
from utils.class_set import ClassSet
from utils.errors import DataError


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("window", [1, 3])
def test_clips_in_cityscapes_layout_are_the_same(tree, ending, window):
    for city in ("aachen", "bochum"):
        for split in ("train", "val"):
            tree.frames(f"{city}_000000", range(4), split=split, ending=ending)
            tree.label(f"{city}_000000_000003", split=split)
    tree.frame("aachen_000000_000003", part="leftImg8bit", split="val", ending=ending)
    before = [find_clips(tree.roots, split, window) for split in ("train", "val")]
    cities = cities_of(tree.roots, "train")
    litter(tree.root)
    assert [find_clips(tree.roots, split, window) for split in ("train", "val")] == before
    assert cities_of(tree.roots, "train") == cities


def test_a_missing_split_is_told_by_what_is_there(tree):
    tree.label("aachen_000000_000003")
    tree.frames("aachen_000000", [3])
    litter(tree.root)
    with pytest.raises(DataError, match=r"no split val in .* \(there is: train\)"):
        find_clips(tree.roots, "val", 1)


class Animals(VideoDataset):
    """As in the README: what a user writes, who does not think of such files."""

    name, classes = "Animals", ClassSet(names=("grass", "sheep"), colors=((60, 160, 60), (230, 230, 230)))

    def videos(self, root: Path, split: str) -> list[Video]:
        return [self.video(folder, sorted(folder.glob("*.jpg"))) for folder in sorted((root / split).iterdir())]

    def video(self, folder: Path, frames: list[Path]) -> Video:
        labels = [frame.with_suffix(".png") for frame in frames]
        return Video(folder.name, tuple(frames), tuple(label if label.is_file() else None for label in labels))


def test_a_users_own_data_set_need_not_know_of_them(tmp_path):
    for video, labeled in (("meadow", (2, 5)), ("hill", (1,))):
        folder = tmp_path / "train" / video
        folder.mkdir(parents=True)
        for number in range(6):
            (folder / f"{number:03d}.jpg").write_bytes(b"")
        for number in labeled:
            (folder / f"{number:03d}.png").write_bytes(b"")
    before = Animals().clips(tmp_path, "train", 2)
    assert len(before) == 3
    litter(tmp_path)
    assert Animals().clips(tmp_path, "train", 2) == before


def test_an_empty_folder_that_was_looked_at_is_empty(tmp_path):
    litter(tmp_path)
    write_dataset(tmp_path, 1, 1, StreetOptions(height=32, width=64, length=1), 1)
    assert (tmp_path / "dataset.json").is_file()


def test_a_label_of_the_system_is_none(tmp_path):
    video = Video("a", (Path("0.jpg"), Path("._1.jpg"), Path("2.jpg")), (Path("._0.png"), Path("1.png"), Path("2.png")))
    assert video.frames == (Path("0.jpg"), Path("2.jpg"))
    assert video.labels == (None, Path("2.png"))
