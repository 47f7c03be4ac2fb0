"""Runs the mode that was asked for, on the device that is there."""

import argparse
import functools
import logging
import os
import random
import sys
from collections.abc import Sequence

import torch

from datasets.cityscapes import CityscapesClips
from datasets.classes import CLASS_NAMES
from datasets.images import image_size
from datasets.sampling import clean_worker_error
from engine import benchmark_stream, build
from engine.consistency import consistency_text, measure_consistency
from engine.dashboard import RunDashboard
from engine.evaluate import Evaluation, PictureWriter, PredictionWriter, all_of, class_names, evaluate
from engine.frame_sources import open_source
from engine.html_report import InspectedClip, ReportPage
from engine.memory_view import memory_view
from engine.options import network_config
from engine.picks import BestAndWorst
from engine.report import iou_table, percent, read_report, scores
from engine.run_folder import EpochRow, RunFolder
from engine.stream import stream_text, summarised
from engine.stream_outputs import SUMMARY, clear_previous
from engine.train import resume, train
from models.lmanet import LMANet
from models.model_text import describe
from models.onnx import export_step
from models.segmenter import has_untrained_memory, refuse_untrained_memory
from models.weights import export_weights
from utils.errors import IncompleteError, OptionError, UserError
from utils.files import write_text, write_with
from utils.metrics import ConfusionMatrix
from utils.terminal import takes_colour

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    """Trains or evaluates. Raises a ``UserError`` for anything a user can mend."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    device = pick_device(options.device)
    folder = build.run_folder(options)
    if options.gpus > 1:
        log.info("--gpus %d: one process runs, several are not there yet", options.gpus)
    torch.backends.cudnn.benchmark = True  # frames of a run are all of one size
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    try:
        if options.training:
            run_training(options, device, folder)
        if options.export_weights:
            run_export(options)
        if options.export_onnx:
            run_onnx_export(options)
        if options.benchmark == "attention":
            from engine import benchmark_attention  # only here: it brings matplotlib

            benchmark_attention.run(folder.path)
        if options.benchmark == "stream":
            benchmark_stream.run(network_config(options), options.work_size, device, folder.path, options.compile)
        if options.stream:
            run_stream(options, device, folder)
        if options.eval_mode:
            run_evaluation(options, device, folder)
    except UserError as error:
        raise clean_worker_error(error) from None
    except torch.OutOfMemoryError as error:
        raise OptionError(
            f"{device} has not enough memory: try a smaller --batch-size (now {options.batch_size}) or --work-size"
        ) from error


def pick_device(name: str) -> torch.device:
    """The device of that name; ``auto``: CUDA, then MPS, then the CPU. Raises ``OptionError`` for an absent one."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, present in available.items() if present)
    elif not available[name]:
        present = ", ".join(kind for kind, there in available.items() if there)
        raise OptionError(
            f"--device {name}: PyTorch {torch.__version__} finds none here: expected one of auto, {present}"
        )
    return torch.device(name)


def run_training(options: argparse.Namespace, device: torch.device, folder: RunFolder) -> None:
    baseline = read_report(options.baseline_path) if options.baseline_path else None
    train_clips, val_clips = build.clips_of(options, "train"), build.clips_of(options, "val")
    checkpoint = folder.read_checkpoint() if options.resume else None
    model = build.model_with_weights(options, device)
    training = build.training_of(options, model, device)
    if checkpoint is not None:
        resume(training, checkpoint, folder.checkpoint_file)
    else:
        folder.set_earlier_training_aside()
    folder.describe_run(options, describe(model))
    loader, sampler = build.loader_of(options, train_clips, device, trains=True)
    val_loader, _ = build.loader_of(options, val_clips, device, trains=False)
    log.info(
        "%d training and %d validation clips of %d frames, batch %d, on %s with %d threads",
        len(train_clips),
        len(val_clips),
        options.win_size,
        options.batch_size,
        device,
        torch.get_num_threads(),
    )

    validations: list[Evaluation] = []

    def validate() -> Evaluation:
        writer = all_of(clip_writer(options, folder, val_clips), dashboard and dashboard.see_clip)
        validations[:] = [evaluate(model, val_loader, training.loss_function, device, writer, options.use_orig_res)]
        return validations[0]

    dashboard = dashboard_of(options, folder, model, val_clips, device, baseline, training.rows)
    try:
        train(training, build.train_settings(options), loader, sampler, validate, folder, dashboard)
    finally:
        if dashboard is not None:
            dashboard.close()
        # Also where a training is stopped or fails: what it has learned until then is worth seeing.
        if validations and training.rows:
            from engine.plots import write_training_plots  # only here: matplotlib takes long to import

            best_epoch = training.best_row(options.iouVal).epoch
            write_training_plots(folder, training.rows, best_epoch, validations[0].confusion, baseline)
    best = training.best_row(options.iouVal)
    print(f"best epoch {best.epoch}: mIoU {percent(best.val_iou)} %, loss {best.val_loss:.4f}; in {folder.path}")


def run_export(options: argparse.Namespace) -> None:
    model = build.model_with_weights(options, torch.device("cpu"))
    kind = export_weights(model, options.export_weights, trained=False)
    print(f"{options.export_weights}: written as {kind}")


def run_onnx_export(options: argparse.Namespace) -> None:
    model = build.model_with_weights(options, torch.device("cpu"))
    refuse_untrained_memory(model)
    content = export_step(model, options.work_size)
    write_with(options.export_onnx, lambda file: file.write(content))
    print(f"{options.export_onnx}: written for frames of {' x '.join(str(side) for side in options.work_size)}")


