"""From settings to clips and loaders."""

import logging
from typing import Any

import torch
from torch.utils.data import DataLoader

from datasets.cache import FrameCache
from datasets.clip_dataset import ClipDataset
from datasets.clips import Video
from datasets.controls import CONTROLS
from datasets.registry import VideoDataset, dataset_named
from datasets.sampling import EpochSampler
from datasets.transforms import Augmentation
from engine.options.settings import DataSettings
from models.config import LMANetConfig
from utils import distributed
from utils.files import writable_folder
from utils.signals import leave_interrupts_to_parent, leave_signals_to_parent

log = logging.getLogger(__name__)


def clips_of(data: DataSettings, config: LMANetConfig, split: str) -> ClipDataset:
    """The clips of a split, augmented where it is the one that is trained on."""
    dataset, root = _opened(data)
    clips = dataset.clips(root, split, data.window, config.frame_positions(data.window))
    trains = split == "train"
    ignored = dataset.classes.ignored
    return ClipDataset(
        dataset,
        CONTROLS[data.control](clips) if data.control else clips,
        data.work_size,
        augmentation=Augmentation(ignored, flip=True, shift=2, crop=data.crop) if trains else None,
        cache=FrameCache(writable_folder(data.cache, "--cache")) if data.cache else None,
        seed=data.seed,
        original_labels=data.original_labels and not trains,
        label_divisor=config.traits.stride if config.shallow_decoder else 1,
        retries=data.retries,
        drawn_frames=config.memory_size if config.picks_by_chance else None,
    )


def sequences_of(data: DataSettings, split: str) -> list[Video]:
    """The sequences of a split, with all labels that it has."""
    dataset, root = _opened(data)
    return dataset.sequences(root, split, data.window)


def loader_of(
    data: DataSettings, clips: ClipDataset, device: torch.device, trains: bool
) -> tuple[DataLoader, EpochSampler]:
    """A loader and the sampler that decides its order; validation goes through the clips as they lie."""
    # Batches that go through a network as one have to be of one size in all processes.
    pad = trains and device.type != "cpu"
    share = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    sampler = EpochSampler(len(clips), seed=data.seed, shuffle=trains, pad=pad, **share)
    loader = DataLoader(
        clips,
        batch_size=data.batch_size if trains else 1,
        sampler=sampler,
        num_workers=min(data.num_workers, len(clips)),
        pin_memory=device.type == "cuda",
        persistent_workers=trains and data.num_workers > 0,
        # A training answers SIGTERM with a checkpoint, until which its workers are needed.
        worker_init_fn=leave_signals_to_parent if trains else leave_interrupts_to_parent,
        # Of its own, so that loading never moves the random numbers of the training.
        generator=torch.Generator().manual_seed(data.seed),
    )
    return loader, sampler


def _opened(data: DataSettings) -> tuple[VideoDataset, Any]:
    """The data set and its root; what is made on first use is made by the first process."""
    dataset = dataset_named(data.dataset)
    if distributed.is_first():
        dataset.prepare(data.root)
    distributed.barrier()
    return dataset, dataset.root(data.root)
