"""Packages whose modules register themselves, and what is registered."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType

from utils.errors import OptionError


@cache
def import_all(package: str) -> None:
    """Imports every module of a package, by name; once."""
    for module in iter_modules(import_module(package).__path__):
        import_module(f"{package}.{module.name}")


def load_file(path: Path, name: str) -> ModuleType:
    """Runs a Python file as the module ``name``, so that classes of it can be pickled. Raises what it raises."""
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def check_declared(kind: str, entry: object, *names: str) -> None:
    """Raises ``OptionError`` unless what is to be registered has attributes of these names."""
    for name in names:
        if not hasattr(entry, name):
            raise OptionError(f"{kind} {getattr(entry, 'name', entry)!r} has no {name}: expected it in its class")


def check_importable(module: str, needed: str, advice: str) -> None:
    """Raises ``OptionError`` with what needs a module, and ``advice``, where the module cannot be imported."""
    try:
        import_module(module)
    except ImportError as error:
        raise OptionError(f"{needed}, which cannot be imported ({error}): {advice}") from error


@contextmanager
def left_out(*modules: str) -> Iterator[None]:
    """Inside, importing these fails as if they were not installed; nothing of it stays behind in ``sys.modules``."""

    class Finder:
        @staticmethod
        def find_spec(name: str, *_: object) -> None:
            if name in modules:
                raise ModuleNotFoundError(f"{name} is left out", name=name)

    sys.meta_path.insert(0, Finder)
    try:
        yield
    finally:
        sys.meta_path.remove(Finder)
