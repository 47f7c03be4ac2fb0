"""What the tests of a GPU share: the device, the table of times at the end, and the dry run on a CPU.

make test-gpu                                   or, without make:  python3 -m pytest -q -m gpu
LMANET_GPU_DRY_RUN=1 python3 -m pytest -m gpu   runs on a CPU what can run there, at small sizes
"""

import os
import time
from typing import NamedTuple

import pytest
import torch

from models.local_attention import why_not

HAS_GPU = torch.cuda.is_available()
DRY_RUN = not HAS_GPU and os.environ.get("LMANET_GPU_DRY_RUN") == "1"
SECONDS = 330.0  # nothing is timed later than this after the start
SANITIZER = """\
memory, races and barriers of the kernels on a small part, with NVIDIA's compute-sanitizer (minutes each):
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python3 -m pytest -q -m gpu -k sanitize
  compute-sanitizer --tool racecheck python3 -m pytest -q -m gpu -k sanitize
  compute-sanitizer --tool synccheck python3 -m pytest -q -m gpu -k sanitize"""


class Time(NamedTuple):
    """A line of the table: milliseconds on the device and on the clock, TFLOP/s where they are known."""

    what: str
    device_ms: float
    clock_ms: float
    teraflops: float | None = None


class Table:
    """The times so far."""

    def __init__(self) -> None:
        self.start, self.times = time.monotonic(), list[Time]()

    @property
    def seconds_left(self) -> float:
        return SECONDS - (time.monotonic() - self.start)


TABLE = pytest.StashKey[Table]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[TABLE] = Table()


@pytest.fixture(scope="session")
def table(request) -> Table:
    return request.config.stash[TABLE]


if DRY_RUN:  # small networks are slower on several threads of a busy machine
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU; in a dry run the CPU."""
    if not (HAS_GPU or DRY_RUN):
        pytest.skip("PyTorch finds no GPU here; LMANET_GPU_DRY_RUN=1 runs on the CPU what can run there")
    return torch.device("cuda", 0) if HAS_GPU else torch.device("cpu")


@pytest.fixture(scope="session")
def gpu(device) -> torch.device:
    """The GPU; such a test skips in a dry run too."""
    if device.type != "cuda":
        pytest.skip("only a GPU can run this")
    return device


@pytest.fixture(scope="session")
def fused(device) -> str:
    """The backend of fused kernels; skips with its reason where it cannot run."""
    query, keys = torch.zeros(1, 1, 1, 1, device=device), torch.zeros(1, 1, 1, 1, 1, device=device)
    name = "cuda" if device.type == "cuda" else "cpu"
    reason = why_not(name, query, keys, keys, 1)
    if reason:
        pytest.skip(reason)
    return name


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    table = config.stash[TABLE]
    if not table.times:
        return
    line = terminalreporter.write_line
    line(f"\n{_machine()}\n{SANITIZER}\n")
    line(f"{'milliseconds':<52}{'device':>10}{'clock':>10}{'TFLOP/s':>10}")
    for each in table.times:
        rate = "" if each.teraflops is None else f"{each.teraflops:.2f}"
        line(f"{each.what:<52}{each.device_ms:>10.3f}{each.clock_ms:>10.3f}{rate:>10}")


def _machine() -> str:
    if not HAS_GPU:
        return f"dry run on a CPU, PyTorch {torch.__version__}"
    try:
        import cupy

        found = f"CuPy {cupy.__version__}"
    except Exception as error:
        found = f"no CuPy ({error})"
    return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__} for CUDA {torch.version.cuda}, {found}"
