"""Labels that a network makes for frames without one: a data set like the old one, with more of it labeled."""

import numpy as np
import pytest
from PIL import Image

from datasets.cityscapes import find_clips, resolve_roots
from engine.pseudo_labels import main
from main import main as program
from models import VideoSegmenter


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
