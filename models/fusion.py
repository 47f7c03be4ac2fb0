"""Fusion of the memory read with the value of the current frame.

``FUSIONS`` are the published strategies, whose output replaces the features; that of the residual one is added to them.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbone import WIDEST_FOR_3X3_GATES

BATCH_NORM_EPS = 1e-3
REDUCED_CHANNELS = 256


class PreparedInput(nn.Sequential):
    """Batch norm, channel dropout and ReLU of one input."""

    def __init__(self, channels: int, dropout: float):
        super().__init__(nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS), nn.Dropout2d(dropout), nn.ReLU())


class GatedFusion(nn.Module):
    """Gated sum of features of both inputs: B D h w twice -> B 2D h w (paper, section III-C).

    ``prepare_dropout`` is the dropout rate of the prepared inputs, ``None`` for no preparation; ``gate_activation`` is
    applied to the gates; with ``one_gate`` both inputs share a gate.
    """

    def __init__(
        self,
        channels: int,
        prepare_dropout: float | None = None,
        gate_activation: Callable[[Tensor], Tensor] = torch.sigmoid,
        one_gate: bool = False,
    ):
        super().__init__()
        wide = 2 * channels
        self.prepare_query, self.prepare_read = (
            nn.Identity() if prepare_dropout is None else PreparedInput(channels, prepare_dropout) for _ in range(2)
        )
        self.features_query = nn.Conv2d(channels, wide, 3, padding=1)
        self.features_read = nn.Conv2d(channels, wide, 3, padding=1)
        self.gate_query = nn.Conv2d(wide, wide, 3, padding=1)
        if not one_gate:
            self.gate_read = nn.Conv2d(wide, wide, 3, padding=1)
        self.one_gate = one_gate
        self.gate_activation = gate_activation
        self.norm = nn.BatchNorm2d(wide, eps=BATCH_NORM_EPS)

    def forward(self, query: Tensor, read: Tensor) -> Tensor:
        query, read = self.prepare_query(query), self.prepare_read(read)
        both = torch.cat([query, read], dim=1)
        gate_query = self.gate_activation(self.gate_query(both))
        gate_read = gate_query if self.one_gate else self.gate_activation(self.gate_read(both))
        fused = gate_query * self.features_query(query) + gate_read * self.features_read(read)
        return F.relu(self.norm(fused))


class ConcatFusion(nn.Module):
    """Both prepared inputs, concatenated: B D h w twice -> B 2D h w."""

    def __init__(self, channels: int):
        super().__init__()
        self.prepare_query = PreparedInput(channels, 0.3)
        self.prepare_read = PreparedInput(channels, 0.3)

    def forward(self, query: Tensor, read: Tensor) -> Tensor:
        return torch.cat([self.prepare_query(query), self.prepare_read(read)], dim=1)


class ReducedGateFusion(nn.Module):
    """Sum of both inputs, with gates from a channel reduction of both: B D h w twice -> B D h w.

    One convolution reduces both inputs. Published files hold a second, unused one; so does this, frozen.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, REDUCED_CHANNELS, 1)
        self.reduce_unused = nn.Conv2d(channels, REDUCED_CHANNELS, 1).requires_grad_(False)
        self.reduced_norm = nn.BatchNorm2d(REDUCED_CHANNELS, eps=BATCH_NORM_EPS)
        self.gate_query = nn.Conv2d(REDUCED_CHANNELS, channels, 1)
        self.gate_read = nn.Conv2d(REDUCED_CHANNELS, channels, 1)
        self.norm = nn.BatchNorm2d(channels, eps=BATCH_NORM_EPS)

    def forward(self, query: Tensor, read: Tensor) -> Tensor:
        reduced = F.relu(self.reduced_norm(self.reduce(query) + self.reduce(read)))
        gate_query, gate_read = torch.sigmoid(self.gate_query(reduced)), torch.sigmoid(self.gate_read(reduced))
        return F.relu(self.norm(query * gate_query + read * gate_read))


class ResidualFusion(nn.Module):
    """What the memory adds to the features: the difference of what was read to them, times a gate: B F h w twice -> B F
    h w. Values are the features themselves.

    The gate starts at zero, so that the network starts as the single frame, bit for bit. Where what was read is what
    the frame shows, nothing is added at any time. The gate sees both inputs and their absolute difference, which tells
    where they do not match.
    """

    def __init__(self, channels: int):
        super().__init__()
        side = 3 if channels <= WIDEST_FOR_3X3_GATES else 1
        hidden = min(channels, REDUCED_CHANNELS)
        self.reduce = nn.Conv2d(3 * channels, hidden, side, padding=side // 2)
        self.gate = nn.Conv2d(hidden, channels, side, padding=side // 2)
        for parameter in self.gate.parameters():
            nn.init.zeros_(parameter)

    def forward(self, query: Tensor, read: Tensor) -> Tensor:
        change = read - query
        gate = self.gate(F.relu(self.reduce(torch.cat([query, read, change.abs()], dim=1))))
        return gate * change


def unchanged(x: Tensor) -> Tensor:
    return x


FUSIONS: dict[str, Callable[[int], nn.Module]] = {
    "sigmoid-do1": partial(GatedFusion, prepare_dropout=0.3),
    "sigmoid-do2": partial(GatedFusion, prepare_dropout=0.0),
    "sigmoid-do3": partial(GatedFusion, prepare_dropout=0.3, one_gate=True),
    "sigmoid": GatedFusion,
    "linear": partial(GatedFusion, gate_activation=unchanged),
    "simple-sigmoid": partial(GatedFusion, one_gate=True),
    "concat": ConcatFusion,
    "sigmoid-down1": ReducedGateFusion,
}
