"""A training that is stopped, damaged or short of disk: what is kept, and that it goes on as if nothing had been."""

import errno
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from datasets import retry
from main import main
from models.losses import WeightedCrossEntropy
from utils import tensor_files
from utils.errors import CheckpointError

PROJECT = Path(__file__).resolve().parents[3]
TRAIN = ("--training", "--num-epochs", "2", "--stm-queue-size", "1", "--lr-strategy", "plateau_08", "--iouTrain")


def read(path):
    return tensor_files.read(path, CheckpointError)


def assert_same_end(first: Path, second: Path) -> None:
    one, other = (read(folder / "checkpoint.pth.tar") for folder in (first, second))
    assert one["rows"] == other["rows"]
    assert all(torch.equal(tensor, other["state_dict"][name]) for name, tensor in one["state_dict"].items())
    assert read(first / "model_best.pth").keys() == read(second / "model_best.pth").keys()


# An epoch is five training clips, two a step, and three validation clips, each of which asks for a loss once.
@pytest.mark.parametrize(("call", "steps"), [(3, 2), (7, 3)], ids=["in a training step", "in the validation"])
def test_sigterm_writes_a_checkpoint_that_goes_on_bit_for_bit(command, tmp_path, monkeypatch, capsys, call, steps):
    assert main(command(*TRAIN, savedir=tmp_path / "whole")) == 0
    right, calls = WeightedCrossEntropy.forward, itertools.count(1)

    def with_a_signal(self, logits, label, *of_all):
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return right(self, logits, label, *of_all)

    with monkeypatch.context() as patch:
        patch.setattr(WeightedCrossEntropy, "forward", with_a_signal)
        assert main(command(*TRAIN)) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("main.py: stopped by SIGTERM; go on with --resume")
    stopped = read(tmp_path / "run" / "checkpoint.pth.tar")
    assert (stopped["epoch"], len(stopped["progress"]["losses"])) == (0, steps)
    assert main(command(*TRAIN, "--resume")) == 0
    assert_same_end(tmp_path / "whole", tmp_path / "run")


