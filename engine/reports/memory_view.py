"""The memory inspector: the attention of one pixel of the current frame over the frames of the memory."""

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

# Height of the shown part of a memory frame, in window sides.
SURROUNDINGS = 1.3


@dataclass(frozen=True)
class PixelPictures:
    """Pictures ``H W 3`` for one pixel: the current frame with the pixel marked, and a heat map over each memory frame,
    oldest first."""

    current: np.ndarray
    past: tuple[np.ndarray, ...]
    captions: tuple[str, ...]  # of ``past``: name of the frame and its share of the attention
    shares: tuple[float, ...]  # of the attention, one per memory frame, in [0, 1]
    outside: float  # share of the attention to neighbors outside of the frame
    sink: float  # share of the attention to the learned constant

    def elsewhere(self) -> str:
        """The attention that goes to no memory frame, as text; empty where there is none."""
        parts = [f"{100 * self.outside:.1f} % outside of the frame"] if self.outside >= 0.0005 else []
        parts += [f"{100 * self.sink:.1f} % to the learned constant"] if self.sink else []
        return ", ".join(parts)


@dataclass(frozen=True)
class MemoryView:
    """The last read of a clip: frame and memory frames ``H W 3``, query key ``C h w``, memory keys ``C T h w``.

    ``sink`` is the learned constant, where the network has one.
    """

    frame: np.ndarray
    past: tuple[np.ndarray, ...]
    query: Tensor
    keys: Tensor
    sink: Tensor | None
    config: LMANetConfig

    def cell_at(self, down: float, right: float) -> tuple[int, int]:
        """Row and column of the feature pixel at a position in the picture, in shares of its height and width."""
        height, width = self.query.shape[-2:]
        row, column = int(down * height), int(right * width)
        return min(max(row, 0), height - 1), min(max(column, 0), width - 1)

    def attention(self, row: int, column: int) -> PixelAttention:
        """Attention weights of the feature pixel at ``row, column`` over the memory."""
        if self.config.local:
            window, masked = self.config.corr_size, self.config.mask_border
            return local_weights(self.query, self.keys, row, column, window, self.sink, masked)
        return global_weights(self.query, self.keys, row, column, self.sink)

    def pictures(self, row: int, column: int, width: int = 640) -> PixelPictures:
        """Pictures for the feature pixel at ``row, column``, at most ``width`` pixels wide.

        Memory frames are cropped to the surroundings of the window where it is small.
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
        """Name of each memory frame: its distance to the current frame, in processed frames."""
        newest = 0 if self.config.memorize_first else 1
        ages = range(newest + len(self.past) - 1, newest - 1, -1)
        return [f"memory frame −{age}" if age else "the current frame" for age in ages]

    def _surroundings(self, row: int, column: int) -> tuple[slice, slice]:
        """Rows and columns of the shown part of a memory frame, in feature pixels."""
        height, width = self.query.shape[-2:]
        tall = round(SURROUNDINGS * self.config.corr_size)
        if not self.config.local or tall >= height:
            return slice(0, height), slice(0, width)
        wide = min(width, round(tall * width / height))
        top = min(max(0, row - tall // 2), height - tall)
        left = min(max(0, column - wide // 2), width - wide)
        return slice(top, top + tall), slice(left, left + wide)

    def _cut(self, picture: np.ndarray, part: tuple[slice, slice]) -> np.ndarray:
        """The part of a picture at rows and columns in feature pixels, enlarged to the width of the picture."""
        height, width = self.query.shape[-2:]
        down, right = picture.shape[0] / height, picture.shape[1] / width
        rows = slice(round(part[0].start * down), round(part[0].stop * down))
        columns = slice(round(part[1].start * right), round(part[1].stop * right))
        return enlarged_to(picture[rows, columns], picture.shape[1])

    def _spread(self, weights: Tensor, row: int, column: int) -> tuple[Tensor, np.ndarray]:
        """Weights of the window as maps of the whole frame, ``T h w``, and a mask of the window, ``h w``."""
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
    """The read of the memory by the last frame of a clip (uint8 ``S 3 H W``, the processed frames).

    ``None`` for a network without a memory, and for a still image, which none is read for. Evaluates the model and
    leaves it in its train or evaluation mode.
    """
    config = model.config
    if config.baseline or (len(frames) == 1 and not config.memorize_first):
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
    """Class index, row and column of up to ``count`` feature pixels to show, one per class.

    Classes are in the order of ``classes.shown_first``; the pixel is the one of its class that is nearest to the median
    position. ``prediction`` is class indices ``H W``, ``size`` the height and width of the features.
    """
    small = resize_labels(prediction, size)  # h w
    in_order = map(classes.names.index, dict.fromkeys((*classes.shown_first, *classes.names)))
    present = [index for index in in_order if (small == index).sum() >= 2]
    return [(index, *_middle(small == index)) for index in present[:count]]


def _middle(mask: np.ndarray) -> tuple[int, int]:
    places = np.argwhere(mask)
    nearest = np.abs(places - np.median(places, axis=0)).sum(axis=1).argmin()
    return int(places[nearest][0]), int(places[nearest][1])


def _last_read(model: LMANet, clip: Tensor) -> tuple[Tensor, FrameMemory]:
    """Query key ``B C h w`` and memory that the network reads at the last frame of a clip; by a hook."""
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
