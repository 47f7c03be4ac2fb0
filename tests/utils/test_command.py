"""What commands share: exit statuses, one line an error, and types of options."""

import argparse
import subprocess
import sys

import pytest

from tests.conftest import PROJECT
from utils.command import height_x_width, module_parser, run_command, whole_number
from utils.errors import IncompleteError, LostPeerError, OptionError, StoppedError


def fail_with(error: BaseException):
    def work(options: argparse.Namespace) -> None:
        raise error

    return work


@pytest.mark.parametrize(
    "work, status, said",
    [
        (lambda options: None, 0, ""),
        (fail_with(IncompleteError("half of it is there")), 1, "python -m some.thing: error: half of it is there\n"),
        (fail_with(OptionError("--x is 3: expected 4")), 2, "python -m some.thing: error: --x is 3: expected 4\n"),
        (fail_with(LostPeerError("rank 1 ended")), 75, "python -m some.thing: rank 1 ended\n"),
        (fail_with(StoppedError("all is kept")), 143, "python -m some.thing: stopped by SIGTERM; all is kept\n"),
        (fail_with(KeyboardInterrupt()), 130, "python -m some.thing: stopped by Ctrl-C; go on\n"),
    ],
)
def test_an_end_has_a_status_and_a_line(work, status, said, capsys):
    assert run_command(module_parser("some.thing", "Does it."), [], work, "go on") == status
    assert capsys.readouterr().err == said


def test_what_is_no_users_error_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(module_parser("some.thing", "Does it."), [], fail_with(ZeroDivisionError()))


def test_a_parser_shows_the_docstring_and_refuses_in_one_line(capsys):
    parser = module_parser("some.thing", "Do it.\n\n    python -m some.thing --size 3x4\n")
    assert "Do it." in parser.format_help() and "    python -m some.thing --size 3x4" in parser.format_help()
    parser.add_argument("--size", type=height_x_width)
    parser.add_argument("--jobs", type=whole_number(1))
    assert vars(parser.parse_args(["--size", "3x4", "--jobs", "1"])) == {"size": (3, 4), "jobs": 1}
    for arguments, said in (
        (["--size", "3"], "'3': expected HEIGHTxWIDTH, such as 128x256"),
        (["--size", "0x4"], "'0x4': expected HEIGHTxWIDTH"),
        (["--size", "-3x4"], "expected HEIGHTxWIDTH"),
        (["--jobs", "0"], "'0': expected a whole number of 1 or more, for example 2"),
        (["--jobs", "2.5"], "'2.5': expected a whole number of 1 or more"),
        (["--jobs", "two"], "'two': expected a whole number of 1 or more"),
        (["--job", "1"], "unrecognized arguments"),
    ):
        with pytest.raises(SystemExit) as stop:
            parser.parse_args([f"{arguments[0]}={arguments[1]}"])
        error = capsys.readouterr().err
        assert stop.value.code == 2 and said in error and error.count("\n") == 1


BESIDE_A_THREAD = """
import atexit, sys, threading
from utils.command import run_program

class Late:
    def __del__(self):
        print("the interpreter was torn down")

late = Late()
atexit.register(print, "exit functions ran")
threading.Thread(target=threading.Event().wait, daemon=True).start()
run_program(lambda: print("printed", end=" ") or 7)
"""


def test_a_program_ends_at_once_beside_a_thread_that_waits():
    done = subprocess.run([sys.executable, "-c", BESIDE_A_THREAD], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (7, "printed exit functions ran\n", "")
