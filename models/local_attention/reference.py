"""The definition of the attention, which the other backends are tested against. Slow, any device, any dtype."""

import torch
import torch.nn.functional as F
from torch import Tensor


def reference_attention(
    query: Tensor, keys: Tensor, values: Tensor, window: int, sink: Tensor | None, masked: bool = False
) -> Tensor:
    """Softmax over all ``T n n`` scores of a query; by padding, neighbors outside of the frame have score and value 0.

    Those of a ``masked`` border have score minus infinity.

    query ``B C h w``, keys ``B C T h w``, values ``B D T h w`` -> ``B D h w``. Source: Paul et al. 2021, section 3.2.
    """
    (h, w), r = query.shape[-2:], window // 2
    keys, values = F.pad(keys, (r, r, r, r)), F.pad(values, (r, r, r, r))
    neighbors = [(..., slice(y, y + h), slice(x, x + w)) for y in range(window) for x in range(window)]
    scores = torch.cat([torch.einsum("bchw,bcthw->bthw", query, keys[at]) for at in neighbors], 1)  # B nnT h w
    if masked:
        inside = F.pad(query.new_ones(1, keys.shape[2], h, w), (r, r, r, r))
        scores = scores.masked_fill(torch.cat([inside[at] for at in neighbors], 1) == 0, -torch.inf)
    if sink is not None:
        scores = torch.cat([scores, sink.to(scores).expand(scores.shape[0], 1, h, w)], 1)
    weights = scores.softmax(1).split(keys.shape[2], 1)  # one B T h w for each neighbor
    reads = (torch.einsum("bthw,bdthw->bdhw", p, values[at]) for p, at in zip(weights, neighbors, strict=False))
    return sum(reads, start=values.new_zeros(()))
