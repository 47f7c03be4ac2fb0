"""Evaluation of a network on labeled clips: counts, loss, times, pictures and predictions on disk."""

import logging
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.cityscapes import Clip
from datasets.classes import CLASS_NAMES, IGNORED, NUM_CLASSES, PALETTE, train_ids_to_label_ids
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.loading import Timed, network_input
from models.lmanet import LMANet
from utils import distributed
from utils.errors import DataError
from utils.timing import synchronized_seconds
from utils.visualize import ERROR_LEGEND, colorized, error_map, legend, overlay, stacked, write_png

log = logging.getLogger(__name__)

LEGEND_WIDTH = 640

# Called with a clip's number, its last frame 3 H W, its prediction and label, both of the label's size, on the CPU.
OnClip = Callable[[int, Tensor, Tensor, Tensor], None]


@dataclass
class Evaluation:
    """What one pass over the clips gave; the network's seconds are per processed frame, each of a clip of this process;
    a process waited so long for data, on the mean."""

    confusion: ConfusionMatrix
    original_confusion: ConfusionMatrix
    loss: float = 0.0
    clips: int = 0
    waiting_seconds: float = 0.0
    network_seconds: list[float] = field(default_factory=list)

    def network_seconds_per_frame(self) -> float:
        """Median over the clips; the first one, which warms up, does not count where there are others."""
        return statistics.median(self.network_seconds[1:] or self.network_seconds or [0.0])


@torch.inference_mode()
def evaluate(
    model: LMANet,
    loader: DataLoader,
    loss_function: nn.Module,
    device: torch.device,
    on_clip: OnClip | None = None,
    original_labels: bool = False,
    on_batch: Callable[[Evaluation], None] | None = None,
    before_batch: Callable[[], None] | None = None,
) -> Evaluation:
    """Predicts the last frame of every clip of the loader and counts; leaves the model in evaluation mode.

    With ``original_labels`` predictions are enlarged by nearest neighbor and counted at the labels' own size too;
    ``on_clip`` is called for every clip, ``on_batch`` after every batch with what there is so far. Where several
    processes evaluate, each goes through its share of the clips, and all get the counts, the loss and the number of
    clips of all of them; ``before_batch`` is called equally often in each. Raises ``DataError`` where not every clip
    was counted once.
    """
    model.eval()
    result = Evaluation(ConfusionMatrix(NUM_CLASSES, device), ConfusionMatrix(NUM_CLASSES, device))
    batches, total_loss = Timed(loader, device), 0.0
    calls = max(distributed.all_gather(len(loader)))
    quiet = None if distributed.is_first() else True
    for sample in tqdm(batches, "evaluation", total=len(loader), unit="batch", disable=quiet, leave=False):
        if before_batch is not None:
            before_batch()
        clip = network_input(sample.frames, model.config.traits, device)
        label = sample.label.to(device, non_blocking=True)
        start = synchronized_seconds(device)
        logits = model(clip, selected=True)
        result.network_seconds.append((synchronized_seconds(device) - start) / (clip.shape[0] * clip.shape[1]))
        prediction = logits[:, -1].argmax(1).to(torch.uint8)
        total_loss += loss_function(logits, label).item() * len(label)
        result.clips += len(label)
        result.confusion.update(prediction, label)
        if original_labels:
            original = sample.original_label.to(device, non_blocking=True)
            result.original_confusion.update(enlarged(prediction, original.shape[-2:]), original)
        if on_clip is not None:
            for number, frames, predicted, labeled in zip(
                sample.index.tolist(), sample.frames, prediction.cpu(), sample.label, strict=True
            ):
                on_clip(number, frames[-1], predicted, labeled)
        if on_batch is not None:
            on_batch(result)
    for _ in range(calls - len(loader) if before_batch is not None else 0):
        before_batch()
    result.waiting_seconds = batches.waiting_seconds
    _sum_over_processes(result, total_loss, len(loader.dataset))
    return result


def _sum_over_processes(result: Evaluation, total_loss: float, expected: int) -> None:
    result.clips = int(distributed.all_reduce_sum(torch.tensor(result.clips)))
    if result.clips != expected:
        raise DataError(f"{result.clips} clips were evaluated: expected each of the {expected} once")
    own = torch.tensor([total_loss, result.waiting_seconds], dtype=torch.float64)
    loss, waiting = distributed.all_reduce_sum(own).tolist()
    result.loss, result.waiting_seconds = loss / result.clips, waiting / distributed.world_size()
    for matrix in (result.confusion, result.original_confusion):
        matrix.counts = distributed.all_reduce_sum(matrix.counts)


def enlarged(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Label maps ``... H W`` uint8 brought to another size by nearest neighbor."""
    flat = labels.reshape(1, -1, *labels.shape[-2:])
    return F.interpolate(flat, size=tuple(size), mode="nearest-exact").view(*labels.shape[:-2], *size)


class PictureWriter:
    """Writes frame, label, prediction, overlay and error map of each clip to ``FOLDER/NAME_*.png``, with a legend."""

    def __init__(self, folder: Path, clips: list[Clip]):
        folder.mkdir(parents=True, exist_ok=True)
        write_png(folder / "legend.png", class_legend(LEGEND_WIDTH))
        self.folder, self.clips = folder, clips

    def __call__(self, number: int, frame: Tensor, prediction: Tensor, label: Tensor) -> None:
        size = tuple(frame.shape[-2:])
        image = frame.permute(1, 2, 0).numpy()
        predicted, labeled = enlarged(prediction, size).numpy(), enlarged(label, size).numpy()
        pictures = {
            "frame": image,
            "label": colorized(labeled, PALETTE),
            "prediction": colorized(predicted, PALETTE),
            "overlay": overlay(image, predicted, PALETTE),
            "errors": error_map(image, predicted, labeled, IGNORED),
        }
        for kind, picture in pictures.items():
            write_png(self.folder / f"{self.clips[number].name}_{kind}.png", picture)


class PredictionWriter:
    """Writes predictions as label ids, at the labels' own size and under names that the benchmark's scripts find."""

    def __init__(self, folder: Path, clips: list[Clip], size_of: Callable[[Path], tuple[int, int]]):
        self.folder, self.clips, self.size_of = folder, clips, size_of

    def __call__(self, number: int, frame: Tensor, prediction: Tensor, label: Tensor) -> None:
        clip = self.clips[number]
        folder = self.folder / clip.city
        folder.mkdir(parents=True, exist_ok=True)
        predicted = enlarged(prediction, self.size_of(clip.label)).numpy()
        write_png(folder / f"{clip.name}_pred_labelIds.png", train_ids_to_label_ids[predicted])


def all_of(*writers: OnClip | None) -> OnClip | None:
    """One function that calls those of the given ones that are there."""
    present = [writer for writer in writers if writer is not None]

    def call_each(*clip: object) -> None:
        for writer in present:
            writer(*clip)

    return call_each if present else None


def class_legend(width: int) -> np.ndarray:
    """What the colors of labels and of error maps stand for."""
    classes = [*CLASS_NAMES[:IGNORED], "without a label"]
    errors = [f"errors: {name}" for name, _ in ERROR_LEGEND]
    return stacked([legend(classes, PALETTE, width), legend(errors, [color for _, color in ERROR_LEGEND], width)])


def class_names() -> tuple[str, ...]:
    return CLASS_NAMES[:IGNORED]
