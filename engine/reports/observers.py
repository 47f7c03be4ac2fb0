"""What looks on while clips go by: writers of pictures and predictions, and the dashboard."""

import argparse
import functools
from collections.abc import Sequence

import torch

from datasets.cityscapes import CityscapesClips
from datasets.images import image_size
from engine import processes
from engine.dashboard.run import RunDashboard
from engine.evaluation.evaluate import PictureWriter, PredictionWriter, all_of
from engine.reports.memory_view import memory_view
from engine.run_folder import EpochRow, RunFolder
from models.lmanet import LMANet


def clip_writer(options: argparse.Namespace, folder: RunFolder, clips):
    """What is written for each clip, if anything is."""
    return all_of(
        PictureWriter(folder.images_folder, clips.clips) if options.save_images else None,
        PredictionWriter(folder.predictions_folder, clips.clips, image_size) if options.save_all_vals else None,
    )


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
    if not options.visualize or not processes.is_first_rank():
        return None
    first_clip = functools.cache(lambda: clips[0].frames)
    return RunDashboard(
        options.port, folder, options.steps_plot, lambda: memory_view(model, first_clip(), device), baseline, rows
    )