def test_a_second_run_in_one_folder_is_refused_until_the_first_is_gone(command, tmp_path, capsys):
    hold = (
        "import sys, time; from pathlib import Path; from utils.lock import FolderLock\n"
        "with FolderLock(Path(sys.argv[1]), '--savedir'): print('held', flush=True); time.sleep(600)"
    )
    (tmp_path / "run").mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "run")], cwd=PROJECT, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    assert main(command("--eval-mode", "--stm-queue-size", "1")) == 2
    assert f"in use by process {holder.pid} on " in capsys.readouterr().err.splitlines()[-1]
    holder.kill()
    holder.wait()
    assert main(command("--eval-mode", "--stm-queue-size", "1")) == 0
    assert f"process {holder.pid} on " in capsys.readouterr().err
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_damaged_checkpoint_is_said_and_the_one_before_it_used(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("engine.run_folder.RunFolder.remove_previous_checkpoint", lambda self: None)
    assert main(command(*TRAIN)) == 0
    path = tmp_path / "run" / "checkpoint.pth.tar"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of a weight, which PyTorch would not notice
    path.write_bytes(content)
    assert main(command(*TRAIN, "--resume")) == 0
    error = capsys.readouterr().err
    assert f"{path}: is no weight file, or damaged" in error
    assert f"{path}.previous: going on from this one" in error
    assert "1 epochs are done" in error
    assert read(path)["epoch"] == 2


@pytest.mark.parametrize(("failing", "status"), [(1, 0), (10**6, 2)], ids=["for a while", "to the end"])
def test_a_full_disk(command, tmp_path, monkeypatch, capsys, failing, status):
    right, calls = tensor_files._forget_cached, itertools.count(1)

    def full(file):
        if next(calls) <= failing:
            raise OSError(errno.ENOSPC, "No space left on device")
        right(file)

    monkeypatch.setattr(tensor_files, "_forget_cached", full)
    assert main(command(*TRAIN)) == status
    error = capsys.readouterr().err
    assert "could not be written (No space left on device): the last checkpoint stays, training goes on" in error
    run = tmp_path / "run"
    if status:
        assert "the last checkpoint could not be written" in error.splitlines()[-1]
        assert not (run / "checkpoint.pth.tar").exists()
    else:
        assert read(run / "checkpoint.pth.tar")["epoch"] == 2
        assert read(run / "model_best.pth")
    assert not list(run.glob(".*"))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_data_root_that_is_away_for_two_seconds(command, own_toytown, tmp_path, monkeypatch, capfd, workers):
    assert main(command(*TRAIN, data=own_toytown, savedir=tmp_path / "whole")) == 0
    away, noticed, calls = tmp_path / "away", multiprocessing.Event(), itertools.count(1)
    right_loss, right_saying = WeightedCrossEntropy.forward, retry.RetryPolicy._log_wait

    def back_in_two_seconds() -> None:
        noticed.wait(60)
        time.sleep(2)
        away.rename(own_toytown)

    def loss_with_a_removal(self, logits, label, *of_all):
        if next(calls) == 2:
            own_toytown.rename(away)
            threading.Thread(target=back_in_two_seconds).start()
        return right_loss(self, logits, label, *of_all)

    def noticed_saying(self, error):
        noticed.set()
        right_saying(self, error)

    monkeypatch.setattr(WeightedCrossEntropy, "forward", loss_with_a_removal)
    monkeypatch.setattr(retry.RetryPolicy, "_log_wait", noticed_saying)
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 0.3)
    monkeypatch.setattr(retry, "WAIT_GROWTH", 2.0)
    assert main(command(*TRAIN, "--num-workers", workers, data=own_toytown)) == 0
    error = capfd.readouterr().err
    assert "; trying again, up to 4 times" in error
    assert "the data can be read again after" in error
    assert_same_end(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_data_root_that_stays_away_ends_a_training_in_one_line(
    command, own_toytown, tmp_path, monkeypatch, capsys, workers
):
    right, calls = WeightedCrossEntropy.forward, itertools.count(1)

    def loss_with_a_removal(self, logits, label, *of_all):
        if next(calls) == 2:
            own_toytown.rename(tmp_path / "away")
        return right(self, logits, label, *of_all)

    monkeypatch.setattr(WeightedCrossEntropy, "forward", loss_with_a_removal)
    assert main(command(*TRAIN, "--num-workers", workers, "--retries", "0", data=own_toytown)) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith(f"main.py: error: no file {own_toytown}")
    assert "Traceback" not in error
    assert "trying again" not in error


def test_a_checkpoint_with_the_published_keys_goes_on_and_says_what_it_lacks(command, tmp_path, capsys):
    options = ("--training", "--stm-queue-size", "1", "--num-epochs")
    assert main(command(*options, "1")) == 0
    path = tmp_path / "run" / "checkpoint.pth.tar"
    content = read(path)
    torch.save({key: content[key] for key in ("epoch", "arch", "state_dict", "best_acc", "optimizer")}, path)
    assert main(command(*options, "2", "--resume")) == 0
    assert "lacks network, schedule, rows, random_states: goes on after epoch 1" in capsys.readouterr().err
    assert [row[0] for row in read(path)["rows"]] == [1, 2]


def test_an_error_of_the_program_itself_ends_it_with_its_workers(command):
    fails = (
        "import sys; from models.losses import WeightedCrossEntropy; from main import main\n"
        "WeightedCrossEntropy.forward = None\n"
        "sys.exit(main())"
    )
    arguments = [sys.executable, "-c", fails, *command(*TRAIN, "--num-workers", "2")]
    # Workers of a training ignore SIGTERM: an interpreter that ends while their loader lives waits without end.
    ended = subprocess.run(arguments, cwd=PROJECT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "TypeError: 'NoneType' object is not callable"


def test_accumulated_batches_in_16_bits_make_one_step(command, tmp_path):
    options = ("--training", "--stm-queue-size", "1", "--num-epochs", "1", "--accumulate", "2", "--amp", "bfloat16")
    assert main(command(*options)) == 0
    # Five clips in batches of two are three batches, which are two steps.
    steps = {
        int(state["step"]) for state in read(tmp_path / "run" / "checkpoint.pth.tar")["optimizer"]["state"].values()
    }
    assert steps == {2}
