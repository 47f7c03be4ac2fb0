"""Attention weights of a single query, for visualization; the network itself does not use them."""

from typing import NamedTuple

import torch
from torch import Tensor


class PixelAttention(NamedTuple):
    """Softmax weights of one query, ``T n n`` (``T h w`` where global); with ``outside`` and ``sink`` they sum to 1.

    Weights of neighbors outside of the frame, which have no value, are 0 in ``weights`` and summed in ``outside``;
    ``sink`` is the weight of the learned constant.
    """

    weights: Tensor
    outside: float
    sink: float


def local_weights(
    query: Tensor,
    keys: Tensor,
    row: int,
    column: int,
    window: int,
    sink: Tensor | None = None,
    mask_border: bool = False,
) -> PixelAttention:
    """Weights ``T n n`` of the query at ``row, column`` over its n x n neighbors in each of the T frames.

    query ``C h w``, keys ``C T h w``. Neighbors outside of the frame have score 0, as in the local attention itself
    (Paul et al. 2021, section 3.2), or are masked with ``mask_border``.
    """
    reach, (height, width) = window // 2, query.shape[-2:]
    rows, columns = (torch.arange(at - reach, at + reach + 1, device=query.device) for at in (row, column))
    inside = ((rows >= 0) & (rows < height)).unsqueeze(1) & ((columns >= 0) & (columns < width))  # n n
    near = keys[:, :, rows.clamp(0, height - 1)][..., columns.clamp(0, width - 1)]  # C T n n
    scores = torch.einsum("c,ctyx->tyx", query[:, row, column], near) * inside
    if mask_border:
        scores = scores.masked_fill(~inside, -torch.inf)
    weights, taken = _softmax(scores, sink)
    return PixelAttention(weights * inside, (weights * ~inside).sum().item(), taken)


def global_weights(query: Tensor, keys: Tensor, row: int, column: int, sink: Tensor | None = None) -> PixelAttention:
    """Weights ``T h w`` of the query at ``row, column`` over all positions, scores divided by ``sqrt(C)``.

    query ``C h w``, keys ``C T h w``.
    """
    scores = torch.einsum("c,ctyx->tyx", query[:, row, column], keys) * len(query) ** -0.5
    weights, taken = _softmax(scores, sink)
    return PixelAttention(weights, 0.0, taken)


def _softmax(scores: Tensor, sink: Tensor | None) -> tuple[Tensor, float]:
    if sink is None:
        return scores.flatten().softmax(0).view_as(scores), 0.0
    weights = torch.cat([scores.flatten(), sink.reshape(1).to(scores)]).softmax(0)
    return weights[:-1].view_as(scores), weights[-1].item()
