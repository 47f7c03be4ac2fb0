"""The read of the memory: attention of the current frame's query keys over the keys and values of past frames."""

import torch
from torch import Tensor, nn

from models.config import LMANetConfig
from models.local_attention import global_attention, local_attention
from models.local_attention.border import inside_the_frame
from models.local_attention.portable import portable_attention_of
from models.memory import FrameMemory, PaddedMemory


class MemoryRead(nn.Module):
    """Reads values from a memory for query keys (Paul et al. 2021, section 3.2), with the attention of a configuration.

    It has no parameters: the learned constant, where a network has one, is passed as ``sink``.
    """

    def __init__(self, config: LMANetConfig):
        super().__init__()
        self.local, self.mask_border = config.local, config.mask_border
        self.window, self.backend = config.corr_size, config.attention_backend

    def forward(self, key: Tensor, memory: FrameMemory, sink: Tensor | None = None) -> Tensor:
        """Values ``B D h w`` for query keys ``B C h w``; ``sink`` of one element is one more score without a value.

        Raises ``ValueError`` where the memory is one of other videos or of another size.
        """
        if memory.keys.shape[0] != key.shape[0] or memory.keys.shape[-2:] != key.shape[-2:]:
            raise ValueError(
                f"the memory holds {memory.keys.shape[0]} videos with features of {tuple(memory.keys.shape[-2:])}, "
                f"the frame has {key.shape[0]} with {tuple(key.shape[-2:])}: start the memory anew with None"
            )
        return self.attend(key, memory, sink)

    def attend(self, key: Tensor, memory: FrameMemory, sink: Tensor | None) -> Tensor:
        """Attention over the memory's keys and values -> ``B D h w``."""
        if not self.local:
            return global_attention(key, memory.keys, memory.values, sink=sink)
        return local_attention(
            key, memory.keys, memory.values, self.window, sink, self.backend, mask_border=self.mask_border
        )

    def extra_repr(self) -> str:
        return f"window={self.window}, backend={self.backend!r}" if self.local else "global"


class PaddedRead(MemoryRead):
    """Reads a ``PaddedMemory`` by local attention in PyTorch's own operators, which can be exported."""

    def attend(self, key: Tensor, memory: FrameMemory, sink: Tensor | None) -> Tensor:
        assert isinstance(memory, PaddedMemory)
        # With nothing there the read is of no use, but must be a number: one frame of zeros counts as present.
        frames = memory.keys.shape[2]
        present = torch.arange(frames, device=key.device) >= frames - memory.filled.clamp(min=1)

        def read(values: Tensor) -> Tensor:
            return portable_attention_of(present, key, memory.keys, values, self.window, sink)

        return inside_the_frame(read, memory.values) if self.mask_border else read(memory.values)
