"""Clocks that tell the truth about devices that work ahead of Python."""

import time

import torch


def synchronised_seconds(device: torch.device) -> float:
    """The clock in seconds, read once the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
