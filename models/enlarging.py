"""Decoders that end in a bilinear enlargement of their logits, which a stream leaves out: it needs the labels alone."""

from torch import Tensor, nn
from torch.nn import functional as F


def enlarged(logits: Tensor, size: tuple[int, int], align_corners: bool = False) -> Tensor:
    """Logits ``B K h w`` resized bilinearly -> ``B K H W``; the same tensor where they have that size."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size, mode="bilinear", align_corners=align_corners)


class EnlargingDecoder(nn.Module):
    """A decoder whose logits are enlarged to the frame's size at its end, until ``stop_enlarging``."""

    enlarges = True
    align_corners = False

    def stop_enlarging(self) -> None:
        """From now on logits are returned as they are; ``align_corners`` says how they are to be enlarged."""
        self.enlarges = False

    def enlarged(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits ``B K h w`` -> ``B K H W``, or as they are."""
        return enlarged(logits, size, self.align_corners) if self.enlarges else logits


def stop_enlarging(decoder: nn.Module) -> bool | None:
    """Makes a decoder, compiled or not, return its logits before they are enlarged.

    Returns the ``align_corners`` to enlarge them with; ``None`` for a decoder that goes on as before.
    """
    inner = getattr(decoder, "_orig_mod", decoder)
    if not isinstance(inner, EnlargingDecoder):
        return None
    inner.stop_enlarging()
    return inner.align_corners


class EnlargedDecoder(nn.Module):
    """A decoder that was told to stop enlarging, with the enlarging behind it."""

    def __init__(self, decoder: nn.Module, align_corners: bool):
        super().__init__()
        self.decoder, self.align_corners = decoder, align_corners

    def forward(self, features: Tensor | tuple[Tensor, ...], size: tuple[int, int]) -> Tensor:  # -> B K H W
        return enlarged(self.decoder(features, size), size, self.align_corners)
