"""``--training``: builds all that a training needs, runs it, and draws what it learned."""

import argparse
import logging
from collections.abc import Callable

import torch

from engine import build, processes
from engine.evaluation.evaluate import Evaluation, all_of, evaluate
from engine.reports.observers import clip_writer, dashboard_of
from engine.reports.scores import percent, read_report
from engine.run_folder import RunFolder
from engine.training.checkpoint import resume, run_name
from engine.training.loop import train
from engine.training.saver import Saver
from models.description import describe
from utils import distributed
from utils.errors import OptionError

log = logging.getLogger(__name__)


def run_training(options: argparse.Namespace, device: torch.device, folder: RunFolder) -> None:
    baseline = read_report(options.baseline_path) if options.baseline_path else None
    train_clips, val_clips = build.clips_of(options, "train"), build.clips_of(options, "val")
    checkpoint = distributed.broadcast(_checkpoint_to_go_on_from(options, folder) if distributed.is_first() else None)
    if options.amp == "float16" and device.type != "cuda":
        raise OptionError(f"--amp float16 needs CUDA, this runs on {device}: try --amp bfloat16")
    model = build.model_with_weights(options, device)
    if options.warm_start and checkpoint is None:
        build.warm_start_memory(options, model, train_clips, device)
    model_text = describe(model)
    training = build.training_of(options, model, device)
    if distributed.is_first():
        if checkpoint is None:
            folder.set_earlier_training_aside()
        folder.describe_run(options, model_text)
    if checkpoint is not None:
        resume(training, checkpoint, folder.checkpoint_file)
    loader, sampler = build.loader_of(options, train_clips, device, trains=True)
    val_loader, _ = build.loader_of(options, val_clips, device, trains=False)
    log.info(
        "%d training and %d validation clips of %d frames, on %s with %d threads",
        len(train_clips),
        len(val_clips),
        options.win_size,
        device,
        torch.get_num_threads(),
    )
    size = distributed.world_size()
    log.info(
        "a step takes %d clips (%d processes x batch %d x %d), learning rate %g",
        size * options.batch_size * options.accumulate,
        size,
        options.batch_size,
        options.accumulate,
        training.optimizer.param_groups[0]["lr"],
    )

    validations: list[Evaluation] = []

    def validate(before_batch: Callable[[], None]) -> Evaluation:
        writer = all_of(clip_writer(options, folder, val_clips), dashboard and dashboard.see_clip)
        loss_function = training.loss_function
        validations[:] = [
            evaluate(model, val_loader, loss_function, device, writer, options.use_orig_res, before_batch=before_batch)
        ]
        return validations[0]

    dashboard = dashboard_of(options, folder, model, val_clips, device, baseline, training.rows)
    try:
        train(training, build.train_settings(options), loader, sampler, validate, Saver(folder), dashboard)
    finally:
        if dashboard is not None:
            dashboard.close()
        # Also where a training is stopped or fails: what it has learned until then is worth seeing.
        if validations and training.rows and distributed.is_first():
            from engine.reports.plots import write_training_plots  # only here: matplotlib takes long to import

            best_epoch = training.best_row(options.iouVal).epoch
            write_training_plots(folder, training.rows, best_epoch, validations[0].confusion, baseline)
    if distributed.is_first():
        folder.remove_previous_checkpoint()
        best = training.best_row(options.iouVal)
        print(f"best epoch {best.epoch}: mIoU {percent(best.val_iou)} %, loss {best.val_loss:.4f}; in {folder.path}")


def _checkpoint_to_go_on_from(options: argparse.Namespace, folder: RunFolder) -> dict | None:
    """The checkpoint that was asked for, or the one that this very run had written before it was started again."""
    if options.resume:
        return folder.read_checkpoint()
    if not processes.may_be_restarted() or not folder.has_checkpoint():
        return None
    content = folder.read_checkpoint()
    return content if content.get("run") == run_name() else None
