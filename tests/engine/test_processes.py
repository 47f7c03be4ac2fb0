"""Several processes train and evaluate as one; whichever fails is named, and none is left."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils import checkpoint
from utils.errors import CheckpointError

PROJECT = Path(__file__).resolve().parents[2]
WITHOUT_DROPOUT = "tests/engine/without_dropout.py"
SMALL = ("--stm-queue-size", "1")


def started(arguments: list[str], *launcher: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *(launcher or ("main.py",)), *arguments],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def torchrun(processes: int, script: str = "main.py") -> tuple[str, ...]:
    return ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), script)


def checkpoint_of(folder: Path) -> dict:
    return checkpoint.read(folder / "checkpoint.pth.tar", CheckpointError)


def wait_for(condition, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def ranks_of(pid: int) -> list[int]:
    """The processes with a rank below a launcher, by rank."""
    by_rank = {}
    for child in children_of(pid):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks = [int(each[5:]) for each in variables if each.startswith(b"RANK=")]
        by_rank |= dict.fromkeys(ranks, child)
    return [by_rank[rank] for rank in sorted(by_rank)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
    except FileNotFoundError:
        return False


def assert_same_training(command, tmp_path, processes, epochs):
    """Six clips a step, one step an epoch, all parts trained; four validation clips, which three do not divide."""
    options = ("--training", "--num-epochs", str(epochs), "--train-encoder", "--train-decoder", "--iouTrain", *SMALL)
    runs = {}
    for count in processes:
        folder = tmp_path / f"run_{count}"
        arguments = command(*options, "--batch-size", str(6 // count), data=tmp_path / "six", savedir=folder)
        run = started(arguments, *torchrun(count, WITHOUT_DROPOUT), DOUBLE="1")
        error = run.communicate(timeout=900)[1]
        assert run.returncode == 0, error
        assert f"a step takes 6 clips ({count} processes x batch {6 // count} x 1), learning rate 5e-05" in error
        runs[count] = checkpoint_of(folder)
    one = runs.pop(1)
    for several in runs.values():
        for name, tensor in one["state_dict"].items():
            assert (tensor - several["state_dict"][name]).abs().max() < 1e-5, name
        # Both IoUs, which follow from counts: exactly.
        assert [row[3:] for row in one["rows"]] == [row[3:] for row in several["rows"]]


def test_two_processes_learn_what_one_does(command, tmp_path, six_clips):
    assert_same_training(command, tmp_path, (1, 2), epochs=1)


@pytest.mark.slow
def test_one_two_and_three_processes_learn_the_same_in_20_steps(command, tmp_path, six_clips):
    assert_same_training(command, tmp_path, (1, 2, 3), epochs=20)


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
