"""An option of the command line as a value, for classes that declare their own options. Imports no torch."""

import argparse
from collections.abc import Iterable
from typing import Any

from utils.errors import OptionError


class Option:
    """A flag, such as ``--save-video``, with the keyword arguments of ``ArgumentParser.add_argument``.

    Raises ``OptionError`` for a flag that does not begin with two dashes.
    """

    def __init__(self, flag: str, **arguments: Any):
        if not flag.startswith("--"):
            raise OptionError(f"an option is called {flag!r}: expected a name such as '--save-{flag.strip('-')}'")
        self.flag, self.arguments = flag, arguments

    @property
    def dest(self) -> str:
        """Name of its value among the parsed options."""
        return self.flag.removeprefix("--").replace("-", "_")

    @property
    def default(self) -> object:
        """Value of an option that is not typed."""
        return self.arguments.get("default", False if self.arguments.get("action") == "store_true" else None)


def add_to(group: argparse._ActionsContainer, options: Iterable[Option]) -> None:
    """Adds options to a parser or one of its groups. Raises ``OptionError`` for one that the parser has already."""
    for option in options:
        try:
            group.add_argument(option.flag, **option.arguments)
        except argparse.ArgumentError as error:
            raise taken(option.flag) from error


def taken(flag: str | None) -> OptionError:
    """The error that an output declares an option which the parser has."""
    return OptionError(f"an output declares the option {flag}, which main.py has already: expected another name")
