"""Weights and clips that anyone can make again from their description in ``../shared/golden/README.md``."""

import functools
import json
import zlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import LMANet, build_lmanet
from tests.networks import LMANetConfig


@pytest.fixture
def one_thread():
    """For networks so small that handing their work round costs more than doing it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made_tensor(name: str, shape: list[int]) -> torch.Tensor:
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype("float32")
    if "num_batches_tracked" in name:
        return torch.tensor(0)
    if "running_var" in name:
        x = np.exp(0.1 * x)
    elif "running_mean" in name or "bias" in name:
        x = 0.1 * x
    elif name.endswith("const"):
        x = 0.5 * x
    elif len(shape) == 1:
        x = (1 + 0.1 * x) * (0.25 if ".bn3." in name else 1)
    else:
        x = x * np.sqrt(1.5 / np.prod(shape[1:])) * (0.25 if ".Key." in name else 1)
    return torch.from_numpy(np.asarray(x, dtype="float32"))


def _made_file(keys: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: made_tensor(name.removeprefix("module."), shape) for name, shape in keys.items()}


def _made_clip(batch: int, frames: int, height: int, width: int) -> torch.Tensor:
    rs = np.random.RandomState(0)
    base = torch.from_numpy(rs.rand(batch, 3, height // 8 + 2, width // 8 + 2).astype("float32"))
    base = F.interpolate(base, size=(height + 16, width + 16), mode="bilinear", align_corners=False)
    moved = [base[:, :, 8 + t : 8 + t + height, 8 - 2 * t % 8 : 8 - 2 * t % 8 + width] for t in range(frames)]
    noise = torch.from_numpy(rs.rand(batch, frames, 3, height, width).astype("float32"))
    return 0.9 * torch.stack(moved, 1) + 0.1 * noise


@pytest.fixture(scope="session")
def made_file() -> Callable[[dict[str, list[int]]], dict[str, torch.Tensor]]:
    """Makes the weights of a key list."""
    return _made_file


@pytest.fixture(scope="session")
def made_clip() -> Callable[[int, int, int, int], torch.Tensor]:
    """Makes a clip ``B S 3 H W``."""
    return _made_clip


@pytest.fixture(scope="session")
def key_list(shared) -> Callable[[str], dict]:
    """Reads ``keys_NAME.json``."""
    return lambda name: json.loads((shared / "golden" / f"keys_{name}.json").read_text())


@pytest.fixture(scope="session")
def published(key_list):
    """The weights of ``keys_NAME.json``, made once for all tests."""
    return functools.cache(lambda name: _made_file(key_list(name)))


@pytest.fixture(scope="session")
def simple_file() -> Callable[[dict[str, list[int]]], dict[str, torch.Tensor]]:
    """Makes tensors of a key list that differ from name to name, in a moment also for large networks."""
    return lambda keys: {
        name: torch.full(shape, zlib.crc32(name.encode()) % 999 / 999.0).to(
            torch.int64 if name.endswith("num_batches_tracked") else torch.float32
        )
        for name, shape in keys.items()
    }


@pytest.fixture(scope="session")
def unset_model() -> Callable[[LMANetConfig], LMANet]:
    """Builds a network of undefined weights, in a moment also where it is large."""

    def build(config: LMANetConfig) -> LMANet:
        with torch.device("meta"):
            return build_lmanet(config).to_empty(device="cpu")

    return build
