"""Runs the mode that was asked for, on the device that is there."""

import argparse
import errno
import functools
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch

from datasets.cityscapes import CityscapesClips
from datasets.classes import CLASS_NAMES
from datasets.images import image_size
from datasets.sampling import clean_worker_error
from engine import benchmark_stream, build, processes
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
from engine.saving import Saver
from engine.state import resume, run_name
from engine.stream import stream_text, summarised
from engine.stream_outputs import SUMMARY, clear_previous
from engine.train import train
from models.lmanet import LMANet
from models.model_text import describe
from models.onnx import export_step
from models.segmenter import has_untrained_memory, refuse_untrained_memory
from models.weights import export_weights
from utils import distributed
from utils.errors import IncompleteError, LostPeerError, OptionError, TrainingError, UserError
from utils.files import write_text, write_with
from utils.metrics import ConfusionMatrix
from utils.terminal import takes_colour

log = logging.getLogger(__name__)


def run(options: argparse.Namespace) -> None:
    """Trains or evaluates, alone or as one of several processes. Raises a ``UserError`` for anything a user can mend,
    ``StoppedError`` after SIGTERM and ``LostPeerError`` where another process went away."""
    level = logging.INFO if processes.is_first_rank() else logging.WARNING
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr, force=True)
    processes.end_with_parent()
    device = pick_device(options.device)
    folder = build.run_folder(options)
    torch.backends.cudnn.benchmark = True  # frames of a run are all of one size
    random.seed(options.seed)
    torch.manual_seed(options.seed)
    try:
        distributed.join(device.type)
        with folder.locked(processes.lock_patience()) if distributed.is_first() else nullcontext():
            distributed.wait_for_all()
            run_modes(options, device, folder)
        distributed.leave()
    except UserError as error:
        raise clean_worker_error(error) from None
    except torch.OutOfMemoryError as error:
        raise OptionError(
            f"{device} has not enough memory: try a smaller --batch-size (now {options.batch_size}) or --work-size"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        raise OptionError(
            f"--savedir {options.savedir}: {error.filename or 'a file'} cannot be written ({error.strerror}): expected "
            "room on the disk; make some, or give another --savedir"
        ) from error
    except RuntimeError as error:
        if "DataLoader worker" in str(error):
            raise TrainingError(
                f"a process that reads the data ended ({str(error).strip()}): often memory is short: try fewer than "
                f"--num-workers {options.num_workers}"
                + (", and go on from the last checkpoint with --resume" if options.training else "")
            ) from error
        if distributed.is_lost_peer(error):
            time.sleep(processes.GRACE_SECONDS)
            raise LostPeerError(f"rank {distributed.rank()} ended, as another process went away") from error
        raise


def run_modes(options: argparse.Namespace, device: torch.device, folder: RunFolder) -> None:
    if options.training:
        run_training(options, device, folder)
    if options.export_weights and distributed.is_first():
        run_export(options)
    if options.export_onnx and distributed.is_first():
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
    if not processes.is_rank():
        return torch.device(name)
    return _device_of_rank(name)


def _device_of_rank(kind: str) -> torch.device:
    local_rank = int(os.environ["LOCAL_RANK"])
    if kind == "mps" and int(os.environ["WORLD_SIZE"]) > 1:
        raise OptionError("--device mps: one process at a time can use it: leave --gpus out, or give --device cpu")
    if kind != "cuda":
        return torch.device(kind)
    if local_rank >= torch.cuda.device_count():
        raise OptionError(
            f"--gpus: process {local_rank + 1} of this machine has no GPU: expected at most {torch.cuda.device_count()}"
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def run_training(options: argparse.Namespace, device: torch.device, folder: RunFolder) -> None:
    baseline = read_report(options.baseline_path) if options.baseline_path else None
    train_clips, val_clips = build.clips_of(options, "train"), build.clips_of(options, "val")
    checkpoint = distributed.from_first(_checkpoint_to_go_on_from(options, folder) if distributed.is_first() else None)
    if options.amp == "float16" and device.type != "cuda":
        raise OptionError(f"--amp float16 needs CUDA, this runs on {device}: try --amp bfloat16")
    model = build.model_with_weights(options, device)
    training = build.training_of(options, model, device)
    if distributed.is_first():
        if checkpoint is None:
            folder.set_earlier_training_aside()
        folder.describe_run(options, describe(model))
    build.spread(options, training)
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
            from engine.plots import write_training_plots  # only here: matplotlib takes long to import

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
    if distributed.is_first():
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

    if not distributed.is_first():
        return
    names, coloured = class_names(), takes_colour(sys.stdout)
    report = {
        "clips": result.clips,
        "frames_per_clip": options.win_size,
        "work_size": list(options.work_size),
        "device": str(device),
        "processes": distributed.world_size(),
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
