"""Several processes train and evaluate as one; whichever fails is named, and none is left."""

import json
import math
import os
import re
import signal
import time

import pytest

from tests.engine.conftest import make_data_set
from tests.engine.running import checkpoint_of, children_of, is_alive, ranks_of, started, wait_for

SMALL = ("--stm-queue-size", "1")


def assert_same_training(command, tmp_path, clips, processes, epochs, *more):
    """Six clips a step, all parts trained, and five validation clips, which neither two nor three divide."""
    data = make_data_set(tmp_path / "data", train=clips, val=5)
    options = ("--training", "--num-epochs", str(epochs), "--train-encoder", "--train-decoder", "--iouTrain", *SMALL)
    runs = {}
    for count in processes:
        folder, sizes = tmp_path / f"run_{count}", ("--gpus", str(count), "--batch-size", str(6 // count))
        run = started(command(*options, *sizes, *more, data=data, savedir=folder))
        error = run.communicate(timeout=600)[1]
        assert run.returncode == 0, error
        assert f"a step takes 6 clips ({count} processes x batch {6 // count} x 1), learning rate 5e-05" in error
        runs[count] = checkpoint_of(folder)
    one = runs.pop(1)
    steps = {int(state["step"]) for state in one["optimizer"]["state"].values()}
    assert steps == {epochs * math.ceil(clips / 6)}
    for count, several in runs.items():
        differences = [(tensor - several["state_dict"][name]).abs().max() for name, tensor in one["state_dict"].items()]
        print(f"{clips} clips, {max(steps)} steps, 1 and {count} processes: weights differ by {max(differences):.1e}")
        # Mostly by nothing. Sums in double differ in their last bits, which hardly ever shows in single precision.
        assert max(differences) < 1e-6
        for ours, theirs in zip(one["rows"], several["rows"], strict=True):
            assert ours[1:3] == pytest.approx(theirs[1:3], rel=1e-9)
            # Both IoUs, which follow from counts: exactly.
            assert ours[3:] == theirs[3:]


def test_two_processes_learn_what_one_does(command, tmp_path):
    # Of the seven clips, the second step of an epoch takes one: the second process has none.
    assert_same_training(command, tmp_path, 7, (1, 2), 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clips", "epochs", "more"),
    [
        (6, 20, ()),
        (7, 10, ("--memory-strategy", "random", "--win-size", "3")),
        (10, 10, ("--model-struct", "aux_mem_loss", "--learnable-constant", "--amp", "bfloat16")),
    ],
    ids=["whole steps", "a rest of one", "a rest of four"],
)
def test_one_two_and_three_processes_learn_the_same_in_20_steps(command, tmp_path, clips, epochs, more):
    assert_same_training(command, tmp_path, clips, (1, 2, 3), epochs, *more)


def test_two_processes_count_an_odd_number_of_clips_exactly(command, tmp_path):
    ious = []
    for count in (1, 2):
        run = started(command("--eval-mode", "--gpus", str(count), *SMALL, savedir=tmp_path / str(count)))
        error = run.communicate(timeout=300)[1]
        assert run.returncode == 0, error
        report = json.loads((tmp_path / str(count) / "report.json").read_text())
        assert (report["clips"], report["processes"]) == (3, count)
        page = (tmp_path / str(count) / "report.html").read_text()
        clips = list(report["clip_mean_iou"].items())
        assert len(clips) == 3
        ious.append((report["iou"], report["mean_iou"], clips, re.findall(r"toytown_\d{6}_\d{6}", page)))
    assert ious[0] == ious[1]


def test_a_wrong_input_in_one_rank_is_said_once(command, own_toytown):
    damaged = next((own_toytown / "leftImg8bit_sequence/val/toytown").glob("toytown_000101_000003*"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    run = started(command("--eval-mode", "--gpus", "2", *SMALL, data=own_toytown))
    error = run.communicate(timeout=300)[1]
    assert run.returncode == 2
    assert [line for line in error.splitlines() if "error" in line] == [error.splitlines()[-1]]
    assert error.splitlines()[-1].startswith("main.py: error: ")
    assert damaged.name in error.splitlines()[-1]


@pytest.mark.slow
def test_a_killed_rank_is_named_and_no_process_is_left(command, tmp_path):
    options = ("--training", "--gpus", "2", "--num-epochs", "1000", "--num-workers", "1", *SMALL)
    run = started(command(*options))
    wait_for(lambda: (tmp_path / "run" / "checkpoint.pth.tar").exists() or run.poll() is not None)
    ranks = ranks_of(run.pid)
    workers = [worker for rank in ranks for worker in children_of(rank)]
    os.kill(ranks[1], signal.SIGKILL)
    start = time.monotonic()
    error = run.communicate(timeout=60)[1]
    assert time.monotonic() - start < 60
    assert run.returncode == 1
    assert f"rank 1 (process {ranks[1]}) was killed by SIGKILL; all others were ended; go on with --resume" in error
    assert "Traceback" not in error
    wait_for(lambda: not any(map(is_alive, ranks + workers)), seconds=15)
