"""Packages whose modules register themselves, and what is registered."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from utils.errors import OptionError


@cache
def import_all(package: str) -> None:
    """Imports every module of a package, by name; once."""
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


def check_declared(kind: str, entry: object, *names: str) -> None:
    """Raises ``OptionError`` unless what is to be registered has attributes of these names."""
    for name in names:
        if not hasattr(entry, name):
            raise OptionError(f"{kind} {getattr(entry, 'name', entry)!r} has no {name}: expected it in its class")
