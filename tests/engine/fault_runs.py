"""Runs of a mode in which one write, sync or rename fails: for a process with faults.c loaded before all else.

    fault_runs.py MODE LIBRARY FOLDER    prints a line of JSON: calls, sites, runs, and what went wrong in which of them

A call site is a write, sync or rename of a file; of a file that takes many writes the first, a middle and the last.
"""

import contextlib
import ctypes
import errno
import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import av
import cv2
import numpy as np
import torch

from main import main
from models import build_lmanet
from models.weights.export import published_state_dict
from tests.engine.conftest import make_data_set
from tests.engine.videos import moving_blocks, write_folder
from tests.networks import LMANetConfig
from utils import tensor_files
from utils.errors import CheckpointError
from utils.files import PART

FRAMES = 3
SHORT = -1
# Of each kind of call: what it ends with, and whether later writes do, too.
FAULTS = {
    "w": ((SHORT, False), (errno.ENOSPC, True), (errno.EIO, False), (errno.EINTR, False)),
    "s": ((errno.ENOSPC, False), (errno.EIO, False), (errno.EINTR, False)),
    "r": ((errno.ENOSPC, False), (errno.EIO, False), (errno.EINTR, False)),
}
HARMLESS = (SHORT, errno.EINTR)  # such a run ends as one without a fault


class Runs:
    """The runs of one command line, each in a folder of its own."""

    def __init__(self, library: Path, folder: Path, arguments: list[str]):
        self.faults, self.folder, self.arguments = ctypes.CDLL(str(library)), folder, arguments
        self.faults.faults_call.restype = ctypes.c_char_p
        self.faults.faults_count.restype = ctypes.c_long

    def run(self, number: int = -1, fault: int = 0, lasts: bool = False) -> tuple[int, str, Path]:
        """The status, the text on standard error, and the folder of a run whose call ``number`` fails."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        self.faults.faults_begin(str(run).encode(), ctypes.c_long(number), fault, int(lasts))
        with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()):
            try:
                status = main([*self.arguments, "--savedir", str(run)])
            finally:
                self.faults.faults_begin(b"", ctypes.c_long(-1), 0, 0)
        return status, error.getvalue(), run

    def calls(self) -> list[str]:
        self.run()
        return [self.faults.faults_call(ctypes.c_long(i)).decode() for i in range(self.faults.faults_count())]


def sites(calls: list[str]) -> list[int]:
    """Numbers of the calls that are to fail."""
    by_site: dict[str, list[int]] = {}
    for number, call in enumerate(calls):
        by_site.setdefault(re.sub(r"\.[0-9a-f]{8}-\d+-[0-9a-f]{8}\.part", PART, call), []).append(number)
    chosen = [{each[0], each[len(each) // 2], each[-1]} if call[0] == "w" else each for call, each in by_site.items()]
    return sorted(number for each in chosen for number in each)


def frames_that_play(path: Path) -> int:
    with av.open(str(path)) as container:
        return len(list(container.decode(video=0)))


CHECKS: dict[str, Callable[[Path], object]] = {
    ".json": lambda path: json.loads(path.read_text(), parse_constant=float.fromhex),
    ".png": lambda path: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) is not None,
    ".npy": lambda path: np.isfinite(np.load(path)).all(),
    ".mp4": frames_that_play,  # of a stream that another output ended, fewer than its source has
    ".pth": lambda path: tensor_files.read(path, CheckpointError),
    ".tar": lambda path: tensor_files.read(path, CheckpointError),
    ".previous": lambda path: tensor_files.read(path, CheckpointError),
    ".html": lambda path: path.read_text().rstrip().endswith("</html>"),
    ".py": lambda path: path.read_text() == Path("models/lmanet.py").read_text(),
    ".txt": lambda path: path.read_text().endswith("\n"),
    "": lambda path: path.name in (".lock", ".stream_files"),
}


def problems(status: int, error: str, run: Path, expected: set[str], harmless: bool) -> list[str]:
    """What is wrong after a run: files under a final name that are not whole, and words that are not true."""
    found = []
    there = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()} if run.is_dir() else set()
    for name in sorted(there):
        if name.endswith(".partial.mp4"):
            continue
        try:
            whole = CHECKS[Path(name).suffix](run / name)
        except Exception as reason:
            whole, error = False, f"{error}\n{reason!r}"
        if not whole:
            found.append(f"{name} is not whole: {error[-300:]}")
    if harmless and (status != 0 or there != expected):
        found.append(f"ended with {status}, with {sorted(there ^ expected)}: {error[-300:]}")
    if status == 0 and expected - there:
        found.append(f"ended well, without {sorted(expected - there)}")
    if status == 0 and (run / "overlay.mp4").is_file() and frames_that_play(run / "overlay.mp4") != FRAMES:
        found.append("ended well, and a frame of the video is missing")
    if status not in (0, 1, 2) or "Traceback" in error:
        found.append(f"ended with {status}: {error[-500:]}")
    if status and not error.splitlines()[-1].startswith("main.py: error: "):
        found.append(f"its last line is {error.splitlines()[-1]}")
    summary = run / "stream.json"
    if summary.is_file() and json.loads(summary.read_text())["complete"] and status == 1:
        outputs = {name for name in expected if not name.startswith(("stream.", "."))}
        if not outputs <= there:
            found.append(f"complete, without {sorted(outputs - there)}")
    return found


def arguments_of(mode: str, folder: Path) -> list[str]:
    torch.manual_seed(1)
    weights = folder / "weights.pth"
    torch.save(published_state_dict(build_lmanet(LMANetConfig(baseline=True))), weights)
    shared = f"--weights {weights} --work-size 32x64 --device cpu --baseline-mode"
    if mode == "stream":
        frames = write_folder(folder / "in", moving_blocks(FRAMES))
        outputs = "--save-video overlay --save-labels trainIds --save-probabilities"
        return [*f"--stream {frames} {shared} {outputs}".split()]
    data = make_data_set(folder / "data", train=2, val=2)
    shared += f" --data-root {data} --num-workers 0 --batch-size 1"
    if mode == "evaluation":
        return f"--eval-mode --loss --save-images --save-all-vals {shared}".split()
    return f"--training --train-decoder --num-epochs 2 --epochs-save 1 {shared}".split()


def report(mode: str, library: Path, folder: Path) -> dict:
    runs = Runs(library, folder, arguments_of(mode, folder))
    runs.run()  # what is done once, such as compiling
    calls = runs.calls()
    expected = {str(path.relative_to(folder / "run")) for path in (folder / "run").rglob("*") if path.is_file()}
    chosen, count, wrong = sites(calls), 0, []
    for number in chosen:
        for fault, lasts in FAULTS[calls[number][0]]:
            count += 1
            try:
                status, error, run = runs.run(number, fault, lasts)
                found = problems(status, error, run, expected, fault in HARMLESS)
            except BaseException as unexpected:
                found = [f"traceback: {unexpected!r}"]
            name = "short" if fault == SHORT else errno.errorcode[fault]
            wrong += [f"{name} at call {number}, {calls[number]}: {each}" for each in found]
    return {"calls": len(calls), "sites": len(chosen), "runs": count, "wrong": wrong}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(report(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))
