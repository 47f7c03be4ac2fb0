"""Training: epochs of steps, each followed by a validation, the schedule, the log and a checkpoint."""

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.utils.data import default_collate
from tqdm import tqdm

from datasets.clip_dataset import ClipDataset, Sample
from datasets.sampling import EpochSampler
from engine.evaluation.evaluate import Evaluation
from engine.loading import PADDING, ClipLoader, Timed, clip_indices
from engine.options.settings import TrainSettings
from engine.reports.scores import percent
from engine.run_folder import EpochRow
from engine.training.checkpoint import Training, checkpoint_content, random_states, restore_random_states
from engine.training.gradients import Part, counted
from engine.training.saver import Saver, StopRequest
from models.lmanet import EncodedFrame, LMANet
from models.normalize import network_input
from utils import distributed
from utils.errors import ScoresError, StoppedError, TrainingError

log = logging.getLogger(__name__)


class Watch(Protocol):
    """Receives the progress of a training."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Called after each step, of ``steps`` in the epoch; both count from 1."""
        ...

    def epoch(self, rows: Sequence[EpochRow], validation: Evaluation) -> None:
        """Called after each epoch, with the rows of all epochs so far and the last validation."""
        ...


class _StopNow(Exception):
    """A process received SIGTERM, and all processes stop at this step."""


def train(
    training: Training,
    settings: TrainSettings,
    loader: ClipLoader,
    sampler: EpochSampler,
    validate: Callable[[Callable[[], None]], Evaluation],
    saver: Saver,
    watch: Watch | None = None,
) -> None:
    """Trains from the current epoch to the last one, or until epochs stop getting better; each ends with a checkpoint.

    ``validate`` evaluates the model; it must call its argument before each batch, which raises where the training is to
    stop. Raises ``StoppedError`` after SIGTERM, once a checkpoint is written.
    """
    with StopRequest() as stop:
        try:
            while len(training.rows) < settings.num_epochs:
                if training.has_stalled(settings.patience, settings.val_iou):
                    best = training.best_row(settings.val_iou).epoch
                    log.info("--patience %d: no epoch since %d was better, the training ends", settings.patience, best)
                    break
                _run_epoch(training, settings, loader, sampler, validate, saver, stop, watch)
        except _StopNow:
            saver.save_step(checkpoint_content(training, settings.val_iou))
            saver.finish()
            raise StoppedError(f"go on with --resume --savedir {saver.folder.path}") from None
        finally:
            saver.wait()
    saver.finish()


def _run_epoch(
    training: Training,
    settings: TrainSettings,
    loader: ClipLoader,
    sampler: EpochSampler,
    validate: Callable[[Callable[[], None]], Evaluation],
    saver: Saver,
    stop: StopRequest,
    watch: Watch | None,
) -> None:
    """Runs the remaining steps of an epoch, its validation, the schedule, and writes its log row and checkpoint."""
    start, spent_on_saving, waited = time.perf_counter(), saver.spent_seconds, distributed.waits.seconds
    epoch = len(training.rows) + 1
    learning_rate = training.optimizer.param_groups[0]["lr"]
    sampler.set_epoch(epoch, training.progress.clips)
    steps_before = training.progress.steps
    waiting = _train_epoch(training, settings, loader, sampler, saver, stop, watch)
    seconds_a_step = (time.perf_counter() - start) / max(1, training.progress.steps - steps_before)
    validation = _validated(training, validate, stop)
    progress = training.progress
    train_loss = sum(progress.losses) / progress.steps
    progress.confusion.counts = distributed.all_reduce_sum(progress.confusion.counts)
    train_iou = progress.confusion.mean_iou() if settings.train_iou else 0.0
    val_iou = validation.confusion.mean_iou() if settings.val_iou else 0.0
    training.rows.append(EpochRow(epoch, train_loss, validation.loss, train_iou, val_iou, learning_rate))
    training.start_epoch()
    advance_schedule(training.schedule, train_loss)
    with saver.counted():
        saver.save_epoch(
            checkpoint_content(training, settings.val_iou),
            training.rows,
            training.best_row(settings.val_iou),
            keep_weights=settings.epochs_save > 0 and epoch % settings.epochs_save == 0,
        )
    if watch is not None:
        watch.epoch(training.rows, validation)
    seconds, frame_seconds = time.perf_counter() - start, validation.network_seconds_per_frame()
    log.info(
        "epoch %d of %d: train loss %.4f, val loss %.4f, val mIoU %s %%, %.0f s (waiting for data %.1f %%, for "
        "checkpoints %.1f %%, for other processes %.1f %%; %.3f s a step, %s s a validation frame in the network), "
        "%s left",
        epoch,
        settings.num_epochs,
        train_loss,
        validation.loss,
        percent(val_iou),
        seconds,
        100 * (waiting + validation.waiting_seconds) / seconds,
        100 * (saver.spent_seconds - spent_on_saving) / seconds,
        100 * (distributed.waits.seconds - waited) / seconds,
        seconds_a_step,
        "?" if frame_seconds is None else f"{frame_seconds:.3f}",
        tqdm.format_interval(seconds * (settings.num_epochs - epoch)),
    )


