"""Kills a small training at random moments, lets writes of its checkpoints fail, and resumes it each time.

    PYTHONPATH=. python tests/soak.py [--kills 100] [--write-errors 50] [--folder DIR]

A third of the kills (SIGKILL) fall while a checkpoint is being written. After each the folder must be readable, and at
the end the weights must equal, bit for bit, those of a training that nobody disturbed. How long a process lives is
drawn in units of what it takes from its start to its first checkpoint, so that it gets on wherever this runs.
"""

import argparse
import errno
import importlib.util
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

import main as program
from models import build_lmanet
from models.weights.export import published_state_dict
from tests.networks import LMANetConfig
from utils import tensor_files
from utils.errors import CheckpointError
from utils.files import PART

STEPS_AN_EPOCH = 3
OPTIONS = (
    "--training --work-size 32x64 --corr-size 3 --stm-queue-size 1 --num-workers 0 --batch-size 2 --steps-save 1 "
    "--device cpu --lr-strategy plateau_08 --train-decoder"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--write-errors", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=None, help="default: a temporary one")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        return soak(Path(folder), options.kills, options.write_errors)


def soak(folder: Path, kills: int, write_errors: int) -> int:
    prepare(folder)
    start = time.perf_counter()
    disturbed, counts = folder / "disturbed", {"kills": 0, "while writing": 0, "write errors": 0, "fresh starts": 0}
    epochs, typical = 1, seconds_to_a_checkpoint(folder, disturbed)
    while counts["kills"] < kills or counts["write errors"] < write_errors:
        fails = counts["write errors"] * max(kills, 1) < counts["kills"] * write_errors or counts["kills"] >= kills
        if not (disturbed / "checkpoint.pth.tar").exists():
            counts["fresh starts"] += 1
        child = begun(folder, disturbed, 1_000_000, broken_writes=fails)
        if fails:
            status = ended(child)
            assert os.waitstatus_to_exitcode(status) in (2, 143), status
            counts["write errors"] += 1
        else:
            in_writing = counts["while writing"] * 3 < counts["kills"] + 1
            counts["while writing"] += killed(child, disturbed, random.uniform(0.1, 2.5) * typical, in_writing)
            counts["kills"] += 1
        epochs = max(epochs, check_readable(disturbed))
    # Both end at the same epoch; the last run of the disturbed one is left alone.
    last = epochs + 1
    assert ended(begun(folder, disturbed, last)) == 0
    assert ended(begun(folder, folder / "undisturbed", last)) == 0
    first, second = (
        tensor_files.read(folder / name / "checkpoint.pth.tar", CheckpointError)
        for name in ("disturbed", "undisturbed")
    )
    assert first["rows"] == second["rows"]
    same = [torch.equal(tensor, second["state_dict"][name]) for name, tensor in first["state_dict"].items()]
    best = [
        tensor_files.read(folder / name / "model_best.pth", CheckpointError) for name in ("disturbed", "undisturbed")
    ]
    same += [torch.equal(tensor, best[1][name]) for name, tensor in best[0].items()]
    assert all(same)
    print(f"{counts}; {last} epochs, {len(same)} tensors equal bit for bit; {time.perf_counter() - start:.0f} s")
    return 0


def prepare(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("data", Path(__file__).parent / "engine" / "conftest.py")
    data = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(data)
    data.make_data_set(folder / "data", train=2 * STEPS_AN_EPOCH, val=1)
    torch.manual_seed(1)
    torch.save(published_state_dict(build_lmanet(LMANetConfig(baseline=True))), folder / "weights.pth")


def begun(folder: Path, savedir: Path, epochs: int, broken_writes: bool = False) -> int:
    """A process, forked off so that torch need not be imported again, that goes on with the training."""
    resume = ["--resume"] if (savedir / "checkpoint.pth.tar").exists() else []
    paths = f"--data-root {folder}/data --weights {folder}/weights.pth --savedir {savedir} --num-epochs {epochs}"
    child = os.fork()
    if child:
        return child
    try:
        with open(folder / "log.txt", "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        sys.stderr = os.fdopen(2, "w")
        if broken_writes:
            break_a_write()
        status = program.main([*OPTIONS.split(), *paths.split(), *resume])
        sys.stderr.flush()
        os._exit(status)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(99)


def break_a_write() -> None:
    """Lets all writes fail from a random one on, as on a full disk, and asks the training to stop a little later."""
    right, left = os.fsync, random.SystemRandom().randrange(4)

    def fsync(descriptor: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        right(descriptor)

    signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    os.fsync = fsync


def seconds_to_a_checkpoint(folder: Path, savedir: Path) -> float:
    """Begins the training, lets it come to its first checkpoint, and kills it."""
    start = time.monotonic()
    child = begun(folder, savedir, 1_000_000)
    while not (savedir / "checkpoint.pth.tar").exists():
        time.sleep(0.01)
    seconds = time.monotonic() - start
    os.kill(child, signal.SIGKILL)
    ended(child)
    return seconds


def killed(child: int, savedir: Path, after: float, in_writing: bool) -> bool:
    """Kills a process after so many seconds; gives whether a file was being written just then."""
    time.sleep(after)
    deadline = time.monotonic() + 60
    while in_writing and not parts(savedir) and time.monotonic() < deadline:
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    ended(child)
    return bool(parts(savedir))


def parts(savedir: Path) -> list[Path]:
    return list(savedir.glob(f".checkpoint*{PART}"))


def ended(child: int) -> int:
    return os.waitpid(child, 0)[1]


def check_readable(savedir: Path) -> int:
    """Fails where a folder that has a checkpoint cannot be resumed from; gives the number of its epochs."""
    if not (savedir / "checkpoint.pth.tar").exists():
        assert not list(savedir.glob("*.previous"))
        return 0
    return tensor_files.read(savedir / "checkpoint.pth.tar", CheckpointError)["epoch"]


if __name__ == "__main__":
    sys.exit(main())
