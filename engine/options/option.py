"""An option of the command line as a value, for classes that declare their own options. Imports no torch."""

import argparse
from collections.abc import Iterable
from typing import Any


class Option:
    """A flag, such as ``--save-video``, with the keyword arguments of ``ArgumentParser.add_argument``."""

    def __init__(self, flag: str, **arguments: Any):
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
    """Adds options to a parser or one of its groups; an option that several classes declare is added once."""
    known = set(group._option_string_actions)
    for option in options:
        if option.flag not in known:
            group.add_argument(option.flag, **option.arguments)
            known.add(option.flag)
