"""A run's folder: earlier trainings set aside, what killed runs left, and what a refused run leaves alone."""

import os

import pytest

from engine.run_folder import RunFolder
from main import main
from utils.files import part_name


@pytest.mark.parametrize(
    ("there", "expected"),
    [
        ([], 1),
        (["previous_1"], 2),
        (["previous_2"], 3),
        (["previous_1", "previous_10"], 11),
        (["previous_old", "previous_²", "previous_-4", "previous_007"], 8),
    ],
)
def test_an_earlier_training_is_set_aside_above_all_others(tmp_path, there, expected):
    for name in there:
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint.pth.tar").write_text("first")
    RunFolder(tmp_path, shallow=False).set_earlier_training_aside()
    assert sorted(os.listdir(tmp_path)) == sorted([*there, f"previous_{expected}"])
    assert (tmp_path / f"previous_{expected}" / "checkpoint.pth.tar").read_text() == "first"


def test_what_killed_runs_left_is_removed_in_all_folders_of_a_run(tmp_path):
    folders = [tmp_path / each for each in ("", "images", "predictions/aachen", "labels", "probabilities", "visdom")]
    parts = [folder / part_name("a.png").replace(str(os.getpid()), "999999999") for folder in folders]
    for part in parts:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        (part.parent / "a.png").touch()
    elsewhere = tmp_path.with_name(f"{tmp_path.name}_elsewhere")
    elsewhere.mkdir()
    (elsewhere / part_name("b.png")).touch()
    (tmp_path / "predictions" / "link").symlink_to(elsewhere)
    with RunFolder(tmp_path, shallow=False).locked():
        assert not [part for part in parts if part.exists()]
        assert all((part.parent / "a.png").exists() for part in parts)
    assert len(list(elsewhere.iterdir())) == 1


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_refused_run_leaves_what_was_there(command, tmp_path, capsys):
    assert main(command("--training", "--num-epochs", "1", "--baseline-mode", "--train-decoder")) == 0
    before = contents(tmp_path / "run")
    training = ("--training", "--num-epochs", "2", "--train-decoder")
    for options in (
        (*training, "--baseline-mode", "--resume", "--lr-strategy", "plateau_08"),
        (*training, "--resume", "--stm-queue-size", "2"),
        (*training, "--baseline-mode", "--warm-start", "2"),
        ("--eval-mode", "--corr-size", "5", "--consistency", "--save-images", "--device", "mps"),
    ):
        assert main(command(*options)) == 2
        assert contents(tmp_path / "run") == before, options
