"""The memory of past frames, what adds a frame to it, and the heads that make its keys and values."""

import copy
from typing import NamedTuple, Protocol

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


class FrameMemory(Protocol):
    """A memory of any kind, as it is read: keys ``B C T h w`` and values ``B D T h w`` of the last frames."""

    @property
    def keys(self) -> Tensor: ...

    @property
    def values(self) -> Tensor: ...


class Memory(NamedTuple):
    """Keys ``B C T h w`` and values ``B D T h w`` of the last frames, oldest first. It belongs to the caller."""

    keys: Tensor
    values: Tensor


class PaddedMemory(NamedTuple):
    """A memory of fixed shapes, for exported graphs: the last ``filled`` of its T frames are there (int64 ``[]``)."""

    keys: Tensor
    values: Tensor
    filled: Tensor


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

    def copy(self) -> "RingMemory":
        """A memory with the same frames, which further ones do not change."""
        other = copy.copy(self)
        other._keys, other._values = self._keys.clone(), self._values.clone()
        return other

    def push(self, key: Tensor, value: Tensor) -> None:
        slot = self._pushed % self._keys.shape[2]
        self._keys[:, :, slot].copy_(key)
        self._values[:, :, slot].copy_(value)
        self._pushed += 1


class _Push(nn.Module):
    def __init__(self, capacity: int):
        super().__init__()
        self.capacity = capacity

    def extra_repr(self) -> str:
        return f"capacity={self.capacity}"


class Push(_Push):
    """Adds a frame to a memory that holds up to ``capacity`` frames; a full one loses its oldest."""

    def forward(self, memory: Memory | None, key: Tensor, value: Tensor) -> Memory:
        """A new memory with the frame's key ``B C h w`` and value ``B D h w``; ``memory`` itself is unchanged."""
        key, value = key.unsqueeze(2), value.unsqueeze(2)
        if memory is None:
            return Memory(key, value)
        kept = max(0, memory.keys.shape[2] - self.capacity + 1)
        return Memory(
            torch.cat([memory.keys[:, :, kept:], key], dim=2),
            torch.cat([memory.values[:, :, kept:], value], dim=2),
        )


class PushInPlace(_Push):
    """As ``Push``, but ``memory`` itself changes and is returned: for streams, which keep no older one."""

    def forward(self, memory: RingMemory | None, key: Tensor, value: Tensor) -> RingMemory:
        if memory is None:
            memory = RingMemory(key, value, self.capacity)
        memory.push(key, value)
        return memory


class PushPadded(nn.Module):
    """As ``Push``, for a ``PaddedMemory``, whose T is the capacity."""

    def forward(self, memory: PaddedMemory, key: Tensor, value: Tensor) -> PaddedMemory:
        return PaddedMemory(
            torch.cat([memory.keys[:, :, 1:], key.unsqueeze(2)], dim=2),
            torch.cat([memory.values[:, :, 1:], value.unsqueeze(2)], dim=2),
            (memory.filled + 1).clamp(max=memory.keys.shape[2]),
        )
