"""The memory of past frames and the heads that make its keys and values."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class KeyValueHead(nn.Module):
    """Makes a key and a value of an encoder's features, each by a 3x3 convolution (paper, section III-B).

    Where a value has as many channels as there are features, the features themselves are the value.
    """

    def __init__(self, features: int, key_channels: int, value_channels: int):
        super().__init__()
        self.key = nn.Conv2d(features, key_channels, 3, padding=1)
        takes_features = value_channels == features
        self.value = nn.Identity() if takes_features else nn.Conv2d(features, value_channels, 3, padding=1)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:  # B F h w -> B C h w, B D h w
        return self.key(features), self.value(features)


class Memory(NamedTuple):
    """Keys ``B C T h w`` and values ``B D T h w`` of the last frames, oldest first. It belongs to the caller."""

    keys: Tensor
    values: Tensor


def pushed(memory: Memory | None, key: Tensor, value: Tensor, capacity: int) -> Memory:
    """The memory with one more frame; where ``capacity`` frames are in it already, without its oldest.

    ``key`` is ``B C h w``, ``value`` is ``B D h w``; ``memory`` itself stays as it is.
    """
    key, value = key.unsqueeze(2), value.unsqueeze(2)
    if memory is None:
        return Memory(key, value)
    kept = max(0, memory.keys.shape[2] - capacity + 1)
    return Memory(
        torch.cat([memory.keys[:, :, kept:], key], dim=2),
        torch.cat([memory.values[:, :, kept:], value], dim=2),
    )


class RingMemory:
    """A memory that is filled in place: once full, a new frame overwrites the oldest, and nothing is allocated.

    It reads as a ``Memory`` does. Frames do not lie in the order in which they came, which attention does not see:
    its softmax runs over all of them jointly.
    """

    def __init__(self, key: Tensor, value: Tensor, capacity: int):
        (batch, key_channels, height, width), value_channels = key.shape, value.shape[1]
        self._keys = key.new_empty(batch, key_channels, capacity, height, width)
        self._values = value.new_empty(batch, value_channels, capacity, height, width)
        if value.device.type == "cpu" and value.stride(1) == 1:  # the fused attention reads them as they come
            self._values = self._values.to(memory_format=torch.channels_last_3d)
        self._pushed = 0

    @property
    def keys(self) -> Tensor:  # B C T h w
        return self._keys[:, :, : self._pushed]

    @property
    def values(self) -> Tensor:  # B D T h w
        return self._values[:, :, : self._pushed]

    def push(self, key: Tensor, value: Tensor) -> None:
        slot = self._pushed % self._keys.shape[2]
        self._keys[:, :, slot].copy_(key)
        self._values[:, :, slot].copy_(value)
        self._pushed += 1


def pushed_in_place(memory: RingMemory | None, key: Tensor, value: Tensor, capacity: int) -> RingMemory:
    """As ``pushed``, but ``memory`` itself changes and is what comes out: for streams, which keep no older one."""
    if memory is None:
        memory = RingMemory(key, value, capacity)
    memory.push(key, value)
    return memory
