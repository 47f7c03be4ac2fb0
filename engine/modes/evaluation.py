"""``--eval-mode``: one pass over the validation clips, and its report."""

import logging
import math
import sys
from typing import Any

import torch

from datasets.clip_dataset import ClipDataset
from datasets.registry import dataset_named
from datasets.streamed_clips import StreamedClips
from engine.agreement import check_same_data
from engine.dashboard.setup import dashboard_of
from engine.data import clips_of, evaluation_loader_of, videos_of
from engine.evaluation.consistency import consistency_text, measure_consistency
from engine.evaluation.dense import dense_text
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.evaluation.smoothing_weight import best_weight, mean_iou_by_weight
from engine.network import with_network
from engine.options.settings import AUTO, Settings
from engine.reports.baseline import LABELED_PIXELS, check_comparable, labeled_pixels, on_same_labels, read_report
from engine.reports.clip_writers import all_of, clip_writer
from engine.reports.memory_view import memory_view
from engine.reports.page import InspectedClip, ReportPage
from engine.reports.picks import BestAndWorst
from engine.reports.scores import iou_table, scores
from engine.run_folder import RunFolder
from engine.streaming.setup import segmenter_of
from engine.training.setup import loss_function
from models.description import describe
from models.inference.fast_copy import fast_copy
from models.inference.segmenter import has_untrained_decoder, has_untrained_memory
from models.lmanet import LMANet
from utils import distributed
from utils.class_map import class_map_text
from utils.files import write_text
from utils.printable import printable
from utils.terminal import supports_color

log = logging.getLogger(__name__)