def _train_epoch(
    training: Training,
    settings: TrainSettings,
    loader: ClipLoader,
    sampler: EpochSampler,
    saver: Saver,
    stop: StopRequest,
    watch: Watch | None,
) -> float:
    """Runs the remaining steps of an epoch; returns the seconds spent waiting for data."""
    set_train_mode(training.model, settings)
    epoch, losses = len(training.rows) + 1, training.progress.losses
    batches = Timed(loader, training.device)
    count = math.ceil(sampler.largest_share() / loader.batch_size)
    steps = len(losses) + math.ceil(count / settings.accumulate)
    groups = _groups(pad_batches(batches, count, loader.dataset), settings.accumulate)
    with tqdm(
        groups, f"epoch {epoch}", total=steps, initial=len(losses), unit="step", disable=_quiet(), leave=False
    ) as progress:
        for samples in progress:
            stopping = _step(training, settings, samples, stop)
            if not math.isfinite(losses[-1]):
                raise _not_finite(training, samples, loader)
            progress.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            step = len(losses)
            if watch is not None:
                watch.step(epoch, step, steps, losses[-1])
            if settings.steps_loss and step % settings.steps_loss == 0:
                mean = sum(losses[-settings.steps_loss :]) / settings.steps_loss
                log.info("epoch %d, step %d of %d: loss %.4f", epoch, step, steps, mean)
            if stopping:
                raise _StopNow
            if settings.steps_save and step % settings.steps_save == 0:
                with saver.counted():
                    saver.save_step(checkpoint_content(training, settings.val_iou))
    return batches.waiting_seconds


def _step(training: Training, settings: TrainSettings, samples: list[Sample], stop: StopRequest) -> bool:
    """One optimizer step over the batches of all processes; returns whether any process is to stop after it.

    The loss is the class-weighted mean over the pixels of all processes.
    """
    own_weight = sum(training.loss_function.weight(sample.label) for sample in samples)
    weight = distributed.all_reduce_sum(torch.tensor(own_weight, dtype=torch.float64)).item()
    part_of = partial(_part, training, settings, weight)
    training.optimizer.zero_grad(set_to_none=True)
    parts = training.learner.gradients(samples, part_of, len(training.rows) + 1)
    for part in parts:
        if part.prediction is not None:
            training.progress.confusion.update(part.prediction, part.label)
    own = [sum(part.loss.item() for part in parts), sum(map(counted, samples)), stop.noted]
    loss, clips, stopping = distributed.all_reduce_sum(torch.tensor(own, dtype=torch.float64)).tolist()
    if math.isfinite(loss):
        training.scaler.step(training.optimizer)
        training.scaler.update()
    training.progress.losses.append(loss)
    training.progress.clips += int(clips)
    return stopping > 0


def _part(
    training: Training, settings: TrainSettings, weight_of_all: float, network: nn.Module, sample: Sample
) -> Part:
    """The loss of a batch of clips, as its share of the step's loss, and the predictions where IoU is measured."""
    device, traits, features = training.device, training.model.config.traits, training.features
    label = sample.label.to(device, non_blocking=True)
    clip: Tensor | list[EncodedFrame]
    if features is None:
        clip = network_input(sample.frames, traits, device)
    else:
        clip = features.frames(sample, len(training.rows) + 1)
    dtype = getattr(torch, settings.amp) if settings.amp else None
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        logits = network(clip, selected=True)
    main_logits = logits[0] if isinstance(logits, tuple) else logits
    prediction = main_logits[:, -1].argmax(1) if settings.train_iou else None
    return Part(training.loss_function(logits, label, weight_of_all), prediction, label)


def _not_finite(training: Training, samples: list[Sample], loader: ClipLoader) -> TrainingError:
    numbers = [
        number
        for part in distributed.all_gather([clip_indices(sample).tolist() for sample in samples])
        for indices in part
        for number in indices
        if number != PADDING
    ]
    names = ", ".join(loader.dataset.clips[number].name for number in numbers)
    losses = training.progress.losses
    return TrainingError(
        f"the loss became {losses[-1]} at epoch {len(training.rows) + 1}, step {len(losses)} ({names}): expected a "
        "finite number; try a lower --lr-start and go on from the last checkpoint with --resume"
    )


def _validated(
    training: Training, validate: Callable[[Callable[[], None]], Evaluation], stop: StopRequest
) -> Evaluation:
    states = random_states(training.device)

    def stop_where_asked() -> None:
        if stop.of_any():
            raise _StopNow

    try:
        return validate(stop_where_asked)
    except ScoresError as error:
        raise TrainingError(
            f"validation of epoch {len(training.rows) + 1}: {error}; or a lower --lr-start, and go on from the last "
            "checkpoint with --resume"
        ) from error
    except _StopNow:
        # A resumed training runs the validation again, and must draw the same random numbers.
        restore_random_states(states, training.device)
        raise


def pad_batches(batches: Iterable[Sample], count: int, clips: ClipDataset) -> Iterator[Sample]:
    """The batches, padded to ``count`` by batches of one unlabeled clip: other processes may have one batch more."""
    missing = count
    for sample in batches:
        missing -= 1
        yield sample
    if missing:
        sample = default_collate([clips[0]])
        label, index = (
            torch.full_like(sample.label, clips.dataset.classes.ignored),
            torch.full_like(clip_indices(sample), PADDING),
        )
        yield from itertools.repeat(sample._replace(label=label, clip_index=index), missing)


def _groups(batches: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    batches = iter(batches)
    while group := list(itertools.islice(batches, size)):
        yield group


def _quiet() -> bool | None:
    """tqdm's ``disable``: rank 0 shows progress where stderr is a terminal, the others never."""
    return None if distributed.is_first() else True


def set_train_mode(model: LMANet, settings: TrainSettings) -> None:
    """Train mode, except for encoder and decoder where set to evaluation mode; for frozen halves too, as published."""
    model.train()
    if settings.encoder_eval_mode:
        model.encoder.eval()
    if settings.decoder_eval_mode:
        model.decoder.eval()


def advance_schedule(schedule: LRScheduler | ReduceLROnPlateau, train_loss: float) -> None:
    """Steps a schedule at the end of an epoch; ``ReduceLROnPlateau`` by the mean training loss."""
    if isinstance(schedule, ReduceLROnPlateau):
        schedule.step(train_loss)
    else:
        schedule.step()
