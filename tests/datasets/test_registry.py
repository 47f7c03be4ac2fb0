"""A data set of no more than a name, classes and videos, and the registry."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from datasets import registry
from datasets.clips import Clip, Video, clips_of_videos
from datasets.registry import VideoDataset, dataset_named, dataset_names, register_dataset
from utils.class_set import ClassSet
from utils.errors import DataError, OptionError

CLASSES = ClassSet(("road", "car"), ((1, 2, 3), (4, 5, 6)), file_ids=(8, 9))


def video(name: str, frames: int, *labeled: int) -> Video:
    paths = tuple(Path(name, f"{number:03d}.png") for number in range(frames))
    labels = tuple(Path("labels", name, path.name) if i in labeled else None for i, path in enumerate(paths))
    return Video(name, paths, labels)


class Toy(VideoDataset):
    name = "Toy"
    classes = CLASSES

    def videos(self, root: Path, split: str) -> list[Video]:
        splits = {
            "train": [video("drive", 6, 2, 5), video("walk", 2, 1)],
            "val": [video("stop", 1, 0)],
            "test": [video("night", 4)],
        }
        return splits[split]


@pytest.fixture
def toy() -> Toy:
    return Toy()


@pytest.fixture
def registered(toy, monkeypatch) -> Toy:
    dataset_names()  # the shipped ones first
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    register_dataset(toy)
    return toy


def numbers(clip: Clip) -> list[int]:
    return [int(frame.stem) for frame in clip.frames]


def test_a_clip_ends_in_each_labeled_frame(toy):
    clips = toy.clips(Path("data"), "train", window=2)
    assert [clip.name for clip in clips] == ["drive_002", "drive_005", "walk_001"]
    assert [clip.group for clip in clips] == ["drive", "drive", "walk"]
    assert [numbers(clip) for clip in clips] == [[1, 2], [4, 5], [0, 1]]
    assert [clip.label for clip in clips] == [
        Path("labels", *parts) for parts in (("drive", "002.png"), ("drive", "005.png"), ("walk", "001.png"))
    ]
    assert [numbers(clip) for clip in toy.clips(Path("data"), "train", window=1)] == [[2], [5], [1]]


def test_positions_pick_frames_of_the_window(toy):
    assert [numbers(clip) for clip in toy.clips(Path("data"), "train", 3, [2, 0])] == [[0, 2], [3, 5]]
    # The window decides which labels count, also where only its last frame is wanted.
    assert [numbers(clip) for clip in toy.clips(Path("data"), "train", 4, [3])] == [[5]]


def test_labels_too_early_for_the_window_are_counted(toy, caplog):
    with caplog.at_level(logging.INFO):
        clips = toy.clips(Path("data"), "train", window=3)
    assert [numbers(clip) for clip in clips] == [[0, 1, 2], [3, 4, 5]]
    assert [record.getMessage() for record in caplog.records] == [
        "split train of data: 1 of 3 labeled frames left out, as their video begins later than a window of 3 frames"
    ]
    caplog.clear()
    toy.clips(Path("data"), "train", window=2)
    assert not caplog.records


def test_a_window_that_no_video_fills_is_refused(toy):
    with pytest.raises(OptionError) as error:
        toy.clips(Path("data"), "train", window=7)
    assert str(error.value) == (
        "--win-size 7: no video in split train of data has 7 frames up to a labeled one; the longest window that works "
        "is 6"
    )


def test_a_split_without_labels_is_refused(toy):
    with pytest.raises(DataError) as error:
        toy.clips(Path("data"), "test", window=2)
    assert str(error.value) == "no labels in split test of data: expected one or more labeled frames"


def test_a_video_has_a_label_or_none_for_each_frame():
    with pytest.raises(DataError) as error:
        Video("drive", (Path("0.png"), Path("1.png")), (None, None, Path("2.png")))
    assert str(error.value) == "video drive has 2 frames and 3 labels: expected a label, or None, for each frame"


def test_the_rest_has_defaults(toy, tmp_path):
    assert toy.label_coding(Path("any.png")) is CLASSES.file_id_coding
    assert toy.label_coding(Path("any.png")).to_index[[8, 9, 255]].tolist() == [0, 1, 2]
    assert (toy.work_size(None), toy.prepare(None), toy.summary) == (None, None, "")


def test_the_root_is_the_folder_that_is_named(toy, tmp_path, monkeypatch):
    assert toy.root(str(tmp_path)) == tmp_path
    for option, found in ((str(tmp_path / "absent"), str(tmp_path / "absent")), (None, ".")):
        with pytest.raises(DataError) as error:
            toy.root(option)
        assert str(error.value) == f"no data folder {found} for --dataset Toy: name it with --data-root"
    monkeypatch.setattr(Toy, "default_root", str(tmp_path))
    assert toy.root(None) == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    assert toy.root("~") == tmp_path


def test_a_registered_data_set_is_found_by_its_name(registered):
    assert dataset_named("Toy") is registered
    assert dataset_names() == ("Cityscapes", "CamVid", "CamVid32", "Synthetic", "VSPW", "Toy")
    with pytest.raises(OptionError) as error:
        dataset_named("Toys")
    assert (
        str(error.value)
        == "--dataset Toys is not known: expected one of Cityscapes, CamVid, CamVid32, Synthetic, VSPW, Toy"
    )


def test_a_name_is_registered_once(registered):
    with pytest.raises(OptionError) as error:
        register_dataset(Toy())
    assert str(error.value) == "a data set named 'Toy' is registered already: expected another name"
    assert dataset_named("Toy") is registered


@pytest.mark.parametrize("names", [("a", "a"), ("a/b", "c")])
def test_clips_whose_predictions_would_meet_are_refused(names):
    videos = [Video(name, (Path("0.png"),), (Path("0_label.png"),)) for name in names]
    with pytest.raises(DataError, match="a labeled frame is called a"):
        clips_of_videos(videos, 1, [0], "split val")


def test_a_worker_that_is_spawned_has_the_data_set_of_a_plugin(tmp_path):
    plugin = tmp_path / "toy_set.py"
    plugin.write_text(
        "from datasets.registry import VideoDataset, register_dataset\n"
        "from utils.class_set import ClassSet\n\n\n"
        "class ToySet(VideoDataset):\n"
        "    name, classes = 'ToySet', ClassSet(('a',), ((1, 2, 3),))\n\n"
        "    def videos(self, root, split):\n"
        "        return []\n\n\n"
        "register_dataset(ToySet())\n"
    )
    dump = "import pickle, sys; from utils.modules import load_file; from pathlib import Path; "
    dump += f"load_file(Path({str(plugin)!r}), 'plugin_toy_set'); from datasets.registry import dataset_named; "
    dump += "sys.stdout.buffer.write(pickle.dumps(dataset_named('ToySet')))"
    pickled = subprocess.run([sys.executable, "-c", dump], capture_output=True, check=True).stdout
    load = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).classes.names)"
    found = subprocess.run([sys.executable, "-c", load], input=pickled, capture_output=True, check=True)
    assert found.stdout.decode().strip() == "('a',)"
