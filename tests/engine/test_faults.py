"""Disks that fail: at every write, sync and rename of a run, nothing gets a final name that is not whole."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from main import main
from tests.engine.videos import moving_blocks, read_video, write_folder
from utils.files import PartialFile

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler for Linux")
    path = tmp_path_factory.mktemp("faults") / "faults.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-w", "-o", str(path), str(HERE / "faults.c"), "-ldl", "-lpthread"],
        check=True,
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "sites"), [("stream", 50), ("evaluation", 50), ("training", 50)])
def test_no_fault_of_a_disk_leaves_half_a_file(library, tmp_path, mode, sites):
    done = subprocess.run(
        [sys.executable, str(HERE / "fault_runs.py"), mode, str(library), str(tmp_path)],
        cwd=PROJECT,
        env=os.environ | {"LD_PRELOAD": str(library), "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    print({name: found[name] for name in ("calls", "sites", "runs")})
    assert found["sites"] >= sites and found["runs"] >= 3 * found["sites"]
    assert found["wrong"] == []


@pytest.mark.parametrize(("call", "number"), [("fsync", 4), ("fsync", 12), ("replace", 3), ("replace", 6)])
def test_a_stream_whose_disk_fails_says_so_and_leaves_whole_files(
    erfnet_file, tmp_path, monkeypatch, capsys, call, number
):
    calls, real = [], getattr(os, call)

    def fails(*arguments):
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(errno.EIO, "Input/output error")
        return real(*arguments)

    frames, run = write_folder(tmp_path / "in", moving_blocks(2)), tmp_path / "run"
    options = f"--weights {erfnet_file} --baseline-mode --work-size 32x64 --device cpu --savedir {run}"
    monkeypatch.setattr(os, call, fails)
    status = main(["--stream", str(frames), "--save-video", "overlay", "--save-labels", "trainIds", *options.split()])
    monkeypatch.undo()
    assert len(calls) >= number
    assert status in (1, 2)
    assert capsys.readouterr().err.splitlines()[-1].startswith("main.py: error: ")
    assert not list(run.rglob("*.part"))
    if (run / "overlay.mp4").exists():
        assert len(read_video(run / "overlay.mp4")) == 2
    if (run / "stream.json").exists():
        json.loads((run / "stream.json").read_text())


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_disk_that_is_full_at_the_first_bytes_of_a_video_is_said(erfnet_file, tmp_path, monkeypatch, capsys, number):
    writes, real = [], PartialFile.write

    def full(self, data):
        writes.append(len(data))
        if len(writes) >= number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, data)

    frames, run = write_folder(tmp_path / "in", moving_blocks(2)), tmp_path / "run"
    options = f"--weights {erfnet_file} --baseline-mode --work-size 32x64 --device cpu --savedir {run}"
    monkeypatch.setattr(PartialFile, "write", full)
    assert main(["--stream", str(frames), "--save-video", "overlay", *options.split()]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "main.py: error: video cannot be written: the disk is full; the video so far is overlay.partial.mp4"
    assert not (run / "overlay.mp4").exists()
