"""An option of the command line as a value, for what declares its own options. No torch here."""

import argparse
from collections.abc import Iterable
from typing import Any

from utils.errors import OptionError


class Option:
    """A flag, such as ``--save-video``, and what ``argparse`` is told of it: ``help``, ``metavar``, ``default``, ...

    Raises ``OptionError`` for a flag that does not begin with two dashes.
    """

    def __init__(self, flag: str, **how: Any):
        if not flag.startswith("--"):
            raise OptionError(f"an option is called {flag!r}: expected a name such as '--save-{flag.strip('-')}'")
        self.flag, self.how = flag, how

    @property
    def dest(self) -> str:
        """The name of its value among the parsed options."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def default(self) -> object:
        """Its value where it is not typed."""
        return self.how.get("default", False if self.how.get("action") == "store_true" else None)


def add_to(group: Any, options: Iterable[Option]) -> None:
    """Adds options to a parser or a group of one. Raises ``OptionError`` for one that the parser has already."""
    for option in options:
        try:
            group.add_argument(option.flag, **option.how)
        except argparse.ArgumentError as error:
            raise taken(option.flag) from error


def taken(flag: str | None) -> OptionError:
    """The error that something declares an option which the parser has."""
    return OptionError(f"an output declares the option {flag}, which main.py has already: expected another name")
