"""An option of the command line as a value, for what declares its own options. No torch here."""

from collections.abc import Iterable
from typing import Any


class Option:
    """A flag, such as ``--save-video``, and what ``argparse`` is told of it: ``help``, ``metavar``, ``default``, ..."""

    def __init__(self, flag: str, **how: Any):
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
    """Adds options to a parser or a group of one; one that several declare is added once."""
    known = set(group._option_string_actions)
    for option in options:
        if option.flag not in known:
            group.add_argument(option.flag, **option.how)
            known.add(option.flag)
