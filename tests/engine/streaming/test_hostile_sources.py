"""Hostile sources: no traceback, no connection, nothing changed outside of --savedir, little memory and time."""

import contextlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from main import main
from models import build_lmanet
from models.weights.export import published_state_dict
from tests.engine.streaming.hostile import Generator, fingerprint
from tests.engine.videos import write_folder, write_video
from tests.fuzzing import WrongResult, outcomes
from tests.networks import LMANetConfig
from utils.errors import DataError

SECONDS, BYTES = 60, 2 << 30
OUTPUTS = ((), ("--save-labels", "trainIds"), ("--save-video", "overlay"), ("--save-probabilities",))


def peak() -> int:
    """The most memory that this process has had since it was last asked, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * found


@pytest.mark.slow
@pytest.mark.parametrize("count", [200])
def test_hostile_sources_do_no_harm(tmp_path, count):
    torch.manual_seed(1)
    weights, victim = tmp_path / "weights.pth", tmp_path / "victim"
    torch.save(published_state_dict(build_lmanet(LMANetConfig(baseline=True))), weights)
    victim.write_text("precious")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        generator = Generator(tmp_path / "good", server.getsockname()[1], victim)

        def play(seed: int) -> str:
            rng, case = random.Random(seed), tmp_path / f"case_{seed}"
            case.mkdir()
            os.chdir(case)
            source, run = generator.source(case, rng), case / "run"
            options = ["--weights", str(weights), "--baseline-mode", "--work-size", "32x64", "--device", "cpu"]
            before = fingerprint(tmp_path, run)
            peak()
            signal.alarm(SECONDS)
            with contextlib.redirect_stderr(io.StringIO()) as error, contextlib.redirect_stdout(io.StringIO()):
                try:
                    status = main([f"--stream={source}", "--savedir", str(run), *options, *rng.choice(OUTPUTS)])
                except SystemExit as end:
                    status = end.code
            signal.alarm(0)
            if fingerprint(tmp_path, run) != before:
                raise WrongResult(f"{source!r} changed files")
            if peak() > BYTES:
                raise WrongResult(f"{source!r} took too much memory")
            with contextlib.suppress(BlockingIOError):
                server.accept()
                raise WrongResult(f"{source!r} made a connection")
            lines = error.getvalue().splitlines()
            if (
                status not in (0, 1, 2)
                or any(not line.isprintable() for line in lines)
                or "Traceback" in error.getvalue()
            ):
                raise WrongResult(f"{source!r} ended with {status}: {error.getvalue()}")
            if status:
                raise DataError(lines[-1])
            return ""

        counts = outcomes(play, range(count), talking=True)
    print(f"\n{count} hostile sources: {dict(counts)}")
    assert counts.total() == count
    assert victim.read_text() == "precious"
    assert not list(tmp_path.rglob("made_outside"))


def largest_video(folder: Path, pixels: str = "yuv420p", width: int = 8192) -> Path:
    """A video of a few KB whose frames are just below the limit."""
    frame = np.full((6080 * 8192 // width, width, 3), (60, 90, 120), np.uint8)
    options = {"preset": "ultrafast", "threads": "1"}
    return write_video(folder / "large.mp4", [frame] * 6, pixels=pixels, codec_options=options)


def largest_pictures(folder: Path, ending: str) -> Path:
    """Pictures of 48 million pixels, as phones take them."""
    return write_folder(folder / "large", [np.full((6000, 8000, 3), (60, 90, 120), np.uint8)] * 4, ending)


EVERYTHING = ("--save-video=both", "--save-labels=cvat", "--save-probabilities")
OVERLAY = ("--save-video=overlay", "--save-labels=trainIds")
MEASURED = """
import resource, subprocess, sys
status = subprocess.call(sys.argv[1:])
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (largest_video, OVERLAY),
        (largest_video, EVERYTHING),
        (partial(largest_video, width=6080), (*OVERLAY, "--live")),
        (partial(largest_video, pixels="yuv444p"), (*OVERLAY, "--smooth=flow")),
        (partial(largest_pictures, ending=".jpg"), (*OVERLAY, "--save-probabilities")),
        (partial(largest_pictures, ending=".png"), EVERYTHING),
    ],
)
def test_frames_just_below_the_limit_take_little_memory(tmp_path, make, options):
    weights = tmp_path / "weights.pth"
    torch.save(published_state_dict(build_lmanet(LMANetConfig(baseline=True))), weights)
    words = ["main.py", "--stream", make(tmp_path), "--savedir", tmp_path / "run", "--weights", weights]
    words = [sys.executable, *map(str, words), "--baseline-mode", "--device", "cpu", *options]
    # By a small process in between: the peak of a child begins with that of the process that it was forked from.
    done = subprocess.run([sys.executable, "-c", MEASURED, *words], stdout=subprocess.PIPE, text=True, check=True)
    status, kibibytes = map(int, done.stdout.split()[-2:])
    assert status == 0
    assert json.loads((tmp_path / "run" / "stream.json").read_text())["frames"] >= (1 if "--live" in options else 4)
    print(f"{kibibytes / 1024:.0f} MiB")
    assert 1024 * kibibytes < BYTES
