"""Trainings of which a part is killed: they go on, by themselves or with --resume, and end as if nothing had been."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.engine.running import assert_same_end, checkpoint_of, children_of, is_alive, ranks_of, started, wait_for

OPTIONS = "--training --num-epochs 3 --steps-save 1 --stm-queue-size 1 --batch-size 1 --iouTrain --num-workers 1"
TRAIN = (*OPTIONS.split(), "--lr-strategy", "plateau_08")
TWO = ("--gpus", "2")


def is_in_second_epoch(savedir: Path) -> bool:
    """Whether there is a checkpoint from the middle of an epoch that is not the first."""
    if not (savedir / "checkpoint.pth.tar").exists():
        return False
    content = checkpoint_of(savedir)
    return content["epoch"] >= 1 and len(content["progress"]["losses"]) >= 1


def wait_for_second_epoch(savedir: Path, *runs: subprocess.Popen) -> None:
    wait_for(lambda: is_in_second_epoch(savedir) or any(run.poll() is not None for run in runs), 300)
    assert all(run.poll() is None for run in runs), [run.communicate() for run in runs]


def ended(run: subprocess.Popen, status: int = 0) -> str:
    error = run.communicate(timeout=600)[1]
    assert run.returncode == status, error
    return error


@pytest.fixture
def arguments(command, six_clips, tmp_path):
    def of_run(name: str, *options: str) -> list[str]:
        return command(*TRAIN, *options, data=six_clips, savedir=tmp_path / name)

    return of_run


@pytest.mark.slow
def test_a_killed_data_worker_is_named_and_the_training_goes_on(arguments, tmp_path):
    ended(started(arguments("whole")))
    run = started(arguments("run"))
    wait_for_second_epoch(tmp_path / "run", run)
    worker = children_of(run.pid)[0]
    os.kill(worker, signal.SIGKILL)
    start = time.monotonic()
    lines = ended(run, status=2).splitlines()
    assert time.monotonic() - start < 60
    assert lines[-1].startswith("main.py: error: a process that reads the data ended (DataLoader worker ")
    assert str(worker) in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert not is_alive(worker)
    assert not (tmp_path / "run" / ".lock").exists()
    ended(started(arguments("run", "--resume")))
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_of_two_that_is_stopped_and_resumed(arguments, tmp_path):
    ended(started(arguments("whole", *TWO)))
    run = started(arguments("run", *TWO))
    wait_for_second_epoch(tmp_path / "run", run)
    run.send_signal(signal.SIGTERM)
    ended(run, status=143)
    assert checkpoint_of(tmp_path / "run")["epoch"] < 3
    ended(started(arguments("run", *TWO, "--resume")))
    assert_same_end(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_a_run_of_two_restarts_by_itself(arguments, tmp_path):
    ended(started(arguments("whole", *TWO)))
    run = started(arguments("run", *TWO, "--max-restarts", "1"))
    wait_for_second_epoch(tmp_path / "run", run)
    os.kill(ranks_of(run.pid)[1], signal.SIGKILL)
    assert "epochs are done" in ended(run)
    assert_same_end(tmp_path / "run", tmp_path / "whole")


def agent(arguments: list[str], port: int) -> subprocess.Popen:
    """One of two machines, as torchrun sees it, with one process.

    Left to itself, the agent of rank 0 does not tell its address to one that takes the place of another.
    """
    options = f"--nnodes 2 --nproc-per-node 1 --max-restarts 3 --rdzv-backend c10d --rdzv-endpoint localhost:{port}"
    launcher = ("-m", "torch.distributed.run", *options.split(), "--rdzv-id", "a_run", "--monitor-interval", "0.2")
    options = ("--local-addr", "localhost", "main.py")
    return started(arguments, *launcher, *options, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["worker", "agent"])
def test_one_of_two_machines_is_killed(arguments, tmp_path, killed):
    ended(started(arguments("whole", *TWO)))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    first = agent(arguments("run"), port)
    wait_for(lambda: listens(port))  # the first agent holds the list of those that take part
    second = agent(arguments("run"), port)
    wait_for_second_epoch(tmp_path / "run", first, second)
    worker = ranks_of(second.pid)[0]
    os.kill(worker, signal.SIGKILL)
    if killed == "agent":
        second.kill()
        second.communicate(timeout=60)
        second = agent(arguments("run"), port)
    errors = ended(first), ended(second)
    assert any("epochs are done" in error for error in errors)
    assert_same_end(tmp_path / "run", tmp_path / "whole")
