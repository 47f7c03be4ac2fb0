"""Heads, attention and fusion in products of bfloat16 numbers: twice as many at once, where the processor has them.

Tensors and sums stay float32.
"""

from torch import Tensor

from models.line_convolution import LineConvolution
from models.lmanet import LMANet
from models.local_attention import cpu
from models.local_attention.border import inside_the_frame
from models.memory import FrameMemory
from models.memory_read import MemoryRead


def use_bfloat16(fast: LMANet) -> str | None:
    """Lets heads, attention and fusion of a ``fast_copy`` multiply bfloat16 numbers, in place.

    Returns why they cannot here, as a phrase, or None. What is no 3x3 convolution of enough channels stays as it is.
    """
    why_not = cpu.why_not_bfloat16()
    if why_not is not None or fast.config.baseline:
        return why_not
    for part in (fast.query_head, fast.memory_head, fast.fusion):
        for each in part.modules():
            if isinstance(each, LineConvolution):
                each.in_bfloat16 = each.fits_library()
    fast.read = Bfloat16Read(fast.config)
    return None


class Bfloat16Read(MemoryRead):
    """Reads a memory with products of bfloat16 numbers, where the ``cpu`` backend would read it."""

    def attend(self, key: Tensor, memory: FrameMemory, sink: Tensor | None) -> Tensor:
        values = memory.values
        is_float = key.dtype == memory.keys.dtype == values.dtype and not values.requires_grad
        suits = self.local and self.backend in ("auto", "cpu") and is_float
        if not suits or cpu.why_not_cpu(key, memory.keys, values, self.window, sink) is not None:
            return super().attend(key, memory, sink)

        def read(wider: Tensor) -> Tensor:
            return cpu.read_in_bfloat16(key, memory.keys, wider, sink, self.window)

        return inside_the_frame(read, values) if self.mask_border else read(values)
