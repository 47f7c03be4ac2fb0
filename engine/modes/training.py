"""``--training``: builds a training from settings, runs it, and draws its plots."""

import logging
from collections.abc import Callable

import torch

from engine import processes
from engine.agreement import check_same_data
from engine.dashboard.setup import dashboard_of
from engine.data import clips_of, in_stream, loader_in_order, loader_of, validation_split
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.features import stored_features
from engine.network import with_checkpoint, with_network
from engine.options.settings import Settings
from engine.reports.baseline import check_comparable, read_report
from engine.reports.clip_writers import all_of, clip_writer
from engine.reports.scores import percent
from engine.run_folder import RunFolder
from engine.training.checkpoint import read_checkpoint, resume, run_name
from engine.training.loop import train as run_epochs
from engine.training.saver import Saver
from engine.training.setup import training_of, warm_start_memory
from engine.training.validation import Validation, with_validation_of
from models.description import describe
from utils import distributed
from utils.errors import OptionError
from utils.printable import printable

log = logging.getLogger(__name__)


def run_training(settings: Settings, device: torch.device, folder: RunFolder) -> None:
    """Trains to the last epoch, from the first one or from the last checkpoint."""
    wanted, train = settings.report, settings.train
    baseline = read_report(wanted.baseline) if wanted.baseline else None
    if train.amp == "float16" and device.type != "cuda":
        raise OptionError(f"--amp float16 needs CUDA, this runs on {device}: try --amp bfloat16")
    found = _checkpoint_to_resume(train.resume, folder) if distributed.is_first() else None
    checkpoint = distributed.broadcast(found)
    if checkpoint is not None:
        settings = with_checkpoint(settings, checkpoint, str(folder.checkpoint_file))
        settings = with_validation_of(settings, checkpoint, str(folder.checkpoint_file))
    settings, model = with_network(settings, device)
    data, train = settings.data, settings.train
    validated = validation_split(data)
    train_clips, val_clips = clips_of(data, model.config, "train"), clips_of(data, model.config, validated)
    if distributed.is_first():
        train_clips.check_labeled("train")
        val_clips.check_labeled(validated)
    check_same_data(model, settings.network.classes, {"training": train_clips.clips, "validation": val_clips.clips})
    if baseline is not None:
        check_comparable(baseline, val_clips.clips, settings.network.classes, data)
    if train.warm_start and checkpoint is None:
        warm_start_memory(settings, model, train_clips, device)
    model_text = describe(model)
    training = training_of(settings, model, device)
    training.validation = Validation.of(settings, val_clips)
    if checkpoint is not None:
        resume(training, checkpoint, folder.checkpoint_file)
    training.features = stored_features(settings, model, train_clips, device, trains=True)
    loaded_clips = training.features.clips if training.features else train_clips
    loader, sampler = loader_of(data, loaded_clips, device, trains=True)
    streamed_clips = in_stream(data, val_clips, model, validated)
    val_features = stored_features(settings, model, streamed_clips, device, trains=False, beside=training.features)
    val_loader = loader_in_order(data, val_features.clips if val_features else streamed_clips, device)
    # Only now, after all that may refuse the training.
    if distributed.is_first():
        if checkpoint is None:
            folder.set_earlier_training_aside()
        folder.describe_run(settings, model_text)
    log.info(
        "%d training and %d validation clips of %d frames, on %s with %d threads",
        len(train_clips),
        len(val_clips),
        data.window,
        device,
        torch.get_num_threads(),
    )
    if data.hold_out:
        log.info(
            "validated on %s, drawn by --seed %d; the split val is not used", training.validation.text(), data.seed
        )
    size = distributed.world_size()
    log.info(
        "a step takes %d clips (%d processes x batch %d x %d), learning rate %g",
        size * data.batch_size * train.accumulate,
        size,
        data.batch_size,
        train.accumulate,
        training.optimizer.param_groups[0]["lr"],
    )

    validations: list[Evaluation] = []

    def validate(before_batch: Callable[[], None]) -> Evaluation:
        writer = all_of(clip_writer(wanted, folder, val_clips), None if dashboard is None else dashboard.see_clip)
        validation = evaluate(
            model,
            val_loader,
            training.loss_function,
            device,
            writer,
            wanted.original_size,
            before_batch=before_batch,
            features=val_features,
        )
        validations[:] = [validation]
        return validation

    dashboard = dashboard_of(wanted, folder, model, val_clips, device, baseline, training.rows)
    try:
        run_epochs(training, train, loader, sampler, validate, Saver(folder), dashboard)
    finally:
        if dashboard is not None:
            dashboard.close()
        # Also of a training that was stopped or failed.
        if validations and training.rows and distributed.is_first():
            from engine.reports.plots import write_training_plots  # here, as matplotlib takes long to import

            best_epoch = training.best_row(train.val_iou).epoch
            confusion = validations[0].confusion
            write_training_plots(folder, training.rows, best_epoch, confusion, settings.network.classes, baseline)
    if distributed.is_first():
        folder.remove_previous_checkpoint()
        best = training.best_row(train.val_iou)
        of_clips = " of the held-out clips" if data.hold_out else ""
        print(
            f"best epoch {best.epoch}: mIoU {percent(best.val_iou)} %, loss {best.val_loss:.4f}{of_clips}; "
            f"in {printable(str(folder.path))}"
        )


def _checkpoint_to_resume(resumes: bool, folder: RunFolder) -> dict | None:
    """The last checkpoint with ``--resume``, or where this run wrote it before a restart; else ``None``."""
    if resumes:
        return read_checkpoint(folder)
    if not processes.may_be_restarted() or not folder.has_checkpoint():
        return None
    content = read_checkpoint(folder)
    return content if content.get("run") == run_name() else None
