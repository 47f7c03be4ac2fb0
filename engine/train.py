"""Training: epochs of steps, each followed by a validation, the schedule, the log and a checkpoint."""

import dataclasses
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets.classes import NUM_CLASSES
from datasets.sampling import EpochSampler
from engine.batches import Timed, network_input
from engine.evaluate import Evaluation
from engine.report import percent
from engine.run_folder import EpochRow, RunFolder
from models import weights
from models.lmanet import LMANet
from utils.errors import CheckpointError, TrainingError
from utils.metrics import ConfusionMatrix

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 1


@dataclass(frozen=True)
class TrainSettings:
    """How long to train and what to do on the way; see the options of the same names."""

    num_epochs: int
    steps_loss: int
    epochs_save: int
    train_iou: bool
    val_iou: bool
    encoder_eval_mode: bool
    decoder_eval_mode: bool


class Watch(Protocol):
    """Is told of every step and every epoch of a training."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None: ...

    def epoch(self, rows: Sequence[EpochRow], validation: Evaluation) -> None: ...


@dataclass
class Training:
    """All that a training changes, and all that a checkpoint keeps."""

    model: LMANet
    optimizer: Optimizer
    schedule: LRScheduler | ReduceLROnPlateau
    loss_function: nn.Module
    device: torch.device
    rows: list[EpochRow] = dataclasses.field(default_factory=list)

    def best_row(self, by_iou: bool) -> EpochRow:
        """The epoch of the highest validation IoU, or of the lowest validation loss; the first of equals."""
        return max(self.rows, key=lambda row: row.val_iou if by_iou else -row.val_loss)


def train(
    training: Training,
    settings: TrainSettings,
    loader: DataLoader,
    sampler: EpochSampler,
    validate: Callable[[], Evaluation],
    folder: RunFolder,
    watch: Watch | None = None,
) -> None:
    """Trains from the epoch after the last row to the last epoch; every epoch ends with a checkpoint."""
    began, first = None, len(training.rows) + 1
    for epoch in range(first, settings.num_epochs + 1):
        start = time.perf_counter()
        began = began or start
        sampler.set_epoch(epoch)
        learning_rate = training.optimizer.param_groups[0]["lr"]
        train_loss, train_iou, waiting = _train_epoch(training, settings, loader, epoch, watch)
        validation = validate()
        val_iou = validation.confusion.mean_iou() if settings.val_iou else 0.0
        row = EpochRow(epoch, train_loss, validation.loss, train_iou, val_iou, learning_rate)
        training.rows.append(row)
        advance_schedule(training.schedule, train_loss)
        _save(training, settings, folder)
        if watch is not None:
            watch.epoch(training.rows, validation)
        log.info(
            "epoch %d of %d: train loss %.4f, val loss %.4f, val mIoU %s %%, %.0f s (%.0f s waiting for data; "
            "%.3f s a validation frame in the network), %s left",
            epoch,
            settings.num_epochs,
            train_loss,
            validation.loss,
            percent(val_iou),
            time.perf_counter() - start,
            waiting + validation.waiting_seconds,
            validation.network_seconds_per_frame(),
            tqdm.format_interval((time.perf_counter() - began) / (epoch - first + 1) * (settings.num_epochs - epoch)),
        )


def _train_epoch(
    training: Training, settings: TrainSettings, loader: DataLoader, epoch: int, watch: Watch | None
) -> tuple[float, float, float]:
    """One epoch: the mean loss, the mean IoU (0 where it is not wanted), and the seconds spent waiting for data."""
    model, device = training.model, training.device
    set_train_mode(model, settings)
    confusion = ConfusionMatrix(NUM_CLASSES, device)
    losses: list[float] = []
    batches = Timed(loader, device)
    with tqdm(batches, f"epoch {epoch}", total=len(loader), unit="step", disable=None, leave=False) as progress:
        for step, sample in enumerate(progress, start=1):
            clip = network_input(sample.frames, model.config.traits, device)
            label = sample.label.to(device, non_blocking=True)
            logits = model(clip, selected=not model.config.picks_by_chance)
            loss = training.loss_function(logits, label)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                names = ", ".join(loader.dataset.clips[number].name for number in sample.index.tolist())
                raise TrainingError(
                    f"the loss became {losses[-1]} at epoch {epoch}, step {step} ({names}): expected a finite number; "
                    "try a lower --lr-start and go on from the last checkpoint with --resume"
                )
            training.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            training.optimizer.step()
            if settings.train_iou:
                main_logits = logits[0] if isinstance(logits, tuple) else logits
                confusion.update(main_logits[:, -1].argmax(1), label)
            if watch is not None:
                watch.step(epoch, step, len(loader), losses[-1])
            progress.set_postfix(loss=f"{losses[-1]:.3f}", refresh=False)
            if settings.steps_loss and step % settings.steps_loss == 0:
                mean = sum(losses[-settings.steps_loss :]) / settings.steps_loss
                log.info("epoch %d, step %d of %d: loss %.4f", epoch, step, len(loader), mean)
    train_iou = confusion.mean_iou() if settings.train_iou else 0.0
    return sum(losses) / len(losses), train_iou, batches.waiting_seconds


def set_train_mode(model: LMANet, settings: TrainSettings) -> None:
    """Train mode, but for the halves that are to stay in evaluation mode. Frozen halves follow it too, as published."""
    model.train()
    if settings.encoder_eval_mode:
        model.encoder.eval()
    if settings.decoder_eval_mode:
        model.decoder.eval()


def advance_schedule(schedule: LRScheduler | ReduceLROnPlateau, train_loss: float) -> None:
    """Moves a schedule to its next epoch; only the plateau kind looks at the mean training loss."""
    if isinstance(schedule, ReduceLROnPlateau):
        schedule.step(train_loss)
    else:
        schedule.step()


def _save(training: Training, settings: TrainSettings, folder: RunFolder) -> None:
    row, best = training.rows[-1], training.best_row(settings.val_iou)
    content = checkpoint_content(training, best)
    folder.save_checkpoint(content, is_best=best is row)
    if settings.epochs_save and row.epoch % settings.epochs_save == 0:
        folder.save_epoch_weights(row.epoch, content["state_dict"])
    folder.write_log(training.rows)
    if best is row:
        folder.write_best(row)


def checkpoint_content(training: Training, best: EpochRow) -> dict:
    """What a checkpoint holds: the published keys, and what going on bit for bit needs."""
    return {
        "epoch": len(training.rows),
        "arch": str(training.model),
        "state_dict": weights.published_state_dict(training.model),
        "best_acc": best.val_iou,
        "optimizer": training.optimizer.state_dict(),
        "format_version": CHECKPOINT_FORMAT,
        "schedule": training.schedule.state_dict(),
        "network": network_fields(training.model),
        "rows": [dataclasses.astuple(row) for row in training.rows],
        "random_states": _random_states(),
    }


def network_fields(model: LMANet) -> dict[str, object]:
    """The configuration's fields that decide what the weights mean."""
    fields = dataclasses.asdict(model.config)
    del fields["attention_backend"]
    return fields


