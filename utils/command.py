"""What commands share: a parser that is made of a module's docstring, and errors of one line with an exit status."""

import argparse
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from utils.errors import IncompleteError, UserError

EXIT_INCOMPLETE = 1
EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_WRONG_INPUT, f"{self.prog}: error: {message} (all options: {self.prog} --help)\n")


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


def run_command(
    parser: argparse.ArgumentParser,
    argv: Sequence[str] | None,
    work: Callable[[argparse.Namespace], None],
    after_stop: str = "",
) -> int:
    """Does ``work`` with the options in ``argv`` and returns the exit status.

    That is 0, 1 for work half done, 2 for wrong input, 130 after Ctrl-C, when ``after_stop`` tells what to do next.
    """
    try:
        options = parser.parse_args(argv)
    except SystemExit as end:  # all is said: after --help, or about a wrong option
        return end.code
    try:
        work(options)
    except UserError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return EXIT_INCOMPLETE if isinstance(error, IncompleteError) else EXIT_WRONG_INPUT
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped by Ctrl-C{after_stop and f'; {after_stop}'}", file=sys.stderr)
        return EXIT_INTERRUPTED
    return 0


def log_to_stderr(level: int = logging.INFO) -> None:
    """What is logged from that level on is shown as it is."""
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)


def height_x_width(text: str) -> tuple[int, int]:
    """The type of an option such as ``--size 128x256``."""
    height, by, width = text.partition("x")
    if not (by and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH, such as 128x256")
    return int(height), int(width)


def whole_number(lowest: int) -> Callable[[str], int]:
    """The type of an option that takes whole numbers from ``lowest`` on."""

    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected a whole number of {lowest} or more, for example {max(lowest, 2)}"
            )
        return int(text)

    return number
