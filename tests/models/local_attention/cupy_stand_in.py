"""Stands in for CuPy: compiles a kernel's source with g++ behind ``cuda_emulation.h`` and runs it on CPU tensors."""

import contextlib
import ctypes
import functools
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np

_HEADER = Path(__file__).with_name("cuda_emulation.h")


class EmulationError(Exception):
    """A kernel did something that is undefined on a GPU: a race, an index out of bounds, wrong arguments."""


def missing_compiler() -> str | None:
    """Why nothing can be emulated, as a phrase; None if it can."""
    return None if shutil.which("g++") else "no g++"


class RawModule:
    """As CuPy's, as far as the launch code goes: ``code`` and ``options`` in, kernels by name out."""

    def __init__(self, code: str, options: tuple[str, ...] = ()) -> None:
        self._library = _compiled(code, tuple(option for option in options if option.startswith("-D")))

    def get_function(self, name: str):
        return functools.partial(_launch, getattr(self._library, f"launch_{name}"))


def stand_in(launches: list | None = None) -> SimpleNamespace:
    """A module to put in CuPy's place; ``launches`` collects the streams that kernels would run on."""

    class Module(RawModule):
        def get_function(self, name: str):
            function = super().get_function(name)

            def launch(grid, block, arguments, *, stream) -> None:
                if launches is not None:
                    launches.append(stream.ptr)
                function(grid, block, arguments)

            return launch

    device = lambda index: contextlib.nullcontext()  # noqa: E731
    return SimpleNamespace(RawModule=Module, cuda=SimpleNamespace(Device=device))


def _launch(
    function, grid: tuple[int, int, int], block: tuple[int, int, int], arguments: tuple[np.generic, ...]
) -> None:
    if not all(1 <= size <= 65535 for size in grid[1:]) or block[0] > 1024 or block[1:] != (1, 1):
        raise EmulationError(f"no GPU takes the grid {grid} of blocks {block}")
    boxes = [np.array([argument]) for argument in arguments]  # a number, and where it lies
    pointers = (ctypes.c_void_p * len(boxes))(*(box.ctypes.data for box in boxes))
    sizes = (ctypes.c_long * len(boxes))(*(box.itemsize for box in boxes))
    function.restype = ctypes.c_char_p
    problem = function((ctypes.c_uint * 3)(*grid), block[0], pointers, sizes, len(boxes))
    if problem:
        raise EmulationError(problem.decode())


@functools.cache
def _compiled(code: str, options: tuple[str, ...]) -> ctypes.CDLL:
    names = re.findall(r'extern "C" __global__ void __launch_bounds__\([^)]*\)\s*(\w+)\(', code)
    launchers = "".join(
        f'extern "C" const char* launch_{name}(const unsigned* grid, unsigned threads, void** arguments,'
        f" const long* sizes, long count)"
        f" {{ return emulation::launch({name}, grid, threads, arguments, sizes, count); }}\n"
        for name in names
    )
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        source.write_text(f'#include "{_HEADER}"\n{code}\n{launchers}')
        flags = ["-std=c++17", "-O2", "-fPIC", "-shared", "-w"]
        subprocess.run(["g++", *flags, *options, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))
