"""Held-out clips that choose the best epoch, and the end of a training that no longer gets better."""

import pytest
import torch

from engine.run_folder import EpochRow
from engine.training.checkpoint import Training
from main import main
from tests.engine.running import checkpoint_of, started


class Rows(Training):
    """The rows of a training alone."""

    def __init__(self, *ious: float):
        self.rows = [EpochRow(number, 1.0, 1.0 - iou, 0.0, iou, 1e-3) for number, iou in enumerate(ious, start=1)]


@pytest.mark.parametrize(
    ("ious", "patience", "stalled"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),  # equal is not better
        ([0.5, 0.4], 2, False),
        ([0.5, 0.4, 0.45], 2, True),
        ([0.5, 0.4, 0.6], 2, False),
        ([0.5, 0.6, 0.4, 0.3], 3, False),
        ([0.5, 0.4, 0.3], 0, False),
    ],
)
@pytest.mark.parametrize("by_iou", [True, False])
def test_a_training_has_stalled_after_that_many_epochs_that_are_not_better(ious, patience, stalled, by_iou):
    assert Rows(*ious).has_stalled(patience, by_iou) is stalled


def test_held_out_clips_are_neither_trained_on_nor_of_the_split_val(command, tmp_path, capsys):
    options = ["--training", "--hold-out", "0.4", "--num-epochs", "1", "--seed", "3"]
    assert main(command(*options)) == 0
    printed = capsys.readouterr()
    assert "3 training and 2 validation clips" in printed.err
    scenes = checkpoint_of(tmp_path / "run")["validation"]["scenes"]
    assert len(scenes) == 2 and all(scene.startswith("toytown_00000") for scene in scenes)
    assert f"validated on 2 held-out videos ({', '.join(scenes)}), drawn by --seed 3" in printed.err
    assert "of the held-out clips" in printed.out
    assert "hold_out: 0.4" in (tmp_path / "run" / "args.txt").read_text()


@pytest.mark.slow
def test_a_training_ends_early_and_a_resumed_one_keeps_split_and_patience(command, tmp_path, capsys):
    def trained(name: str, *options: str) -> list:
        assert main(command("--training", "--lr-start", "0.5", *options, savedir=tmp_path / name)) == 0
        return checkpoint_of(tmp_path / name)["rows"]

    early = ["--hold-out", "0.4", "--patience", "2"]
    whole = trained("whole", *early, "--num-epochs", "12", "--lr-strategy", "plateau_08")
    best = max(range(len(whole)), key=lambda place: whole[place][4])
    assert len(whole) == best + 3 < 12
    assert f"no epoch since {best + 1} was better" in capsys.readouterr().err
    trained("parts", *early, "--num-epochs", "1", "--lr-strategy", "plateau_08")
    assert trained("parts", "--resume", "--num-epochs", "12", "--lr-strategy", "plateau_08") == whole
    # All epochs are done.
    assert trained("parts", "--resume", "--num-epochs", "12", "--lr-strategy", "plateau_08") == whole


@pytest.mark.slow
def test_another_split_is_refused_when_a_training_is_resumed(command, tmp_path, capsys):
    assert main(command("--training", "--hold-out", "0.4", "--num-epochs", "1")) == 0
    for options, said in (
        (["--hold-out", "0.2"], "contradicts"),
        (["--seed", "9"], "give the same data, --seed and --hold-out"),
    ):
        capsys.readouterr()
        assert main(command("--training", "--resume", "--num-epochs", "2", *options)) == 2
        assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_hold_out_the_same_clips(command, six_clips, tmp_path):
    rows = []
    for name, options in (("one", ["--batch-size", "2"]), ("two", ["--gpus", "2", "--batch-size", "1"])):
        arguments = ["--training", "--hold-out", "0.3", "--patience", "1", "--num-epochs", "3", *options]
        run = started(command(*arguments, data=six_clips, savedir=tmp_path / name))
        _, error = run.communicate(timeout=400)
        assert run.returncode == 0, error
        rows.append(checkpoint_of(tmp_path / name))
    assert rows[0]["rows"] == rows[1]["rows"] and rows[0]["validation"] == rows[1]["validation"]
    assert all(torch.equal(tensor, rows[1]["state_dict"][name]) for name, tensor in rows[0]["state_dict"].items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--training --hold-out 1", "expected a share from 0 to below 1"),
        ("--training --hold-out -0.1", "expected a share from 0 to below 1"),
        ("--training --hold-out nan", "expected a share from 0 to below 1"),
        ("--training --patience -1", "expected 0 or more"),
        ("--eval-mode --hold-out 0.1", "belongs to --training"),
        ("--eval-mode --patience 2", "belongs to --training"),
    ],
)
def test_options_that_are_wrong_are_refused_in_one_line(command, options, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command(*options.split()))
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert said in message and message.count("\n") == 1
