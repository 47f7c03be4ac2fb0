"""The memory inspector: where the attention of a pixel of the current frame goes in each frame of the memory."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from models.attention_weights import PixelAttention, global_weights, local_weights
from models.config import LMANetConfig
from models.lmanet import LMANet
from models.memory import FrameMemory
from models.normalize import network_input
from utils.class_set import ClassSet
from utils.resize import resize_labels
from utils.visualize import enlarged_to, heat_overlay, heat_scale, marked, narrowed, stacked

# Height of what is shown of a memory frame, in sides of the window.
SURROUNDINGS = 1.3


@dataclass(frozen=True)
class PixelPictures:
    """What is shown of one pixel: the current frame with a mark, and each memory frame, oldest first, with its heat."""

    current: np.ndarray
    past: tuple[np.ndarray, ...]
    captions: tuple[str, ...]  # of ``past``: which frame it is, and its share of the attention
    shares: tuple[float, ...]  # of the attention, one a memory frame
    outside: float  # share that neighbors outside of the frame take
    sink: float  # share that the learned constant takes

    def elsewhere(self) -> str:
        """The shares that no memory frame gets, in words; empty where there are none."""
        parts = [f"{100 * self.outside:.1f} % outside of the frame"] if self.outside >= 0.0005 else []
        parts += [f"{100 * self.sink:.1f} % to the learned constant"] if self.sink else []
        return ", ".join(parts)


@dataclass(frozen=True)
class MemoryView:
    """One clip as its last frame sees it: pictures H W 3, query keys ``C h w``, memory keys ``C T h w``."""

    frame: np.ndarray
    past: tuple[np.ndarray, ...]
    query: Tensor
    keys: Tensor
    sink: Tensor | None
    config: LMANetConfig

    def cell_at(self, down: float, right: float) -> tuple[int, int]:
        """Row and column of the feature pixel at a place in the picture, both given as shares of its sides."""
        height, width = self.query.shape[-2:]
        row, column = int(down * height), int(right * width)
        return min(max(row, 0), height - 1), min(max(column, 0), width - 1)

    def attention(self, row: int, column: int) -> PixelAttention:
        if self.config.local:
            window, masked = self.config.corr_size, self.config.mask_border
            return local_weights(self.query, self.keys, row, column, window, self.sink, masked)
        return global_weights(self.query, self.keys, row, column, self.sink)

    def pictures(self, row: int, column: int, width: int = 640) -> PixelPictures:
        """What is shown of the feature pixel at ``row, column``, pictures at most ``width`` wide.

        Memory frames are cut to what surrounds the window where it is small.
        """
        attention = self.attention(row, column)
        maps, shown = self._spread(attention.weights, row, column)
        part = self._surroundings(row, column)
        highest = maps.max().item()
        past = [
            heat_overlay(narrowed(self._cut(frame, part), width), heat[part], shown[part], highest)
            for frame, heat in zip(self.past, maps.numpy(), strict=True)
        ]
        current, (height, wide) = narrowed(self.frame, width), self.query.shape[-2:]
        down, right = (row + 0.5) * current.shape[0] / height, (column + 0.5) * current.shape[1] / wide
        shares = tuple(attention.weights.flatten(1).sum(1).tolist())
        return PixelPictures(
            marked(current, down, right),
            tuple(stacked([picture, heat_scale(picture.shape[1], highest)]) for picture in past),
            tuple(f"{name}: {100 * share:.1f} %" for name, share in zip(self.names(), shares, strict=True)),
            shares,
            attention.outside,
            attention.sink,
        )

    def names(self) -> list[str]:
        """What to call each memory frame, by how many processed frames it lies before the current one."""
        newest = 0 if self.config.memorize_first else 1
        ages = range(newest + len(self.past) - 1, newest - 1, -1)
        return [f"memory frame −{age}" if age else "the current frame" for age in ages]

    def _surroundings(self, row: int, column: int) -> tuple[slice, slice]:
        """Rows and columns of the features that are shown of a memory frame."""
        height, width = self.query.shape[-2:]
        tall = round(SURROUNDINGS * self.config.corr_size)
        if not self.config.local or tall >= height:
            return slice(0, height), slice(0, width)
        wide = min(width, round(tall * width / height))
        top = min(max(0, row - tall // 2), height - tall)
        left = min(max(0, column - wide // 2), width - wide)
        return slice(top, top + tall), slice(left, left + wide)

    def _cut(self, picture: np.ndarray, part: tuple[slice, slice]) -> np.ndarray:
        """The part of a picture, given in rows and columns of the features, enlarged to the width of the whole."""
        height, width = self.query.shape[-2:]
        down, right = picture.shape[0] / height, picture.shape[1] / width
        rows = slice(round(part[0].start * down), round(part[0].stop * down))
        columns = slice(round(part[1].start * right), round(part[1].stop * right))
        return enlarged_to(picture[rows, columns], picture.shape[1])

    def _spread(self, weights: Tensor, row: int, column: int) -> tuple[Tensor, np.ndarray]:
        """Weights laid over the whole frame, ``T h w``, and where the window is, ``h w``."""
        height, width = self.query.shape[-2:]
        if not self.config.local:
            return weights, np.ones((height, width), dtype=bool)
        reach = self.config.corr_size // 2
        padded = weights.new_zeros(len(weights), height + 2 * reach, width + 2 * reach)
        window = slice(row, row + 2 * reach + 1), slice(column, column + 2 * reach + 1)
        padded[:, window[0], window[1]] = weights
        shown = np.zeros((height, width), dtype=bool)
        shown[max(0, row - reach) : row + reach + 1, max(0, column - reach) : column + reach + 1] = True
        return padded[:, reach : reach + height, reach : reach + width], shown


@torch.inference_mode()
def memory_view(model: LMANet, frames: Tensor, device: torch.device) -> MemoryView | None:
    """What the last frame of a clip (``S 3 H W`` uint8, the processed frames) reads from the memory.

    ``None`` for a network without a memory. The network is in the mode that it was in, afterwards too.
    """
    config = model.config
    if config.baseline:
        return None
    training = model.training
    model.eval()
    try:
        key, memory = _last_read(model, network_input(frames[None], config.traits, device))
    finally:
        model.train(training)
    size = memory.keys.shape[2]
    past = frames[-size:] if config.memorize_first else frames[-size - 1 : -1]
    return MemoryView(
        _picture(frames[-1]),
        tuple(_picture(frame) for frame in past),
        key[0].float().cpu(),
        memory.keys[0].float().cpu(),
        model.attention_constant.detach().float().cpu() if config.learnable_constant else None,
        config,
    )


def telling_cells(
    prediction: np.ndarray, size: tuple[int, int], count: int, classes: ClassSet
) -> list[tuple[int, int, int]]:
    """Class, row and column of up to ``count`` feature pixels that are worth a look: one of a class, in the order of
    ``classes.shown_first``, each the pixel of its class nearest to the middle of all of them.

    ``prediction`` is H W class indices, ``size`` height and width of the features.
    """
    small = resize_labels(prediction, size)  # h w
    in_order = map(classes.names.index, classes.shown_first)
    present = [index for index in in_order if (small == index).sum() >= 2]
    return [(index, *_middle(small == index)) for index in present[:count]]


def _middle(mask: np.ndarray) -> tuple[int, int]:
    places = np.argwhere(mask)
    nearest = np.abs(places - np.median(places, axis=0)).sum(axis=1).argmin()
    return int(places[nearest][0]), int(places[nearest][1])


def _last_read(model: LMANet, clip: Tensor) -> tuple[Tensor, FrameMemory]:
    """Query key ``B C h w`` and memory of the last read of a clip, as the network itself passes them."""
    reads: list[tuple[Tensor, FrameMemory]] = []

    def note(read: nn.Module, arguments: tuple) -> None:
        reads[:] = [arguments[:2]]

    hook = model.read.register_forward_pre_hook(note)
    try:
        model(clip, selected=True)
    finally:
        hook.remove()
    return reads[0]


def _picture(frame: Tensor) -> np.ndarray:
    return np.ascontiguousarray(frame.permute(1, 2, 0).numpy())
