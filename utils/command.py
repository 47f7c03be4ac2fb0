"""Shared by all commands: a parser made of a module's docstring, and one-line errors with an exit status."""

import argparse
import atexit
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from utils.errors import IncompleteError, LostPeerError, StoppedError, UserError
from utils.printable import LogFormatter, shown
from utils.signals import FirstInterrupt
from utils.sizes import parse_size
from utils.standard_streams import keep_standard_streams

EXIT_INCOMPLETE = 1
EXIT_WRONG_INPUT = 2
EXIT_LOST_PEER = 75  # EX_TEMPFAIL: nothing was wrong in this process
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_TERMINATED = 128 + signal.SIGTERM

# The first kind that an error is of counts. What is of none of them is a fault of the program, and shows a traceback.
_STATUSES: dict[type[BaseException], int] = {
    IncompleteError: EXIT_INCOMPLETE,
    UserError: EXIT_WRONG_INPUT,
    LostPeerError: EXIT_LOST_PEER,
    StoppedError: EXIT_TERMINATED,
    KeyboardInterrupt: EXIT_INTERRUPTED,
}
EXPECTED_ERRORS = tuple(_STATUSES)


class OneLineParser(argparse.ArgumentParser):
    """Reports an error in one line and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_WRONG_INPUT, f"{self.prog}: error: {shown(message)} (all options: {self.prog} --help)\n")


def module_parser(module: str, docstring: str) -> OneLineParser:
    """The parser of ``python -m module``: its help begins with the docstring's first line and ends with the others."""
    summary, _, examples = docstring.partition("\n")
    return OneLineParser(
        f"python -m {module}",
        description=summary,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def exit_status(error: BaseException) -> int:
    """The exit status that one of ``EXPECTED_ERRORS`` ends a command with."""
    return next(status for kind, status in _STATUSES.items() if isinstance(error, kind))


def last_line(error: BaseException, program: str, after_stop: str = "") -> str:
    """The last line of a command that ends in one of ``EXPECTED_ERRORS``.

    ``after_stop`` tells what to do after Ctrl-C, where the error itself does not.
    """
    if isinstance(error, KeyboardInterrupt):
        kept = str(error) or after_stop
        return shown(f"{program}: stopped by Ctrl-C{kept and f'; {kept}'}")
    if isinstance(error, StoppedError):
        return shown(f"{program}: stopped by SIGTERM; {error}")
    if isinstance(error, LostPeerError):
        return shown(f"{program}: {error}")
    return shown(f"{program}: error: {error}")


def run_program(main: Callable[[], int]) -> NoReturn:
    """Runs the main function of a program and ends the process with the status that it returns.

    The first Ctrl-C raises ``KeyboardInterrupt``; what it leads to, such as completing files, is not interrupted by
    another one. A closed standard output or error ends the printing and not the work.
    """
    keep_standard_streams()
    # Read by PyTorch at its first tensor: in pages of 4 KB a frame's logits cost more time to allocate than to compute.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # ignored in the background of a shell
        signal.signal(signal.SIGINT, FirstInterrupt())
    try:
        status = main()
    except KeyboardInterrupt as error:  # before or after what main handles
        print(last_line(error, os.path.basename(sys.argv[0])), file=sys.stderr)
        status = EXIT_INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the status is decided
    if any(thread.daemon for thread in threading.enumerate()):
        _end_beside_threads(status)
    gc.freeze()  # nothing is collected at exit, which would take a second with torch
    sys.exit(status)


def _end_beside_threads(status: int) -> NoReturn:
    """Ends the process while threads may be inside a library, as one that waits for a source.

    Without this one that calls back into Python, as FFmpeg does to read, would crash the interpreter's end.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed
            stream.flush()
    os._exit(status)


def run_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace], None],
    after_stop: str = "",
) -> int:
    """Runs ``work`` with the options in ``argv`` and returns the exit status.

    That is 0, 1 for work half done, 2 for wrong input, 130 after Ctrl-C, when ``after_stop`` tells what to do next, and
    143 after SIGTERM where ``work`` raises ``StoppedError`` for it.
    """
    try:
        options = parser.parse_args(argv)
    except SystemExit as end:  # after --help, or after an error that is printed already
        assert isinstance(end.code, int)
        return end.code
    try:
        work(options)
    except EXPECTED_ERRORS as error:
        print(last_line(error, parser.prog, after_stop), file=sys.stderr)
        return exit_status(error)
    return 0


def log_to_stderr(level: int = logging.INFO) -> None:
    """Prints log messages of that level and above, without a prefix, without control characters and secrets."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def height_x_width(text: str) -> tuple[int, int]:
    """Parses the value of an option such as ``--size 128x256``."""
    try:
        return parse_size(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH, such as 128x256") from None


def whole_number(lowest: int) -> Callable[[str], int]:
    """Returns a parser of whole numbers of ``lowest`` or more."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected a whole number of {lowest} or more, for example {max(lowest, 2)}"
            )
        return int(text)

    return number
