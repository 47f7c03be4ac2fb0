"""Command lines in processes of their own, and a look at the processes below them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from utils import tensor_files
from utils.errors import CheckpointError

PROJECT = Path(__file__).resolve().parents[2]


def started(arguments: list[str], *launcher: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *(launcher or ("main.py",)), *arguments],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell starts what runs in its background with Ctrl-C ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def checkpoint_of(folder: Path) -> dict:
    return tensor_files.read(folder / "checkpoint.pth.tar", CheckpointError)


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


def assert_same_end(first: Path, second: Path) -> None:
    """Two trainings ended with the same figures and weights, bit for bit."""
    one, other = checkpoint_of(first), checkpoint_of(second)
    assert one["rows"] == other["rows"]
    assert all(torch.equal(tensor, other["state_dict"][name]) for name, tensor in one["state_dict"].items())
