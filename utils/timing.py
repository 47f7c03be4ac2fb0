"""Clocks for devices that run asynchronously, and the resident memory of the process."""

import os
import time
from pathlib import Path

import torch


def synchronized_seconds(device: torch.device) -> float:
    """The clock in seconds, read after synchronizing the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def resident_mebibytes() -> float | None:
    """Resident memory of this process in MiB; ``None`` where the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
