"""The state of a training: what a checkpoint holds, how it is read, and how a training is resumed from it."""

import dataclasses
import logging
import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.features import StoredFeatures
from engine.run_folder import EpochRow, RunFolder
from engine.training.gradients import Learner
from engine.training.validation import Validation
from models.lmanet import LMANet
from models.losses import WeightedCrossEntropy
from models.weights.export import options_of, published_state_dict
from models.weights.load import load_weights
from models.weights.saved_options import network_fields, options_in
from utils import distributed, tensor_files
from utils.class_set import ClassSet
from utils.errors import CheckpointError

log = logging.getLogger(__name__)

CHECKPOINT_FORMAT = 2
# Without these a training cannot be resumed.
NEEDED_KEYS = ("epoch", "state_dict", "optimizer", "best_acc")
# Keys that checkpoints of the published program lack.
EXTRA_KEYS = ("network", "schedule", "rows", "random_states")
MOST_EPOCHS = 1_000_000
MOST_STEPS = 1_000_000_000_000
# Lowest and highest values of settings, for others -1 to MOST_EPOCHS.
_RANGES = {
    **dict.fromkeys(("best", "mode_worse"), (-math.inf, math.inf)),
    **{name: (0.0, math.nextafter(1.0, 0.0)) for name in ("betas", "factor")},
    **{name: (0.0, float(MOST_EPOCHS)) for name in ("lr", "initial_lr", "_last_lr", "base_lrs", "eps", "weight_decay")},
    **dict.fromkeys(("scale", "_growth_tracker"), (0.0, math.inf)),
    **dict.fromkeys(("last_epoch", "num_bad_epochs", "cooldown_counter"), (0, MOST_EPOCHS)),
}


@dataclass
class Progress:
    """Progress within an epoch: clips trained on by all processes together, the loss of each step, and the counts of
    this process."""

    confusion: ConfusionMatrix
    clips: int = 0
    losses: list[float] = dataclasses.field(default_factory=list)

    @property
    def steps(self) -> int:
        """Number of steps in the epoch so far."""
        return len(self.losses)


@dataclass
class Training:
    """A training: the network, its optimizer and schedule, and the epochs so far.

    With ``features`` the frames of training clips do not go through the encoder where they are stored. ``validation``
    says which clips decide which epoch is the best.
    """

    model: LMANet
    optimizer: Optimizer
    schedule: LRScheduler | ReduceLROnPlateau
    loss_function: WeightedCrossEntropy
    device: torch.device
    scaler: torch.amp.GradScaler
    learner: Learner
    classes: ClassSet
    rows: list[EpochRow] = dataclasses.field(default_factory=list)
    features: StoredFeatures | None = None
    validation: Validation = dataclasses.field(default_factory=Validation)
    progress: Progress = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.start_epoch()

    def start_epoch(self, clips: int = 0, losses: Sequence[float] = ()) -> None:
        """Sets the progress to the beginning of an epoch, or after ``clips`` with the ``losses`` of its steps."""
        self.progress = Progress(ConfusionMatrix(self.classes.num_outputs), clips, list(losses))

    def has_stalled(self, patience: int, by_iou: bool) -> bool:
        """Whether the last ``patience`` epochs were not better than the best one before them; never with 0."""
        if not self.rows or not patience:
            return False
        return len(self.rows) - 1 - self.rows.index(self.best_row(by_iou)) >= patience

    def best_row(self, by_iou: bool) -> EpochRow:
        """The row with the highest validation IoU, or with the lowest validation loss; the first of equal ones."""
        return max(self.rows, key=lambda row: row.val_iou if by_iou else -row.val_loss)


def checkpoint_content(training: Training, by_iou: bool) -> dict:
    """The content of a checkpoint: the published keys, and what resuming bit for bit needs.

    A collective: all processes must call it. The tensors are copies on the CPU, which the training does not change.
    """
    progress = training.progress
    content = {
        "epoch": len(training.rows),
        "arch": str(training.model),
        "state_dict": published_state_dict(training.model),
        "best_acc": training.best_row(by_iou).val_iou if training.rows else 0.0,
        "optimizer": training.optimizer.state_dict(),
        "format_version": CHECKPOINT_FORMAT,
        "schedule": training.schedule.state_dict(),
        "scaler": training.scaler.state_dict(),
        "rows": [dataclasses.astuple(row) for row in training.rows],
        "progress": {
            "clips": progress.clips,
            "losses": list(progress.losses),
            "confusion": distributed.all_reduce_sum(progress.confusion.counts),
        },
        "random_states": distributed.all_gather(random_states(training.device)),
        "world_size": distributed.world_size(),
        "run": run_name(),
        "validation": training.validation.content(),
        **options_of(training.model).content(),
    }
    return {key: _copied(value) for key, value in content.items()}


