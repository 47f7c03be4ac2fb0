"""Clocks for devices that run asynchronously, and the resident memory of the process."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch


def synchronized_seconds(device: torch.device) -> float:
    """The clock in seconds, read after synchronizing the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


class Moment:
    """A moment of a device: on CUDA an event in its current stream, which nothing waits for; elsewhere the clock."""

    def __init__(self, device: torch.device):
        self._event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self._event = torch.cuda.Event(enable_timing=True)
            self._event.record(torch.cuda.current_stream(device))
        else:
            self._seconds = synchronized_seconds(device)

    def milliseconds_until(self, later: "Moment") -> float:
        """Milliseconds from here to a later moment of the same device; waits until that has come."""
        if self._event is None or later._event is None:
            return 1000 * (later._seconds - self._seconds)
        later._event.synchronize()
        return self._event.elapsed_time(later._event)


def seconds_in_turns(calls: Mapping[str, Callable[[], object]], rounds: int, warm_up: int) -> dict[str, list[float]]:
    """Seconds of each call on a CPU in so many rounds, in which all of them take turns, after a warm-up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(warm_up + rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def resident_mebibytes() -> float | None:
    """Resident memory of this process in MiB; ``None`` where the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mebibytes() -> float | None:
    """The most resident memory that this process had so far, in MiB; ``None`` where the system does not report it."""
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