def run_evaluation(settings: Settings, device: torch.device, folder: RunFolder) -> None:
    """Evaluates the network, prints its scores, and writes ``report.json`` and ``report.html``."""
    wanted = settings.report
    baseline = read_report(wanted.baseline) if wanted.baseline else None
    settings, model = with_network(settings, device)
    folder = folder.renamed(settings.shallow)
    clips, classes = clips_of(settings.data, model.config, "val"), settings.network.classes
    check_same_data(model, classes, {"validation": clips.clips})
    if baseline is not None:
        check_comparable(baseline, clips.clips, classes, settings.data)
    if has_untrained_memory(model):
        log.warning("the weights hold no memory, which starts untrained: these figures say nothing of a trained LMANet")
    if has_untrained_decoder(model):
        log.warning("the weights hold no such decoder, which starts untrained: these figures are those of noise")
    is_fast = settings.stream.is_for_cpu
    segmenter = segmenter_of(settings, model, device) if is_fast or wanted.consistency else None
    loader = evaluation_loader_of(settings.data, clips, model, "val", device)
    # Only now, after all that may refuse the evaluation.
    if distributed.is_first():
        folder.describe_run(settings, describe(model))
    picks = BestAndWorst(clips.clips, classes.num_outputs)
    dashboard = dashboard_of(wanted, folder, model, clips, device, baseline)
    writer = all_of(clip_writer(wanted, folder, clips), picks, None if dashboard is None else dashboard.see_clip)
    on_batch = None if dashboard is None else dashboard.progress
    loss = loss_function(classes, model.config.shallow_decoder, device) if wanted.loss else None
    if segmenter is not None and is_fast:
        evaluated = segmenter.enlarged_model()
    else:
        evaluated = fast_copy(model, for_clips=not isinstance(loader.dataset, StreamedClips))
    result = evaluate(
        evaluated, loader, loss, device, writer, wanted.original_size, on_batch, memory_format=torch.channels_last
    )
    picks.gather()
    pixels = labeled_pixels(result.confusion, classes)
    baseline = on_same_labels(baseline, pixels)
    if dashboard is not None:
        dashboard.baseline = baseline
        dashboard.evaluation(result)

    if not distributed.is_first():
        return
    names, colored = classes.names, supports_color(sys.stdout)
    report: dict[str, Any] = {
        "clips": result.clips,
        "frames_per_clip": settings.data.window,
        "work_size": list(settings.data.work_size),
        "control": settings.data.control,
        "device": str(device),
        "processes": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "network_seconds_per_frame": result.network_seconds_per_frame(),
        "network_seconds_of_clips": result.timed_batches,
        "waiting_seconds_per_clip": result.waiting_seconds * distributed.world_size() / result.clips,
    }
    lines = []
    if settings.network.class_map is not None:
        class_map = settings.network.class_map
        report["class_map"] = class_map.to_json(dataset_named(settings.data.dataset).classes)
        lines.append(class_map_text(report["class_map"]))
    if wanted.iou:
        report |= scores(names, result.confusion, result.metric_counts)
        report |= {"clip_mean_iou": picks.scores, LABELED_PIXELS: pixels}
        lines.append(iou_table(names, result.confusion, baseline, colored, result.metric_counts))
    if wanted.iou and result.dense is not None:
        report["dense"] = result.dense.report()
        lines.append(dense_text(report["dense"]))
    if wanted.original_size:
        report["original_size"] = scores(names, result.original_confusion)
        lines += ["at the labels' own size:", iou_table(names, result.original_confusion, colored=colored)]
    if wanted.consistency:
        assert segmenter is not None
        by_weight: dict[float, float] = {}
        if settings.stream.smooth_weight == AUTO and segmenter.smoother is not None:
            by_weight = mean_iou_by_weight(segmenter, clips.dataset, videos_of(settings.data, "train"))
            segmenter.smoother.weight = best_weight(by_weight)
            lines.append(f"smoothing with weight {segmenter.smoother.weight:g}, the best one on training clips")
        report["consistency"] = measure_consistency(
            segmenter, clips.dataset, videos_of(settings.data, "val"), {clip.label for clip in clips.clips}
        )
        if by_weight:
            chosen_by = {f"{weight:g}": value for weight, value in by_weight.items()}
            report["consistency"]["smoothing"]["mean_iou_on_training_clips"] = chosen_by
        lines.append(consistency_text(report["consistency"]))
    if wanted.loss:
        report["loss"] = result.loss if math.isfinite(result.loss) else None
        lines.append(f"loss {result.loss:.4f}")
    folder.write_report(report)
    page = report_page(folder.name, report, baseline, picks, result, model, clips, device)
    write_text(folder.page_file, page.html())
    lines.append(
        f"{result.clips} clips on {device} ({report['threads']} threads): {time_text(result)}, "
        f"{report['waiting_seconds_per_clip']:.4f} s a clip waiting for data"
    )
    lines.append(printable(f"report: {folder.page_file} (figures: {folder.report_file.name})"))
    print("\n".join(lines))  # after all files, as whoever reads it may stop at any line
    if dashboard is not None:
        if sys.stdin.isatty() and dashboard.client.connected:
            print("the memory inspector answers clicks until Ctrl-C ...", flush=True)
            dashboard.wait_for_interrupt()
        dashboard.close()


def time_text(result: Evaluation) -> str:
    """Seconds of a frame in the network, and of how many clips that is the median; or why they were not measured."""
    seconds, clips = result.network_seconds_per_frame(), result.timed_batches
    if seconds is None:
        return f"the time in the network was not measured, as its {result.frames} frames are no more than a warm-up"
    return f"{seconds:.4f} s a frame in the network (median of {clips} clips after {result.warm_up} of warm-up)"


def report_page(
    title: str,
    report: dict,
    baseline: dict | None,
    picks: BestAndWorst,
    result: Evaluation,
    model: LMANet,
    clips: ClipDataset,
    device: torch.device,
) -> ReportPage:
    """The page of an evaluation; it shows the attention in the clip with the highest IoU."""
    from engine.reports.plots import confusion_png  # here, as matplotlib takes long to import

    counts, classes = result.confusion.counts.cpu().numpy(), clips.dataset.classes
    inspected = None
    if picks.best:
        view = memory_view(model, clips[picks.best[0].number].frames, device)
        inspected = None if view is None else InspectedClip(picks.best[0], view)
    return ReportPage(
        title,
        classes,
        report,
        baseline,
        picks.best,
        picks.worst_that_are_not_best(),
        inspected,
        confusion_png(counts, classes.output_names, "Confusion matrix") if "iou" in report else None,
    )
