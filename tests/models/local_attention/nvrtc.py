"""Compiles CUDA sources with the NVRTC libraries there are: that of PyTorch's wheel, and those a variable names.

PYTHONPATH=. python tests/models/local_attention/nvrtc.py    prints the kernels' table of docs/speed.md
"""

import ctypes
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

VARIABLE = "LMANET_NVRTC"  # more libraries, with ":" between, such as .../nvidia/cuda_nvrtc/lib/libnvrtc.so.11.2


class Usage(NamedTuple):
    """What ptxas says of one kernel."""

    kernel: str
    registers: int
    shared_bytes: int
    spilled_bytes: int


class Nvrtc:
    """One library."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)

    def usages(self, source: str, options: tuple[str, ...]) -> list[Usage]:
        """Compiles down to machine code; raises RuntimeError with the compiler's log if that fails."""
        program = ctypes.c_void_p()
        self._library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"local_attention.cu", 0, None, None)
        texts = [option.encode() for option in (*options, "--ptxas-options=-v")]
        status = self._library.nvrtcCompileProgram(program, len(texts), (ctypes.c_char_p * len(texts))(*texts))
        size = ctypes.c_size_t()
        self._library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        self._library.nvrtcGetProgramLog(program, log)
        self._library.nvrtcDestroyProgram(ctypes.byref(program))
        if status:
            raise RuntimeError(log.value.decode())
        return usages_in(log.value.decode())


def usages_in(log: str) -> list[Usage]:
    """What a verbose log of ptxas says; shared memory is 0 where it does not mention any."""
    found = []
    for part in re.split(r"Compiling entry function '", log)[1:]:
        spills = re.findall(r"(\d+) bytes spill", part)
        registers, shared = re.search(r"Used (\d+) registers", part), re.search(r"(\d+) bytes smem", part)
        found.append(
            Usage(part[: part.index("'")], int(registers[1]), int(shared[1]) if shared else 0, sum(map(int, spills)))
        )
    return found


def libraries() -> list[Path]:
    """NVRTC libraries on this machine."""
    named = [Path(text) for text in os.environ.get(VARIABLE, "").split(":") if text]
    folders = {Path(folder) / "nvidia" for folder in sys.path}
    wheels = [path for folder in folders for path in folder.glob("*/lib/libnvrtc.so.*") if "alt" not in path.name]
    return sorted(path for path in {*named, *wheels} if path.is_file())


# CUDA version -> the oldest and the newest architecture that its NVRTC knows of those that the project names.
_KNOWN = {11: (70, 90), 12: (70, 120), 13: (75, 120)}
_ARCHITECTURES = (70, 75, 80, 86, 90, 100, 120)


def known_architectures(version: tuple[int, int]) -> list[int]:
    """Those of the project that an NVRTC of this version compiles for."""
    oldest, newest = _KNOWN[version[0]]
    if version[0] == 12 and version < (12, 8):
        newest = 90
    return [architecture for architecture in _ARCHITECTURES if oldest <= architecture <= newest]


def table() -> list[str]:
    """Registers, spills and shared memory of the float32 kernels over all architectures, in Markdown."""
    from models.local_attention import cuda

    lines = [
        "| kernel | rows, passes | NVRTC | architectures | registers | spilled bytes | shared bytes |",
        "|---|---|---|---|---|---|---|",
    ]
    source = cuda._SOURCE.read_text()
    for shape in cuda.SHAPE_CLASSES:
        if shape.element_format:
            continue
        for nvrtc in map(Nvrtc, libraries()):
            architectures = known_architectures(nvrtc.version)
            found: dict[str, list[Usage]] = {}
            for architecture in architectures:
                for usage in nvrtc.usages(source, (*shape.options(), f"-arch=sm_{architecture}")):
                    found.setdefault(usage.kernel, []).append(usage)
            for kernel, usages in sorted(found.items()):
                registers, spills, shared = zip(*(usage[1:2] + usage[3:] + usage[2:3] for usage in usages), strict=True)
                lines.append(
                    f"| `{kernel}` | {shape.rows}, {shape.passes} | {'.'.join(map(str, nvrtc.version))} | "
                    f"sm_{architectures[0]} to sm_{architectures[-1]} | {min(registers)} to {max(registers)} | "
                    f"{max(spills)} | {max(shared)} |"
                )
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
