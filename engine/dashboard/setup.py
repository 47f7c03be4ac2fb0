"""Builds the dashboard of a run from settings."""

import functools
from collections.abc import Sequence

import torch

from datasets.clip_dataset import ClipDataset
from engine.dashboard.run import RunDashboard
from engine.options.settings import ReportSettings
from engine.reports.memory_view import memory_view
from engine.run_folder import EpochRow, RunFolder
from models.lmanet import LMANet
from utils import distributed


def dashboard_of(
    settings: ReportSettings,
    folder: RunFolder,
    model: LMANet,
    clips: ClipDataset,
    device: torch.device,
    baseline: dict | None,
    rows: Sequence[EpochRow] = (),
) -> RunDashboard | None:
    """The dashboard of a run; ``None`` without ``--visualize``, and in all processes but the first."""
    if not settings.visualize or not distributed.is_first():
        return None
    first_clip = functools.cache(lambda: clips[0].frames)
    return RunDashboard(
        settings.port,
        folder,
        clips.dataset.classes,
        settings.steps_plot,
        lambda: memory_view(model, first_clip(), device),
        baseline,
        rows,
    )