def run_name() -> str:
    """torchrun's name of this run, the same after a restart; empty without torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def read_checkpoint(folder: RunFolder) -> dict:
    """The last checkpoint in the folder; where it is damaged, which is logged, the one before it.

    Raises ``CheckpointError`` where there is none or none can be read.
    """
    if not folder.has_checkpoint():
        raise CheckpointError(
            f"--resume: there is no {folder.checkpoint_file}: expected the --savedir of an earlier training, "
            "or leave --resume out to start one"
        )
    errors: list[CheckpointError] = []
    for path in folder.checkpoint_files():
        try:
            content = _read_file(path)
        except CheckpointError as error:
            errors.append(error)
            continue
        for earlier in errors:
            log.warning("%s", earlier)
        if path != folder.checkpoint_file:
            log.warning("%s: going on from this one, the checkpoint before the last", path)
        return content
    raise errors[0]


def _read_file(path: Path) -> dict:
    content = tensor_files.read(path, CheckpointError)
    found = content if isinstance(content, dict) else {}
    missing = [key for key in NEEDED_KEYS if key not in found]
    if missing:
        raise CheckpointError(f"{path}: is no checkpoint of a training: it lacks {', '.join(missing)}")
    return found


def resume(training: Training, content: dict, source: object) -> None:
    """Sets a training to the state in a checkpoint's content; ``source`` names its file in messages.

    Keys that a published checkpoint lacks are logged, and keep the training's own values. Raises ``CheckpointError``
    for a checkpoint of another network, other classes or other trained parts, and for one that holds something else.
    """
    try:
        _resume(training, content, source)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{source}: holds something other than a training's state ({error}): expected a checkpoint of this program"
        ) from error


def _resume(training: Training, content: dict, source: object) -> None:
    own, saved_network = network_fields(training.model.config), content.get("network")
    differing = []
    if saved_network is not None:
        found = {name: saved_network.get(name) for name in own}
        differing = [f"{name} is {found[name]}, asked for {own[name]}" for name in own if own[name] != found[name]]
    if differing:
        raise CheckpointError(
            f"{source}: is of another network: {'; '.join(differing)}; give the same options with --resume"
        )
    saved = options_in(content, str(source))
    if saved and saved.classes and saved.classes.names != training.classes.names:
        raise CheckpointError(
            f"{source}: is for {len(saved.classes.names)} classes, the data set has {len(training.classes.names)} of "
            "other names; give the same --dataset with --resume"
        )
    training.validation.check_same_scenes(Validation.in_checkpoint(content, source), source)
    load_weights(training.model, content["state_dict"], other_classes=False)
    _resume_optimizer(training.optimizer, content["optimizer"], source)
    missing = [key for key in EXTRA_KEYS if key not in content]
    if missing:
        log.warning(
            "%s: lacks %s: goes on after epoch %d, though not bit for bit", source, ", ".join(missing), content["epoch"]
        )
    _resume_schedule(training, content.get("schedule"), content["epoch"], source)
    if "rows" in content:
        training.rows[:] = [EpochRow(int(epoch), *map(float, figures)) for epoch, *figures in content["rows"]]
    else:
        training.rows[:] = _unknown_rows(content["epoch"], content["best_acc"], training)
    if content.get("scaler"):
        _check_range(content["scaler"], "the scaler")
        training.scaler.load_state_dict(content["scaler"])
    _resume_progress(training, content.get("progress"))
    _resume_random_states(content.get("random_states"), training.device, source)
    log.info(
        "%s: %d epochs are done%s",
        source,
        len(training.rows),
        f", and {training.progress.steps} steps of the next one" if training.progress.steps else "",
    )


def _resume_optimizer(optimizer: Optimizer, state: dict, source: object) -> None:
    before = [_settings(group) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
        fits = all(
            (len(moments["step"].shape), moments["exp_avg"].shape, moments["exp_avg_sq"].shape)
            == (0, parameter.shape, parameter.shape)
            for parameter, moments in optimizer.state.items()
        )
    except ValueError:
        fits = False
    if not fits:
        raise CheckpointError(
            f"{source}: trained other parts of the network: give the same --train-encoder, --train-decoder and "
            "--train-erfnet-shallow-dec with --resume"
        )
    for group, own in zip(optimizer.param_groups, before, strict=True):
        _check_kind(_settings(group), own, "the optimizer's settings")
        _check_range(_settings(group), "the optimizer's settings")
        # How it computes, such as fused, is not a matter of the file.
        group.update({name: value for name, value in own.items() if value is None or isinstance(value, bool)})
    for moments in optimizer.state.values():
        _check_moments(moments)


def _settings(group: dict) -> dict:
    return {name: value for name, value in group.items() if name != "params"}


def _check_kind(found: object, own: object, what: str) -> None:
    """Raises ``ValueError`` where a value from a file is of another type than the training's own, at any depth."""
    pairs: list[tuple[object, object, str]] = []
    if isinstance(own, dict) and isinstance(found, dict):
        pairs = [(found[name], own[name], f"{what}: {name}") for name in own]
    elif isinstance(own, (list, tuple)) and isinstance(found, (list, tuple)) and len(found) == len(own):
        pairs = [(theirs, mine, what) for theirs, mine in zip(found, own, strict=True)]
    elif type(found) not in _kinds(own):
        raise ValueError(f"{what} is {found!r}")
    for theirs, mine, name in pairs:
        _check_kind(theirs, mine, name)


