"""Copies between the CPU and a GPU that run beside its computing: pinned memory, streams of their own, no waiting."""

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def pinned(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on the CPU as one that ``device`` copies without waiting: in pinned memory for CUDA, else as it is."""
    return tensor.pin_memory() if device.type == "cuda" else tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. On CUDA a pinned one is copied beside what runs there; the current stream awaits it."""
    if device.type != "cuda" or not tensor.is_pinned():
        return tensor.to(device)
    uploads, current = _stream(device, "uploads"), torch.cuda.current_stream(device)
    with torch.cuda.stream(uploads):
        there = tensor.to(device, non_blocking=True)
    current.wait_stream(uploads)
    there.record_stream(current)
    return there


def fetched(compute: Callable[[], Tensor], device: torch.device) -> Callable[[], np.ndarray]:
    """A function that waits for the result of ``compute`` and returns it on the CPU; any thread may call it.

    On a GPU ``compute`` and the copy are started at once, and what is started afterwards does not wait for the copy. On
    the CPU ``compute`` runs when it is waited for, in the thread that waits.
    """
    if device.type == "cpu":
        return lambda: compute().numpy()
    there = compute()
    if device.type != "cuda":
        return there.cpu().numpy
    downloads = _stream(there.device, "downloads")
    downloads.wait_stream(torch.cuda.current_stream(there.device))
    here = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
    with torch.cuda.stream(downloads):
        here.copy_(there, non_blocking=True)
        done = torch.cuda.Event(blocking=True)  # the waiting thread sleeps, and leaves its core to others
        done.record(downloads)
    there.record_stream(downloads)

    def wait() -> np.ndarray:
        done.synchronize()
        return here.numpy()

    return wait


@functools.cache
def _stream(device: torch.device, use: str) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
