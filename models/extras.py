"""Packages that only some users need: imported when they are, and what to install where they are absent."""

import importlib
from types import ModuleType

from utils.errors import OptionError

REQUIREMENTS = "requirements-networks.txt"


def imported(package: str, user: str) -> ModuleType:
    """A package of ``requirements-networks.txt``; raises ``OptionError`` where it is not installed.

    ``user`` is what needs it, in words.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if (error.name or "").partition(".")[0] != package:
            raise OptionError(f"{user} needs {package}, which cannot be imported here: {error}") from error
        raise OptionError(f"{user} needs {package}: pip install -r {REQUIREMENTS}") from error
