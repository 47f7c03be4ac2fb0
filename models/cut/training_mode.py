"""Modules that return something else in training mode, such as auxiliary logits or a loss beside the logits."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from models.cut.frames import line_of
from models.cut.record import around, recorded
from utils.errors import OptionError


@torch.no_grad()
def held_in_evaluation(network: nn.Module, frame: Tensor, cut: str, sources: list[str]) -> frozenset[str]:
    """Names of modules that must stay in evaluation mode while the network trains; their parts train.

    As few as it takes until the modules before the cut, ``sources``, and the network return tensors of the same number
    and shapes as in evaluation mode: those around the cut, those before it, or all that have parts. Raises
    ``OptionError`` where nothing helps.
    """
    expected, reason = _shapes(network, frame, cut, sources), ""
    for held in _candidates(network, cut, sources):
        network.train()
        for name, module in network.named_modules():
            # A batch norm or a dropout has no parts; its shapes are the same, and one frame is enough for it.
            if name in held or next(module.children(), None) is None:
                module.training = False
        try:
            if _shapes(network, frame, cut, sources) == expected:
                return frozenset(held)
        except Exception as error:  # whatever the network raises, such as for labels that it asks for
            reason = reason or line_of(error)
        finally:
            network.eval()
    raise OptionError(
        f"{type(network).__name__} returns no logits in training mode{reason and f' ({reason})'}: expected a network "
        "that returns them in training as in evaluation"
    )


def _candidates(network: nn.Module, cut: str, sources: list[str]) -> Iterator[list[str]]:
    yield []
    yield around(cut)
    yield [*around(cut), *sources]
    yield [name for name, _ in network.named_modules()]


def _shapes(network: nn.Module, frame: Tensor, cut: str, sources: list[str]) -> list[list[torch.Size]]:
    run = recorded(network, frame, {*sources, ""}, cut)
    return [[tensor.shape for tensor in run.copies[name]] for name in (*sources, "")]
