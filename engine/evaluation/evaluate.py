"""Evaluation of a network on labeled clips: counts, loss and times."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from datasets.clip_dataset import Sample
from datasets.streamed_clips import StreamedClips
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.dense import ClipStream, DenseFigures, last_logits
from engine.evaluation.metric import Metric, MetricCounts
from engine.features import StoredFeatures
from engine.loading import ClipLoader, Timed, clip_indices
from models.inference.labels import all_finite
from models.inference.segmenter import NOT_FINITE
from models.lmanet import EncodedFrame, LMANet
from models.normalize import network_input
from utils import distributed
from utils.errors import DataError, ScoresError
from utils.resize import resize_labels
from utils.sizes import height_width
from utils.timing import synchronized_seconds

# The first frames take longer than those to come: kernels are compiled or chosen, memory is taken from the system.
WARM_UP_FRAMES = 3

# Called with the index of a clip, its last frame ``3 H W``, prediction and label, both of the label's size; on the CPU.
OnClip = Callable[[int, Tensor, Tensor, Tensor], None]


@dataclass
class Evaluation:
    """The result of one pass over the clips.

    ``network_seconds`` are per processed frame, one value for each batch of this process, the first ``warm_up`` of them
    those of a warm-up; ``waiting_seconds`` is the mean over the processes of the time spent waiting for data;
    ``metric_counts`` are the summed counts of metrics, by name. ``loss`` is NaN where none was asked for. ``dense`` are
    figures over all labeled frames, where clips were streamed.
    """

    confusion: ConfusionMatrix
    original_confusion: ConfusionMatrix
    metric_counts: MetricCounts = field(default_factory=MetricCounts)
    loss: float = 0.0
    clips: int = 0
    waiting_seconds: float = 0.0
    network_seconds: list[float] = field(default_factory=list)
    warm_up: int = 0
    frames: int = 0
    dense: DenseFigures | None = None

    @property
    def timed_batches(self) -> int:
        """How many batches of this process came after the warm-up."""
        return len(self.network_seconds) - self.warm_up

    def network_seconds_per_frame(self) -> float | None:
        """Median over the batches after the warm-up, in seconds; ``None`` where there are none."""
        return statistics.median(self.network_seconds[self.warm_up :]) if self.timed_batches else None

    def add_time(self, seconds: float, frames: int) -> None:
        """Adds the time of a batch of so many processed frames in the network."""
        if self.frames < WARM_UP_FRAMES:
            self.warm_up += 1
        self.frames += frames
        self.network_seconds.append(seconds / frames)

    def value(self, metric: Metric) -> float:
        """A metric over all clips so far; NaN where it is undefined."""
        return metric.value(self.confusion, self.metric_counts.get(metric.name))


@torch.inference_mode()
def evaluate(
    model: LMANet,
    loader: ClipLoader,
    loss_function: nn.Module | None,
    device: torch.device,
    on_clip: OnClip | None = None,
    original_labels: bool = False,
    on_batch: Callable[[Evaluation], None] | None = None,
    before_batch: Callable[[], None] | None = None,
    features: StoredFeatures | None = None,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Evaluation:
    """Predicts the last frame of every clip and counts its pixels; leaves the model in evaluation mode.

    Only these frames are decoded. Streamed clips go on with each other's memory, with the same figures. ``model`` may
    be a ``fast_copy``, which takes frames in ``memory_format`` channels-last. Without a ``loss_function`` there is no
    loss. With ``original_labels`` predictions are also enlarged by nearest neighbor and counted at the labels' own
    size. ``on_clip`` is called for every clip, ``on_batch`` after every batch with the result so far. In several
    processes each evaluates its share of the clips, and all return the counts, loss and number of clips of all
    processes; ``before_batch`` is called equally often in each, so that it may be a collective. With ``features``,
    those of the loader's clips, frames go through the encoder only where they are not stored. Raises ``DataError``
    where not every clip was counted once, ``ScoresError`` where scores are not finite.
    """
    model.eval()
    classes = loader.dataset.dataset.classes
    num_outputs = classes.num_outputs
    result = Evaluation(ConfusionMatrix(num_outputs, device), ConfusionMatrix(num_outputs, device))
    clips, stream = loader.dataset, None
    if isinstance(clips, StreamedClips):
        stream, result.dense = ClipStream(model, clips), DenseFigures(classes)
    batches, total_loss = Timed(loader, device), 0.0 if loss_function is not None else math.nan
    calls = max(distributed.all_gather(len(loader)))
    quiet = None if distributed.is_first() else True
    for sample in tqdm(batches, "evaluation", total=len(loader), unit="batch", disable=quiet, leave=False):
        if before_batch is not None:
            before_batch()
        frames: Sequence[Tensor | EncodedFrame] = ()
        if features is None:
            unbound = sample.frames.unbind(1)
            frames = [network_input(frame, model.config.traits, device, memory_format) for frame in unbound]
        label = sample.label.to(device, non_blocking=True)
        start = synchronized_seconds(device)
        if features is not None:
            frames = features.frames(sample)
        numbers = clip_indices(sample).tolist()
        logits = last_logits(model, frames)[0] if stream is None else stream.logits(frames, *numbers)
        result.add_time(synchronized_seconds(device) - start, len(frames) * len(label))
        _refuse_not_finite(logits, sample, loader)
        prediction = logits[:, -1].argmax(1).to(torch.uint8)
        if isinstance(clips, StreamedClips) and result.dense is not None:
            streamed = clips.stream[numbers[0]]
            result.dense.update(streamed.video, streamed.follows, prediction[0], label[0])
            if streamed.number is None:
                continue
            numbers = [streamed.number]
        if loss_function is not None:
            total_loss += loss_function(logits, label).item() * len(label)
        result.clips += len(label)
        result.confusion.update(prediction, label)
        if original_labels:
            original = sample.original_label.to(device, non_blocking=True)
            result.original_confusion.update(resize_labels(prediction, height_width(original.shape)), original)
        for number, clip, predicted, labeled in zip(
            numbers, sample.frames, prediction.cpu(), sample.label, strict=True
        ):
            result.metric_counts.add(predicted, labeled, classes)
            if on_clip is not None:
                on_clip(number, clip[-1], predicted, labeled)
        if on_batch is not None:
            on_batch(result)
    if before_batch is not None:
        for _ in range(calls - len(loader)):
            before_batch()
    result.waiting_seconds = batches.waiting_seconds
    _sum_over_processes(result, total_loss, clips.count if isinstance(clips, StreamedClips) else len(clips))
    if result.dense is not None:
        result.dense.gather()
    return result


def _refuse_not_finite(logits: Tensor, sample: Sample, loader: ClipLoader) -> None:
    """Raises ``ScoresError`` with the names of the clips whose logits are not finite."""
    if all_finite(logits):
        return
    clips = loader.dataset.clips
    names = [
        clips[n].name for n, each in zip(clip_indices(sample).tolist(), logits, strict=True) if not all_finite(each)
    ]
    raise ScoresError(f"{', '.join(names)}: {NOT_FINITE}: expected finite numbers; try other --weights")


def _sum_over_processes(result: Evaluation, total_loss: float, expected: int) -> None:
    """Replaces the counts, loss and times of this process by those of all; ``expected`` is the number of clips."""
    result.clips = int(distributed.all_reduce_sum(torch.tensor(result.clips)))
    if result.clips != expected:
        raise DataError(f"{result.clips} clips were evaluated: expected each of the {expected} once")
    own = torch.tensor([total_loss, result.waiting_seconds], dtype=torch.float64)
    loss, waiting = distributed.all_reduce_sum(own).tolist()
    result.loss, result.waiting_seconds = loss / result.clips, waiting / distributed.world_size()
    for matrix in (result.confusion, result.original_confusion):
        matrix.counts = distributed.all_reduce_sum(matrix.counts)
    # A process without clips has no counts.
    parts = distributed.all_gather(result.metric_counts)
    for name in sorted({name for part in parts for name in part}):
        result.metric_counts[name] = torch.stack([part[name] for part in parts if name in part]).sum(0)
