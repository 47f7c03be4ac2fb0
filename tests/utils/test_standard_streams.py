"""Programs whose output goes nowhere, and that are interrupted at any moment; in processes that import no torch."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
WORK = """
import logging, os, signal, sys, time
from pathlib import Path
from utils.command import log_to_stderr, run_program

def main():
    log_to_stderr()
    with open("work.bin", "wb", buffering=0) as file:
        for number in range(2000):
            print(f"line {number} of what was found, \\udcff")
            logging.info("step %d", number)
            os.write(2, b"a library's warning")
        file.write(b"done")
    return 7

run_program(main)
"""


def run(code, folder, **options):
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, timeout=120, **options)


def assert_worked(done, folder):
    assert done.returncode == 7
    assert (folder / "work.bin").read_bytes() == b"done"


@pytest.mark.parametrize("lost", ["stdout", "stderr"])
def test_a_closed_reader_ends_the_printing_and_not_the_work(tmp_path, lost):
    read, write = os.pipe()
    os.close(read)
    other = "stderr" if lost == "stdout" else "stdout"
    done = run(WORK, tmp_path, **{lost: write, other: subprocess.PIPE})
    os.close(write)
    assert_worked(done, tmp_path)
    assert b"Traceback" not in (done.stderr or b"")
    assert len((done.stdout or done.stderr).splitlines()) >= 2000


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (1, 2), (0, 1, 2)])
def test_what_is_printed_to_a_closed_number_reaches_no_file(tmp_path, closed):
    def close():
        for number in closed:
            os.close(number)

    assert_worked(run(WORK, tmp_path, preexec_fn=close, stdout=subprocess.PIPE, stderr=subprocess.PIPE), tmp_path)


def test_a_full_disk_below_standard_output_is_said_once(tmp_path):
    with open("/dev/full", "wb") as full:
        done = run(WORK, tmp_path, stdout=full, stderr=subprocess.PIPE)
    assert_worked(done, tmp_path)
    assert done.stderr.count(b"standard output cannot be written: No space left on device; the work goes on") == 1


PRESSED = """
import atexit, signal, sys
from utils.command import run_program

def press(): signal.raise_signal(signal.SIGINT)

def main():
    try:
        {first}
        return 0
    finally:
        press(); press()
        print("completed")
        press()

atexit.register(press)
run_program(main)
"""


@pytest.mark.parametrize(("first", "status"), [("press()", 130), ("raise KeyboardInterrupt('all is kept')", 130)])
def test_ctrl_c_counts_once_up_to_the_very_end(tmp_path, first, status):
    done = run(PRESSED.format(first=first), tmp_path, capture_output=True, text=True)
    assert done.returncode == status
    assert "Traceback" not in done.stderr and "stopped by Ctrl-C" in done.stderr


def test_what_was_completed_before_is_printed(tmp_path):
    done = run(PRESSED.format(first="press()"), tmp_path, capture_output=True, text=True)
    assert done.stdout == "completed\n"


def test_a_program_in_the_background_of_a_shell_ignores_ctrl_c_as_before(tmp_path):
    ignored = run(
        PRESSED.format(first="press()"), tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
    assert ignored.returncode == 0
