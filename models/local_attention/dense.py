"""Global attention: every query against every position of every frame, for ``--no-local-correlation``."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.local_attention.checks import check_inputs, promoted_under_autocast, without_autocast


def global_attention(query: Tensor, keys: Tensor, values: Tensor, sink: Tensor | None = None) -> Tensor:
    """Attention of every query to all ``T h w`` positions, scores divided by ``sqrt(C)``; the sink is one more score.

    query ``B C h w``, keys ``B C T h w``, values ``B D T h w``, sink None or one element (not divided) -> ``B D h w``.
    Raises TypeError or ValueError for tensors that do not match.
    """
    if isinstance(query, Tensor) and isinstance(keys, Tensor) and isinstance(values, Tensor):
        query, keys, values = promoted_under_autocast(query, keys, values)
    check_inputs(query, keys, values, sink)
    (b, c, h, w), d = query.shape, values.shape[1]
    q = query.flatten(2).transpose(1, 2).unsqueeze(1)  # B 1 hw C
    k = keys.flatten(2).transpose(1, 2).unsqueeze(1)  # B 1 Thw C
    v = values.flatten(2).transpose(1, 2).unsqueeze(1)  # B 1 Thw D
    if sink is not None:
        q, k, v = _with_sink(q, k, v, sink)
    with without_autocast(query):
        out = F.scaled_dot_product_attention(q, k, v, scale=c**-0.5)
    return out.squeeze(1).transpose(1, 2).reshape(b, d, h, w)


def _with_sink(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Adds a channel that is 1 in every query, 0 in every key and ``sink sqrt(C)`` in one more key, whose value is 0.

    So the sink needs no mask ``hw x Thw``, which would cost the fused kernels their memory advantage.
    """
    scale = q.shape[-1] ** 0.5
    q = torch.cat([q, torch.ones_like(q[..., :1])], -1)
    last = F.pad((sink.reshape(1, 1, 1, 1) * scale).to(k.dtype), (k.shape[-1], 0)).expand(k.shape[0], -1, -1, -1)
    return q, torch.cat([F.pad(k, (0, 1)), last], 2), F.pad(v, (0, 0, 0, 1))
