"""Packages whose modules register themselves."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules


@cache
def import_all(package: str) -> None:
    """Imports every module of a package, by name; once."""
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")
