"""Versions and the machine: for ``--version``, bug reports, and beside every figure that a benchmark prints."""

import hashlib
import os
import platform
import subprocess
import sys
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
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "av", "visdom", "onnxruntime", "openvino")
# Libraries whose version changes what a benchmark measures, as they call themselves.
TIMED = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
# Instructions on which the speed depends: as Linux calls them on x86 and on ARM, and as they are shown.
INSTRUCTIONS = {
    **{name: name for name in ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16")},
    **{name: name for name in ("amx_tile", "amx_int8", "amx_bf16")},
    **{"asimd": "neon", "asimdhp": "fp16", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16", "sve": "sve"},
}
# As macOS calls them, where they are 1.
MACOS_INSTRUCTIONS = {
    **{"hw.optional.avx2_0": "avx2", "hw.optional.avx512f": "avx512f", "hw.optional.neon": "neon"},
    **{"hw.optional.arm.FEAT_FP16": "fp16", "hw.optional.arm.FEAT_DotProd": "dotprod"},
    **{"hw.optional.arm.FEAT_I8MM": "i8mm", "hw.optional.arm.FEAT_BF16": "bf16"},
}
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
        *machine_rows(torch.device("cpu")).items(),
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
    names = ", ".join(_gpu(torch.device("cuda", index)) for index in range(torch.cuda.device_count()))
    return f"PyTorch is built for {built}; {names}"


def machine_rows(device: torch.device) -> dict[str, str]:
    """What figures measured on a device depend on, by name: processor, instructions, threads, and the GPU."""
    rows = {
        "processor": processor_name(),
        "instructions": ", ".join(instructions()),
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} logical cores",
    }
    if device.type == "cuda":
        rows["GPU"] = f"{_gpu(device)}, CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    elif device.type != "cpu":
        rows["GPU"] = device.type
    return rows


def timed_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that compute, those that are installed, by their names."""
    libraries = {label: _package(name) for name, label in TIMED.items() if _package(name) != ABSENT}
    return {"LMANet": program_version(), "Python": platform.python_version(), **libraries}


def machine_lines(device: torch.device) -> list[str]:
    """The machine and the versions as lines of ``name: value``, to stand above figures."""
    rows = {**machine_rows(device), "system": f"{platform.system()} {platform.release()}", **timed_versions()}
    return [f"{name}: {value}" for name, value in rows.items()]


def machine_caption(device: torch.device, threads: int | None = None) -> str:
    """The machine and the versions in one sentence, to stand below a table; ``threads`` where these are others'."""
    processor = f"{threads or torch.get_num_threads()} threads of {processor_name()} ({', '.join(instructions())})"
    gpu = f"{_gpu(device)} beside " if device.type == "cuda" else ""
    libraries = [f"{name} {value}" for name, value in timed_versions().items() if name in TIMED.values()]
    return f"{gpu}{processor}, {', '.join(libraries)}."


def _gpu(device: torch.device) -> str:
    about = torch.cuda.get_device_properties(device)
    return f"{about.name} (compute capability {about.major}.{about.minor}, {about.total_memory / 2**30:.0f} GiB)"


@cache
def processor_name() -> str:
    """The model of the processor, as the system calls it."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string").partition(":")[2].strip() or platform.machine()
    lines = (line.partition(":") for line in _cpuinfo().splitlines())
    named = next((rest.strip() for name, _, rest in lines if name.strip() == "model name"), "")
    return named or platform.processor() or platform.machine()


@cache
def instructions() -> tuple[str, ...]:
    """The processor's instructions on which the speed depends; where the system names none, the level PyTorch uses."""
    found = macos_instructions(_sysctl("hw.optional")) if sys.platform == "darwin" else linux_instructions(_cpuinfo())
    return found or (torch.backends.cpu.get_cpu_capability().lower(),)


def linux_instructions(cpuinfo: str) -> tuple[str, ...]:
    """The instructions in the text of ``/proc/cpuinfo``, of x86 or ARM."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    flags = next((set(rest.split()) for name, _, rest in lines if name.strip() in ("flags", "Features")), set())
    return tuple(shown for name, shown in INSTRUCTIONS.items() if name in flags)


def macos_instructions(sysctl: str) -> tuple[str, ...]:
    """The instructions in what ``sysctl hw.optional`` prints."""
    lines = (line.partition(":") for line in sysctl.splitlines())
    present = {name.strip() for name, _, value in lines if value.strip() == "1"}
    return tuple(shown for name, shown in MACOS_INSTRUCTIONS.items() if name in present)


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    """What macOS says of itself; empty where it does not answer."""
    try:
        return subprocess.run(["sysctl", name], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _backends() -> dict[str, str]:
    """For each attention backend, that it runs on CUDA where available, else on the CPU, or why it does not."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    query = torch.zeros(1, 16, 2, 2, device=device)
    keys = query.unsqueeze(2)
    names = [name for name in BACKENDS if name != "auto"]
    return {name: why_not(name, query, keys, keys, 3) or f"runs on {device.type}" for name in names}
