"""``--version``: versions, the machine, and which attention backends run here, for bug reports."""

import hashlib
import platform
import tomllib
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from models.local_attention import BACKENDS, why_not

PROJECT = Path(__file__).resolve().parents[1]
PROJECT_FILE = PROJECT / "pyproject.toml"
CODE = tuple(
    f"{part}/**/*{kind}" for part in ("datasets", "engine", "models", "utils") for kind in (".py", ".cpp", ".h", ".cu")
)
ABSENT = "not installed"
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "av", "visdom", "onnxruntime")
CUPY_PACKAGES = ("cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x", "cupy")


def program_version() -> str:
    """The version of this program."""
    return tomllib.loads(PROJECT_FILE.read_text(encoding="utf-8"))["project"]["version"]


@cache
def program_digest() -> str:
    """SHA-256 of all code that computes results, as other code may have other ones."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in CODE for path in PROJECT.glob(pattern)):
        if "experiments" not in path.relative_to(PROJECT).parts:
            digest.update(path.read_bytes())
    return digest.hexdigest()


def version_text() -> str:
    """The versions as lines of ``name: value``."""
    rows: list[tuple[str, str]] = [
        ("LMANet", program_version()),
        ("Python", f"{platform.python_version()} ({platform.system()} {platform.release()}, {platform.machine()})"),
        *((name, _package(name)) for name in PACKAGES),
        ("CUDA", _cuda()),
        ("CuPy", next((f"{name} {_package(name)}" for name in CUPY_PACKAGES if _package(name) != ABSENT), ABSENT)),
        (
            "processor",
            f"{processor_name()}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}",
        ),
        *((f"attention {name}", reason) for name, reason in _backends().items()),
    ]
    return "\n".join(f"{name}: {value}" for name, value in rows)


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ABSENT


def _cuda() -> str:
    built = torch.version.cuda or "none"
    if not torch.cuda.is_available():
        return f"PyTorch is built for {built}; no device is available"
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"PyTorch is built for {built}; {names}"


def processor_name() -> str:
    """The model of the processor, as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _backends() -> dict[str, str]:
    """For each attention backend, that it runs on CUDA where available, else on the CPU, or why it does not."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    query = torch.zeros(1, 16, 2, 2, device=device)
    keys = query.unsqueeze(2)
    names = [name for name in BACKENDS if name != "auto"]
    return {name: why_not(name, query, keys, keys, 3) or f"runs on {device.type}" for name in names}
