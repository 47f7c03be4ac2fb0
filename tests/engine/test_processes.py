"""Several processes train and evaluate as one; whichever fails is named, and none is left."""

import os
import subprocess
import sys
import time
from pathlib import Path

from utils import checkpoint
from utils.errors import CheckpointError

PROJECT = Path(__file__).resolve().parents[2]
WITHOUT_DROPOUT = "tests/engine/without_dropout.py"


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


def test_one_two_and_three_processes_learn_the_same(command, tmp_path):
    # Five clips: with two and three processes one is repeated, so six are asked for, in a set that divides.
    from tests_data import make_data_set

    data = make_data_set(tmp_path / "toytown", train=6, val=4)
    options = ("--training", "--num-epochs", "20", "--train-encoder", "--train-decoder", "--iouTrain")
    runs = {}
    for processes in (1, 2, 3):
        folder = tmp_path / f"run_{processes}"
        arguments = command(*options, "--batch-size", str(6 // processes), data=data, savedir=folder)
        run = started(arguments, *torchrun(processes, WITHOUT_DROPOUT))
        error = run.communicate(timeout=300)[1]
        assert run.returncode == 0, error
        runs[processes] = checkpoint_of(folder)
        assert (
            f"a step takes 6 clips ({processes} processes x batch {6 // processes} x 1), learning rate 5e-05" in error
        )
    for processes in (2, 3):
        apart = {
            name: (tensor - runs[processes]["state_dict"][name]).abs().max().item()
            for name, tensor in runs[1]["state_dict"].items()
            if tensor.is_floating_point()
        }
        assert max(apart.values()) < 1e-5, sorted(apart.items(), key=lambda item: -item[1])[:5]
        assert [row[3:] for row in runs[1]["rows"]] == [row[3:] for row in runs[processes]["rows"]]
