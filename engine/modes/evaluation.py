"""``--eval-mode``: one pass over the validation clips, and what it says of the network."""

import argparse
import logging
import sys

import torch

from datasets.cityscapes import CityscapesClips
from datasets.classes import CLASS_NAMES
from engine import build
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.consistency import consistency_text, measure_consistency
from engine.evaluation.evaluate import all_of, class_names, evaluate
from engine.reports.memory_view import memory_view
from engine.reports.observers import clip_writer, dashboard_of
from engine.reports.page import InspectedClip, ReportPage
from engine.reports.picks import BestAndWorst
from engine.reports.scores import iou_table, read_report, scores
from engine.run_folder import RunFolder
from models.description import describe
from models.inference.segmenter import has_untrained_memory
from models.lmanet import LMANet
from utils import distributed
from utils.files import write_text
from utils.terminal import supports_color

log = logging.getLogger(__name__)


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
    segmenter = build.segmenter_of(options, model, device) if options.int8 or options.consistency else None
    evaluated = segmenter.model if options.int8 else model
    result = evaluate(evaluated, loader, loss_function, device, writer, options.use_orig_res, on_batch)
    picks.gather()
    if dashboard is not None:
        dashboard.evaluation(result)

    if not distributed.is_first():
        return
    names, colored = class_names(), supports_color(sys.stdout)
    report = {
        "clips": result.clips,
        "frames_per_clip": options.win_size,
        "work_size": list(options.work_size),
        "device": str(device),
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "network_seconds_per_frame": result.network_seconds_per_frame(),
        "waiting_seconds_per_clip": result.waiting_seconds * distributed.world_size() / result.clips,
    }
    if options.iouVal:
        report |= scores(names, result.confusion)
        report["clip_mean_iou"] = picks.scores
        print(iou_table(names, result.confusion, baseline, colored))
    if options.use_orig_res:
        report["original_size"] = scores(names, result.original_confusion)
        print("at the labels' own size:", iou_table(names, result.original_confusion, colored=colored), sep="\n")
    if options.consistency:
        report["consistency"] = measure_consistency(segmenter, build.sequences_of_split(options, "val"))
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
    from engine.reports.plots import confusion_png  # only here: matplotlib takes long to import

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
