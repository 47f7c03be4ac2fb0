"""Measurements in a process of their own, so that its memory and its threads are theirs alone."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Found = TypeVar("Found")


def in_own_process(function: Callable[..., Found], *arguments: object) -> Found:
    """Returns ``function(*arguments)``, both of which can be pickled; raises what it raises."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()
