"""Clocks that tell the truth about devices that work ahead of Python, and the memory that a process holds."""

import os
import time
from pathlib import Path

import torch


def synchronized_seconds(device: torch.device) -> float:
    """The clock in seconds, read once the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def resident_mebibytes() -> float | None:
    """The memory that this process holds; ``None`` where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
