"""What ``python -m datasets.check`` says of a data set, and what it refuses."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.check import main, steps_of
from datasets.clips import Video
from datasets.registry import dataset_named
from tests import farm


def checked(file, tmp_path, *options: str) -> int:
    return main([str(file), "--sheet", str(tmp_path / "sheet.png"), "--num-workers", "1", *options])


def row(text: str, name: str) -> list[str]:
    (line,) = re.findall(rf"^{re.escape(name)} {{2,}}(.*)$", text, re.MULTILINE)
    return re.split(r" {2,}", line.strip())


def test_what_is_there(tmp_path, capsys):
    file = farm.LAYOUTS["from 1 by 5"](tmp_path)
    farm.save(tmp_path / "masks/train/lost_3.png", np.zeros((2, 2), np.uint8))
    assert checked(file, tmp_path) == 0
    text = capsys.readouterr().out
    assert row(text, "videos") == ["3", "2"]
    assert row(text, "frames") == ["18", "12"]
    assert row(text, "labels") == ["3", "2"]
    assert row(text, "sizes (width x height)") == ["64x32", "64x32"]
    assert row(text, "steps between frames") == ["5", "5"]
    assert row(text, "frames before a label") == ["5", "5"]
    assert row(text, "unreadable files") == ["0", "0"]
    assert "labels without a frame: 1\n" in text and "label without a frame: " in text and "lost_3.png" in text
    labels = np.stack([farm.pictures(video)[-1][1] for video in farm.VIDEOS["train"]])
    counts = [(labels == index).sum() for index in (*range(5), farm.NONE)]
    for name, count in zip((*farm.NAMES, "ignored"), counts, strict=True):
        assert row(text, name)[0] == f"{count:,}"
    (line,) = re.findall(r"^weights: \[(.*)\]$", text, re.MULTILINE)
    expected = [1 / np.log(1.1 + count / sum(counts)) for count in counts[:-1]]
    assert [float(weight) for weight in line.split(", ")] == pytest.approx(expected, abs=1e-4)
    # Ready to be pasted.
    file.write_text(file.read_text() + f"weights: [{line}]\n")
    assert dataset_named(str(file)).classes.loss_weights == pytest.approx(expected, abs=1e-4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape[1] > 3 * 400
    for color in dataset_named(str(file)).classes.colors:
        assert (sheet == color).all(2).sum() > 100


def test_files_that_a_training_would_refuse(tmp_path, capsys):
    file = farm.write_folders(tmp_path)
    pixels = farm.pictures("five")[-1][1].copy()
    pixels[3, 5:8] = 77
    farm.save(tmp_path / "masks/val/five/005.png", pixels)
    assert checked(file, tmp_path) == 2
    text, error = capsys.readouterr()
    assert row(text, "ids without a class") == ["-", "77"]
    assert "five/005.png holds ids without a class: 77 (3 pixels)" in error
    (tmp_path / "frames/train/one/002.png").write_bytes(b"no picture")
    farm.save(tmp_path / "masks/val/four/005.png", np.zeros((3, 3), np.uint8))
    assert checked(file, tmp_path) == 2
    text, error = capsys.readouterr()
    assert row(text, "unreadable files") == ["1", "0"]
    assert "frames/train/one/002.png cannot be read" in error and error.count("\n") == 1
    assert "four/005.png has 3x3 pixels, its frame 005.png 64x32" in text
    assert (tmp_path / "sheet.png").is_file()


def test_a_window_that_no_video_fills(tmp_path, capsys):
    assert checked(farm.write_folders(tmp_path), tmp_path, "--win-size", "9") == 2
    assert "the longest window that works is 6" in capsys.readouterr().err


@pytest.mark.slow
def test_several_processes_find_the_same(tmp_path, capsys):
    file = farm.write_videos(tmp_path)
    assert checked(file, tmp_path) == 0
    alone = capsys.readouterr().out
    assert checked(file, tmp_path, "--num-workers", "2") == 0
    assert capsys.readouterr().out == alone
    assert row(alone, "steps between frames") == ["1", "1"]


def test_steps_are_those_of_the_numbers_that_change():
    frames = tuple(Path(f"aachen_000001_{number:06d}_leftImg8bit.png") for number in (0, 1, 2, 7))
    assert steps_of(Video("a", frames, (None,) * 4)) == {1: 2, 5: 1}


@pytest.mark.slow
def test_cityscapes_layout(shared, tmp_path, capsys):
    root = str(shared / "real" / "cityscapes")
    assert main(["Cityscapes", "--data-root", root, "--sheet", str(tmp_path / "sheet.png"), "--num-workers", "1"]) == 0
    text = capsys.readouterr().out
    assert row(text, "videos") == ["2", "1"]
    assert row(text, "frames") == ["60", "30"]
    assert row(text, "frames before a label") == ["19", "19"]
