"""What docs/data.md says: from a video to a trained network in five commands, and the layouts that it draws."""

import json
import re
import shlex
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import check
from datasets.registry import dataset_named
from datasets.yaml_description import KEYS
from main import main
from tests import farm
from tests.engine.videos import write_video

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs" / "data.md").read_text()
WAY = DOCUMENT.partition("## From a video of mine")[2].partition("\n## ")[0]
COMMANDS = [shlex.split(line) for line in re.findall(r"^    python (.+)$", WAY, re.MULTILINE)]
FARM = re.search(r"^```yaml\n# farm/farm.yaml\n(.*?)^```$", WAY, re.MULTILINE | re.DOTALL)[1]
SHORT = ("--device", "cpu", "--num-workers", "0", "--corr-size", "3", "--num-epochs", "1")


def write_drawn_folder(root: Path) -> None:
    """The folder that the document draws, with videos of 66 frames."""
    for video, split in (("drive", "train"), ("walk", "val")):
        (root / split).mkdir(parents=True)
        frames = [np.kron(frame, np.ones((2, 2, 1), np.uint8)) for frame, _ in farm.pictures(video)]
        write_video(root / split / f"{video}.mp4", frames * 11)
    for label in ("drive/000030", "drive/000060", "walk/000030"):
        assert f"masks/{label}.png" in WAY
        indices = np.minimum(farm.pictures(label.partition("/")[0])[0][1], 2)
        farm.save(root / "masks" / f"{label}.png", np.kron(indices, np.ones((2, 2), np.uint8)))
    (root / "farm.yaml").write_text(FARM)


@pytest.mark.slow
def test_from_a_video_to_a_trained_network_in_five_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    write_drawn_folder(Path("farm"))
    assert [command[0] for command in COMMANDS] == ["-m", *["main.py"] * 4]
    assert check.main([*COMMANDS[0][2:], "--num-workers", "1"]) == 0
    assert Path("farm/sheet.png").is_file()
    for command in COMMANDS[1:]:
        words = ["64x128" if word == "256x512" else word for word in command[1:]]
        assert main([*words, *(SHORT if "--training" in words else SHORT[:2])]) == 0
    assert list(json.loads(Path("save/farm_eval/report.json").read_text())["iou"]) == ["ground", "barn", "sheep"]
    with zipfile.ZipFile("save/farm_stream/cvat.zip") as file:
        assert len([name for name in file.namelist() if name.startswith("SegmentationClass/")]) == 11 * farm.FRAMES


def test_every_key_is_explained():
    table = DOCUMENT.partition("## The keys")[2].partition("\n\n**")[0]
    assert set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|(.*?)\|", table, re.MULTILINE)))) == set(KEYS)


def test_drawn_layouts_are_read(tmp_path):
    """Each drawing's right column are the keys, its left column the files."""
    section = DOCUMENT.partition("## Layouts")[2].partition("\n## ")[0]
    drawings = re.findall(r"(?:^    \S.*\n|^ {20,}\S.*\n)+", section, re.MULTILINE)
    assert len(drawings) == 5
    for number, drawing in enumerate(drawings):
        root, files, keys = tmp_path / str(number), [], {}
        for line in drawing.splitlines():
            left, right = line[:54].strip(), line[54:].partition("       (")[0].strip()
            files += [left] if left else []
            if ": " in right:
                key, _, value = right.partition(": ")
                keys[key] = value
        write_files(root, files)
        keys.setdefault("val", keys["train"].replace("train", "val"))
        text = "".join(f"{key}: {value}\n" for key, value in keys.items())
        (root / "own.yaml").write_text(f"{text}names: [a, b]\n")
        dataset = dataset_named(str(root / "own.yaml"))
        for split in ("train", "val"):
            labels = [label for video in dataset.videos(dataset.root(None), split) for label in video.labels]
            assert any(labels), (drawing, split)


def write_files(root: Path, files: list[str]) -> None:
    for split in ("train", "val"):
        for file in files:
            if not file.startswith("(") and ("{train,val}" in file or split in file or "/" in file):
                name = file.replace("{train,val}", split).replace("VIDEO", f"drive_{split}")
                path = root / (re.sub(r"^train/", f"{split}/", name))
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix == ".mp4":
                    write_video(path, [frame for frame, _ in farm.pictures("one") * 6])
                else:
                    path.touch()
                    if "0001" not in file or "mask" in file:  # a label: its frame
                        continue
                    path.with_name(path.name.replace("0001", "0030")).touch()
        (root / f"{split}.txt").write_text(f"data/drive_{split}\n")