def run_evaluation(options: argparse.Namespace, device: torch.device, folder: RunFolder) -> None:
    baseline = read_report(options.baseline_path) if options.baseline_path else None
    clips = build.clips_of(options, "val")
    model = build.model_with_weights(options, device)
    if has_untrained_memory(model):
        log.warning("the weights hold no memory, which starts untrained: these figures say nothing of a trained LMANet")
    folder.describe_run(options, describe(model))
    loader, _ = build.loader_of(options, clips, device, trains=False)
    picks = BestAndWorst(clips.clips)
    dashboard = dashboard_of(options, folder, model, clips, device, baseline)
    writer = all_of(clip_writer(options, folder, clips), picks, dashboard and dashboard.see_clip)
    on_batch = dashboard and dashboard.progress
    loss_function = build.loss_function(options, device)
    result = evaluate(model, loader, loss_function, device, writer, options.use_orig_res, on_batch)
    if dashboard is not None:
        dashboard.evaluation(result)

    names, coloured = class_names(), takes_colour(sys.stdout)
    report = {
        "clips": result.clips,
        "frames_per_clip": options.win_size,
        "work_size": list(options.work_size),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "network_seconds_per_frame": result.network_seconds_per_frame(),
        "waiting_seconds_per_clip": result.waiting_seconds / result.clips,
    }
    if options.iouVal:
        report |= scores(names, result.confusion)
        report["clip_mean_iou"] = picks.scores
        print(iou_table(names, result.confusion, baseline, coloured))
    if options.use_orig_res:
        report["original_size"] = scores(names, result.original_confusion)
        print("at the labels' own size:", iou_table(names, result.original_confusion, coloured=coloured), sep="\n")
    if options.consistency:
        report["consistency"] = measure_consistency(
            build.segmenter_of(options, model, device), build.sequences_of_split(options, "val")
        )
        print(consistency_text(report["consistency"]))
    if options.loss:
        report["loss"] = result.loss
        print(f"loss {result.loss:.4f}")
    folder.write_report(report)
    page = report_page(folder.name, report, baseline, picks, result.confusion, model, clips, device)
    write_text(folder.page_file, page.html())
    print(
        f"{result.clips} clips; {report['network_seconds_per_frame']:.4f} s a frame in the network on {device} "
        f"({report['threads']} threads), {report['waiting_seconds_per_clip']:.4f} s a clip waiting for data"
    )
    print(f"report: {folder.page_file} (figures: {folder.report_file.name})")
    if dashboard is not None:
        if sys.stdin.isatty() and dashboard.client.connected:
            print("the memory inspector answers clicks until Ctrl-C ...", flush=True)
            dashboard.wait_for_interrupt()
        dashboard.close()


def dashboard_of(
    options: argparse.Namespace,
    folder: RunFolder,
    model: LMANet,
    clips: CityscapesClips,
    device: torch.device,
    baseline: dict | None,
    rows: Sequence[EpochRow] = (),
) -> RunDashboard | None:
    """What shows the run in visdom, if that is asked for; of several processes only the first shows anything."""
    if not options.visualize or os.environ.get("RANK", "0") != "0":
        return None
    first_clip = functools.cache(lambda: clips[0].frames)
    return RunDashboard(
        options.port, folder, options.steps_plot, lambda: memory_view(model, first_clip(), device), baseline, rows
    )


def report_page(
    title: str,
    report: dict,
    baseline: dict | None,
    picks: BestAndWorst,
    confusion: ConfusionMatrix,
    model: LMANet,
    clips: CityscapesClips,
    device: torch.device,
) -> ReportPage:
    """The page of an evaluation; the clip that the network is best at is the one whose attention is shown."""
    from engine.plots import confusion_png  # only here: matplotlib takes long to import

    counted = "iou" in report
    inspected = None
    if picks.best:
        view = memory_view(model, clips[picks.best[0].number].frames, device)
        inspected = None if view is None else InspectedClip(picks.best[0], view)
    return ReportPage(
        title,
        report,
        baseline,
        picks.best,
        picks.worst_that_are_not_best(),
        inspected,
        confusion_png(confusion.counts.cpu().numpy(), CLASS_NAMES, "Confusion matrix") if counted else None,
    )


def run_stream(options: argparse.Namespace, device: torch.device, folder: RunFolder) -> None:
    clear_previous(folder.path, options.overwrite)
    source = open_source(options.stream)
    log.info("%s", source.description)
    model = build.model_with_weights(options, device)
    stream = build.stream_of(options, model, source, device, folder.path)
    folder.describe_run(options, describe(model))
    summary_written = True
    try:
        stream.run()
    finally:
        if stream.record.frames:
            summary = stream.summary() | build.circumstances(options, device)
            print(stream_text(summary))
            summary_written = summarised(folder.path, summary)
    if not summary_written:
        raise IncompleteError(f"{SUMMARY} cannot be written to {folder.path}; all other files are complete")


def clip_writer(options: argparse.Namespace, folder: RunFolder, clips):
    """What is written for each clip, if anything is."""
    return all_of(
        PictureWriter(folder.images_folder, clips.clips) if options.save_images else None,
        PredictionWriter(folder.predictions_folder, clips.clips, image_size) if options.save_all_vals else None,
    )
