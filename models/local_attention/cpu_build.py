"""Compiles the C++ of the ``cpu`` backend, once per user, source, compiler and processor, and loads it."""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_SOURCES = ("cpu.cpp", "cpu_backward.h", "cpu_common.h", "cpu_forward.h")
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fPIC", "-shared", "-pthread")


class Built(NamedTuple):
    """The loaded library, or the reason why there is none."""

    library: ctypes.CDLL | None
    problem: str | None


@functools.cache
def built() -> Built:
    """The library, compiled if it is not cached; never raises, and logs a failure once."""
    try:
        return Built(_loaded(), None)
    except (_NotBuilt, OSError, subprocess.SubprocessError) as error:
        problem = " ".join(str(error).split())[:300]
        logger.warning("the fast CPU attention is not available, the portable one stands in: %s", problem)
        return Built(None, problem)


class _NotBuilt(Exception):
    pass


def _loaded() -> ctypes.CDLL:
    if os.name != "posix":
        raise _NotBuilt("it is built on Linux and macOS only")
    compiler = _compiler()
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    command = [compiler, *_FLAGS, native]
    library = _cache_folder() / f"local_attention_{_key(command)}.so"
    if not _is_whole(library):
        _compile(command, library)
    return ctypes.CDLL(str(library))


def _compiler() -> str:
    wanted = os.environ.get("CXX")
    for name in [wanted] if wanted else ["c++", "g++", "clang++"]:
        path = shutil.which(name)
        if path:
            return path
    raise _NotBuilt(f"no C++ compiler found ({f'CXX is {wanted!r}' if wanted else 'install g++ or set CXX'})")


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "lmanet"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return _temporary_folder()


@functools.cache
def _temporary_folder() -> Path:
    """Private to this process, which then compiles anew: for home folders that cannot be written to."""
    return Path(tempfile.mkdtemp(prefix="lmanet-"))


def _key(command: list[str]) -> str:
    version = subprocess.run([command[0], "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    parts = [*command, version, _processor(), *((_FOLDER / name).read_text() for name in _SOURCES)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _processor() -> str:
    """What ``-march=native`` depends on: machines of several kinds may share a home folder."""
    about = Path("/proc/cpuinfo")
    if not about.is_file():
        return f"{platform.machine()} {platform.processor()} {platform.release()}"
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    lines = about.read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(wanted))


def _is_whole(library: Path) -> bool:
    """Whether the file ends in the digest of the rest: loading half a library crashes the process."""
    if not library.is_file():
        return False
    data = library.read_bytes()
    return hashlib.sha256(data[:-32]).digest() == data[-32:]


def _compile(command: list[str], library: Path) -> None:
    """Compiles into a temporary file and renames it, so that concurrent processes never see half a library."""
    handle, name = tempfile.mkstemp(suffix=".so", dir=library.parent)
    os.close(handle)
    try:
        done = subprocess.run(
            [*command, str(_FOLDER / _SOURCES[0]), "-o", name], capture_output=True, text=True, timeout=600, check=False
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
            raise _NotBuilt(f"{command[0]} failed with status {done.returncode}: {errors[0]}")
        data = Path(name).read_bytes()
        Path(name).write_bytes(data + hashlib.sha256(data).digest())  # after the bytes that the loader reads
        os.replace(name, library)
    finally:
        Path(name).unlink(missing_ok=True)