def _check_range(state: object, what: str, name: str = "") -> None:
    """Raises ``ValueError`` for numbers that no training has, at any depth: steps and rates would overflow later."""
    if isinstance(state, dict):
        for key, value in state.items():
            _check_range(value, f"{what}: {key}", key)
    elif isinstance(state, (list, tuple)):
        for value in state:
            _check_range(value, what, name)
    elif isinstance(state, (int, float)) and not isinstance(state, bool):
        lowest, highest = _RANGES.get(name, (-1, MOST_EPOCHS))
        if not lowest <= state <= highest:  # NaN is neither
            raise ValueError(f"{what} is {state:.6g}, expected {lowest:g} to {highest:g}")


def _check_moments(moments: dict) -> None:
    step, mean, square = (moments[name] for name in ("step", "exp_avg", "exp_avg_sq"))
    if not 0 <= step.item() <= MOST_STEPS:
        raise ValueError(f"the optimizer's step is {step.item():.6g}, expected 0 to {MOST_STEPS:g}")
    if not (mean.isfinite().all() and square.isfinite().all() and (square >= 0).all()):
        raise ValueError("the optimizer's moments are no finite numbers, or squares below 0")


def _kinds(own: object) -> tuple[type, ...]:
    """Types that a value may have in a file: a number may be of the other kind, and ``None`` may have become a flag."""
    if own is None:
        return bool, type(None)
    return (int, float) if type(own) in (int, float) else (type(own),)


def _resume_schedule(training: Training, state: dict | None, epoch: int, source: object) -> None:
    schedule = training.schedule
    if state is None:
        state = schedule.state_dict() | {"last_epoch": epoch}
    elif ("best" in state) != isinstance(schedule, ReduceLROnPlateau):
        raise CheckpointError(
            f"{source}: was trained with another kind of --lr-strategy: give the same one with --resume"
        )
    # Fields that the PyTorch of that time did not have keep their own values.
    own = schedule.state_dict()
    state = {name: state.get(name, value) for name, value in own.items()}
    _check_kind(state, own, "the schedule")
    _check_range(state, "the schedule")
    schedule.load_state_dict(state)
    if isinstance(schedule, LambdaLR):
        # Computed from the epoch, as --num-epochs may have changed.
        for group, base, factor in zip(
            training.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(schedule.last_epoch)


def _resume_progress(training: Training, progress: dict | None) -> None:
    if progress is None:
        return
    training.start_epoch(int(progress["clips"]), [float(loss) for loss in progress["losses"]])
    if training.progress.clips < 0 or (training.progress.clips > 0) != (training.progress.steps > 0):
        raise ValueError(f"{training.progress.clips} clips in {training.progress.steps} steps")
    if not all(map(math.isfinite, training.progress.losses)):
        raise ValueError("losses of the epoch that are no finite numbers")
    # The counts are summed over all processes, and are summed again at the end of the epoch: one process holds them.
    if distributed.is_first():
        training.progress.confusion.counts += progress["confusion"]


def _unknown_rows(epochs: int, best_acc: float, training: Training) -> list[EpochRow]:
    """Rows for epochs of a published checkpoint, which only tells the best IoU: the last row holds it."""
    if not 0 <= epochs <= MOST_EPOCHS:
        raise ValueError(f"epoch {epochs}")
    rate = training.optimizer.param_groups[0]["lr"]
    unknown = [EpochRow(epoch, math.nan, math.inf, math.nan, 0.0, rate) for epoch in range(1, epochs + 1)]
    return [*unknown[:-1], dataclasses.replace(unknown[-1], val_iou=float(best_acc))] if unknown else []


def random_states(device: torch.device) -> dict[str, object]:
    """The states of all random generators that this process draws from."""
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def restore_random_states(states: dict, device: torch.device) -> None:
    """Sets the random generators to ``random_states``."""
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(states["torch"])
    if states["cuda"] and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"][0], device)


def _resume_random_states(states: list | dict | None, device: torch.device, source: object) -> None:
    if states is None:
        return
    by_rank = [states] if isinstance(states, dict) else states  # format 1 is of a single process
    if len(by_rank) != distributed.world_size():
        log.warning(
            "%s: was written by %d processes, these are %d: goes on, though not bit for bit",
            source,
            len(by_rank),
            distributed.world_size(),
        )
        return
    restore_random_states(by_rank[distributed.rank()], device)


def _copied(value: object) -> object:
    """The value with every tensor in it copied to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(item) for item in value)
    return value