def resume(training: Training, content: dict, source: object) -> None:
    """Brings a training to where a checkpoint was written. Raises ``CheckpointError`` where it is of another network,
    with the fields that differ, or of other trained parts."""
    mine, theirs = network_fields(training.model), content.get("network")
    if theirs is None:
        raise CheckpointError(
            f"{source}: was not written by this program: start from its weights with --weights {source} instead"
        )
    differing = [
        f"{name} is {theirs.get(name)}, asked for {mine[name]}" for name in mine if mine[name] != theirs.get(name)
    ]
    if differing:
        raise CheckpointError(
            f"{source}: is of another network: {'; '.join(differing)}; give the same options to --resume"
        )
    weights.load_weights(training.model, content["state_dict"])
    try:
        training.optimizer.load_state_dict(content["optimizer"])
    except ValueError as error:
        raise CheckpointError(
            f"{source}: trained other parts of the network: give the same --train-encoder, --train-decoder and "
            "--train-erfnet-shallow-dec to --resume"
        ) from error
    _resume_schedule(training, content["schedule"], source)
    training.rows[:] = [EpochRow(*row) for row in content["rows"]]
    _restore_random_states(content["random_states"])
    log.info("%s: %d epochs are done", source, len(training.rows))


def _resume_schedule(training: Training, state: dict, source: object) -> None:
    schedule = training.schedule
    if ("best" in state) != isinstance(schedule, ReduceLROnPlateau):
        raise CheckpointError(
            f"{source}: was trained with another kind of --lr-strategy: give the same one to --resume"
        )
    schedule.load_state_dict(state)
    if isinstance(schedule, LambdaLR):
        # The rate follows from the epoch, also where --num-epochs is another than before.
        for group, base, factor in zip(
            training.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(schedule.last_epoch)


def _random_states() -> dict[str, object]:
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_random_states(states: dict) -> None:
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(states["torch"])
    if len(states["cuda"]) == torch.cuda.device_count() and states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])
