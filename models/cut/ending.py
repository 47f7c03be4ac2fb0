"""What a network ends in: its classifier, and what enlarges its logits."""

from __future__ import annotations

from torch import Tensor, nn

from models.cut.frames import Size
from models.cut.halves import Decoder


def last_layer(decoder: Decoder, encoded: Tensor | tuple[Tensor, ...], size: Size, channels: int) -> str | None:
    """The name of the last convolution or linear layer with as many outputs as there are logits: the classifier."""
    called: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in decoder.named_modules()
        if getattr(module, "out_channels", getattr(module, "out_features", None)) == channels
    ]
    try:
        decoder(encoded, size)
    finally:
        for hook in hooks:
            hook.remove()
    return called[-1] if called else None


def enlarging_module(decoder: Decoder, encoded: Tensor | tuple[Tensor, ...], size: Size) -> str | None:
    """The name of the module that enlarges the logits bilinearly at the end; ``None`` where there is none."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda module, inputs, output, name=name: outputs.update({name: output}))
        for name, module in decoder.network.named_modules()
        if isinstance(module, nn.Upsample)
        and module.mode == "bilinear"
        and isinstance(module.scale_factor, float | int)
    ]
    try:
        logits = decoder(encoded, size)
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name, output in outputs.items() if output is logits), None)
