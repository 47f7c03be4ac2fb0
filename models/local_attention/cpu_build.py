"""Compiles the C++ for CPUs, once per user, source, compiler and processor, and loads it: attention and labels."""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from utils.files import part_name, remove_parts, written_whole

logger = logging.getLogger(__name__)

_FOLDER = Path(__file__).parent
_SOURCES = (
    "cpu.cpp",
    "cpu_average.h",
    "cpu_backward.h",
    "cpu_bfloat16.h",
    "cpu_common.h",
    "cpu_forward.h",
    "cpu_fusion.h",
    "cpu_labels.h",
    "cpu_lines.h",
    "cpu_pairs.h",
    "cpu_scores.h",
)
_FUNCTIONS = (
    "local_attention_forward",
    "local_attention_backward",
    "line_block",
    "line_lanes",
    "average",
    "has_bfloat16",
    "line_convolution",
    "gated_fusion",
    "residual_fusion",
    "labels_of_logits",
)
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
    native = "-mcpu=native" if platform.machine() in ("aarch64", "arm64") else "-march=native"
    compiler = _compiler()
    command = [*compiler, *_FLAGS, native]
    name = f"local_attention_{_key(compiler, command)}.so"
    folder = _cache_folder()
    if folder is not None:
        library = folder / name
        if _is_own(library) and _is_whole(library):
            return _opened(library)
        if os.access(folder, os.W_OK):
            remove_parts(folder)
            with contextlib.suppress(OSError):  # a full disk, or one from which nothing may be run
                _compile(command, library)
                return _opened(library)
    # For this process alone, which then compiles anew; what is loaded needs no file.
    with tempfile.TemporaryDirectory(prefix="lmanet-") as private:
        _compile(command, Path(private) / name)
        return _opened(Path(private) / name)


def _opened(library: Path) -> ctypes.CDLL:
    opened = ctypes.CDLL(str(library))
    missing = [name for name in _FUNCTIONS if not hasattr(opened, name)]
    if missing:
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise _NotBuilt(f"{library} lacks {missing[0]}{others}: remove it, and it is built anew")
    return opened


def _compiler() -> list[str]:
    """The command of the compiler: its path, and arguments that CXX may hold, as in ``ccache g++``."""
    wanted = os.environ.get("CXX", "").strip()
    try:
        commands = [[wanted], shlex.split(wanted)] if wanted else [["c++"], ["g++"], ["clang++"]]
    except ValueError:  # quotes that do not end
        commands = [[wanted]]
    for name, *arguments in commands:
        path = shutil.which(name)
        if path:
            return [path, *arguments]
    raise _NotBuilt(f"no C++ compiler found ({f'CXX is {wanted!r}' if wanted else 'install g++ or set CXX'})")


def _cache_folder() -> Path | None:
    """The folder of compiled libraries, made if absent; None where there is none that only its owner can write to.

    Code is loaded from it: whoever can write to it could run code in this process.
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except (RuntimeError, KeyError):  # without HOME and without an entry in the list of users
        return None
    folder = base / "lmanet"
    if not folder.is_absolute():
        return None
    try:
        base.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    if _is_own(folder):
        return folder
    logger.warning(
        "%s: is not yours, or others may write to it, so nothing is loaded from it; the CPU attention is built anew in "
        "each process (chmod go-w %s, where it is yours)",
        folder,
        shlex.quote(str(folder)),
    )
    return None


def _is_own(path: Path) -> bool:
    """Whether a file or folder belongs to this user, or to root, and nobody else may write to it."""
    try:
        status = path.stat()
    except OSError:
        return False
    return status.st_uid in (os.geteuid(), 0) and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _key(compiler: list[str], command: list[str]) -> str:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
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
    part = library.with_name(part_name(library.name))
    try:
        done = subprocess.run(
            [*command, str(_FOLDER / _SOURCES[0]), "-o", str(part)],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines() or [""]
            raise _NotBuilt(f"{command[0]} failed with status {done.returncode}: {errors[0]}")
        data = part.read_bytes()
        with written_whole(library) as file:
            with contextlib.suppress(OSError):
                os.fchmod(file.fileno(), 0o700)  # whatever the umask: see _is_own
            file.write(data + hashlib.sha256(data).digest())  # after the bytes that the loader reads
    finally:
        part.unlink(missing_ok=True)
