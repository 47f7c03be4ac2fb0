"""Labels that a network makes for frames without one: a data set like the old one, with more of it labeled."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.cityscapes import find_clips, resolve_roots
from engine.pseudo_labels import main
from main import main as program
from models import VideoSegmenter
from models.inference.teacher import Teacher
from tests.engine.conftest import make_data_set
from utils.resize import resize_labels


def made(toytown, erfnet_file, out, *options: str) -> int:
    shared = f"{out} --data-root {toytown} --weights {erfnet_file} --device cpu"
    return main([*shared.split(), *options])


def labels_of(folder, split="train"):
    return {path.name: path for path in sorted((folder / "gtFine" / split).rglob("*.png"))}


def test_frames_without_a_label_get_what_the_network_sees(toytown, erfnet_file, tmp_path):
    out = tmp_path / "more"
    assert made(toytown, erfnet_file, out, "--confidence", "0") == 0
    before, after = labels_of(toytown), labels_of(out)
    clips = find_clips(resolve_roots(str(out)), "train", window=1)
    frames = list((toytown / "leftImg8bit_sequence" / "train").rglob("*.png"))
    assert len(clips) == len(frames) > len(before)
    for name, path in before.items():
        assert after[name].resolve() == path.resolve()
    assert labels_of(out, "val").keys() == labels_of(toytown, "val").keys()
    clip = next(clip for clip in clips if clip.label.name not in before)
    expected = VideoSegmenter(erfnet_file, baseline=True).push(np.array(Image.open(clip.frames[-1])))
    assert (np.array(Image.open(clip.label)) == expected).all()


def test_what_the_network_is_not_sure_of_is_ignored(toytown, erfnet_file, tmp_path):
    assert made(toytown, erfnet_file, tmp_path / "more", "--confidence", "1") == 0
    new = labels_of(tmp_path / "more").keys() - labels_of(toytown).keys()
    assert new
    for name in new:
        assert (np.array(Image.open(labels_of(tmp_path / "more")[name])) == 255).all()


def test_a_training_and_its_validation_read_them(command, toytown, erfnet_file, tmp_path):
    assert made(toytown, erfnet_file, tmp_path / "more", "--every", "2") == 0
    assert program(command("--training", "--num-epochs", "1", "--stm-queue-size", "1", data=tmp_path / "more")) == 0


def test_a_second_run_writes_only_what_is_missing(toytown, erfnet_file, tmp_path, capsys):
    out = tmp_path / "more"
    assert made(toytown, erfnet_file, out, "--every", "2") == 0
    times = {path: path.lstat().st_mtime_ns for path in labels_of(out).values()}
    removed = next(path for path in times if not path.is_symlink())
    removed.unlink()
    assert made(toytown, erfnet_file, out, "--every", "2") == 0
    assert {path for path, time in times.items() if path.lstat().st_mtime_ns != time} == {removed}
    assert made(toytown, erfnet_file, out) == 2
    assert "holds labels of other options" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--every", "0"], "argument --every: '0': expected a whole number of 1 or more"),
        (["--confidence", "nan"], "--confidence is nan: expected 0 to 1"),
        (["--data-root", "nowhere"], "no data folder|nowhere"),
        (["--weights", "nowhere.pth"], "nowhere.pth"),
        (["--backbone", "none"], "none"),
        (["--scales", "0"], "argument --scales: '0': expected a number from 0.25 to 4"),
        (
            ["--validation", "hamburg"],
            "--validation hamburg: expected the beginning of the names of some labeled snippets",
        ),
        (["--validation", "toytown"], "of some labeled snippets, not of all; there are toytown_000000, "),
    ],
)
def test_wrong_options_are_said_in_a_line(toytown, erfnet_file, tmp_path, capsys, options, said):
    assert made(toytown, erfnet_file, tmp_path / "more", *options) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("python -m engine.pseudo_labels: error: ")
    assert any(part in error for part in said.split("|"))


def test_the_data_set_itself_is_never_written_to(toytown, erfnet_file, capsys):
    assert made(toytown, erfnet_file, toytown) == 2
    assert "is the data set itself" in capsys.readouterr().err


@pytest.fixture
def hamlet(tmp_path):
    """A training and a validation snippet of four frames."""
    return make_data_set(tmp_path / "hamlet", train=1, val=1)


def test_one_snippet_in_it_and_the_others_have_the_networks_labels(hamlet, erfnet_file, tmp_path):
    out, words = tmp_path / "held_out", ["--validation", "toytown_000000", "--replace-labels", "--confidence", "0"]
    assert made(hamlet, erfnet_file, out, *words) == 0
    (label,) = labels_of(out, "val").values()  # of the snippet that was one to train on
    assert label.resolve() == labels_of(hamlet, "train")[label.name].resolve()
    frames = {split: list((out / "leftImg8bit_sequence" / split).rglob("*.png")) for split in ("train", "val")}
    assert [len(each) for each in frames.values()] == [4, 4]
    labels = labels_of(out)
    assert len(labels) == 4 and not any(path.is_symlink() for path in labels.values())
    assert all(name.startswith("toytown_000100") for name in labels)
    made_at = {path: path.stat().st_mtime_ns for path in labels.values()}
    assert made(hamlet, erfnet_file, out, *words) == 0  # again: nothing is missing
    assert {path: path.stat().st_mtime_ns for path in labels_of(out).values()} == made_at


def test_labels_are_the_teachers(hamlet, erfnet_file, tmp_path):
    out = tmp_path / "better"
    words = ["--confidence", "0", "--scales", "0.25", "--both-directions", "--every", "2"]
    assert made(hamlet, erfnet_file, out, *words) == 0
    new = sorted(labels_of(out).keys() - labels_of(hamlet).keys())
    assert [name.split("_")[2] for name in new] == ["000000", "000002"]
    paths = sorted((hamlet / "leftImg8bit_sequence" / "train").rglob("*.png"))
    teacher = Teacher(VideoSegmenter(erfnet_file, baseline=True), scales=[0.25], both_directions=True)
    expected = list(teacher.probabilities(np.array(Image.open(path)) for path in paths))
    for name, t in zip(new, (0, 2), strict=True):
        labels = resize_labels(expected[t].argmax(0).to(torch.uint8).numpy(), (64, 128))
        assert (np.array(Image.open(labels_of(out)[name])) == labels).all()


def test_a_folder_begun_before_there_were_these_options_goes_on(hamlet, erfnet_file, tmp_path):
    assert made(hamlet, erfnet_file, tmp_path / "old", "--every", "50") == 0
    assert (
        not {"flips", "scales", "validation"} & json.loads((tmp_path / "old" / "pseudo_labels.json").read_text()).keys()
    )
