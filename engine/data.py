"""From settings to clips and loaders."""

import logging
from typing import Any

import torch

from datasets.cache import FrameCache
from datasets.clip_dataset import ClipDataset
from datasets.clips import Video
from datasets.controls import CONTROLS
from datasets.hold_out import split_by_scene
from datasets.mapped_dataset import dataset_of
from datasets.registry import VideoDatasetBase
from datasets.sampling import EpochSampler
from datasets.streamed_clips import StreamedClips, streamed
from datasets.transforms import Augmentation
from engine.evaluation.dense import can_be_streamed
from engine.loading import ClipLoader
from engine.options.settings import SHIFT, DataSettings
from models.config import LMANetConfig
from models.lmanet import LMANet
from utils import distributed
from utils.errors import OptionError
from utils.files import writable_folder
from utils.signals import leave_interrupts_to_parent, leave_signals_to_parent

log = logging.getLogger(__name__)


HELD_OUT = "held-out"  # the clips of the split train that --hold-out takes


def clips_of(data: DataSettings, config: LMANetConfig, split: str) -> ClipDataset:
    """The clips of a split, ``train``, ``val`` or ``HELD_OUT``; those of ``train`` are augmented."""
    dataset, root = _opened(data)
    clips = dataset.clips(root, _folder_of(split), data.window, config.frame_positions(data.window))
    if data.hold_out and split != "val":
        clips = split_by_scene(clips, data.hold_out, data.seed)[split == HELD_OUT]
    trains = split == "train"
    lengths = sorted({len(clip.frames) for clip in clips})
    if trains and len(lengths) > 1 and data.batch_size > 1:  # still images among videos
        raise OptionError(
            f"--batch-size {data.batch_size}: clips of {lengths[0]} and of {lengths[-1]} frames do not go into one "
            "batch: expected --batch-size 1, with --accumulate for larger steps"
        )
    ignored, variants = dataset.classes.ignored, data.features.variants if data.features else None
    return ClipDataset(
        dataset,
        CONTROLS[data.control](clips) if data.control else clips,
        data.work_size,
        augmentation=Augmentation(ignored, True, SHIFT, data.crop, variants) if trains else None,
        cache=FrameCache(writable_folder(data.cache, "--cache")) if data.cache else None,
        seed=data.seed,
        original_labels=data.original_labels and not trains,
        label_divisor=config.traits.stride if config.shallow_decoder else 1,
        retries=data.retries,
        drawn_frames=config.memory_size if config.picks_by_chance else None,
    )


def validation_split(data: DataSettings) -> str:
    """The split that a training is validated on."""
    return HELD_OUT if data.hold_out else "val"


def _folder_of(split: str) -> str:
    return "train" if split == HELD_OUT else split


def videos_of(data: DataSettings, split: str) -> list[Video]:
    """The videos of a split that hold a label, each with all of its frames."""
    dataset, root = _opened(data)
    return [video for video in dataset.videos(root, split) if any(video.labels)]


def loader_of(
    data: DataSettings, clips: ClipDataset, device: torch.device, trains: bool
) -> tuple[ClipLoader, EpochSampler]:
    """A loader of this process's share of the clips, and its sampler; shuffled for training, else in order, batch 1."""
    sampler = EpochSampler(
        len(clips),
        seed=data.seed,
        shuffle=trains,
        # Batches that a network takes as a whole need the same size in all processes.
        pad=trains and device.type != "cpu",
        rank=distributed.rank(),
        world_size=distributed.world_size(),
    )
    loader = ClipLoader(
        clips,
        batch_size=data.batch_size if trains else 1,
        sampler=sampler,
        num_workers=min(data.num_workers, len(clips)),
        pin_memory=device.type == "cuda",
        persistent_workers=trains and data.num_workers > 0,
        # A training saves a checkpoint on SIGTERM, and needs its workers until then.
        worker_init_fn=leave_signals_to_parent if trains else leave_interrupts_to_parent,
        # A separate generator, so that loading does not advance the one of the training.
        generator=torch.Generator().manual_seed(data.seed),
    )
    return loader, sampler


def in_stream(data: DataSettings, clips: ClipDataset, model: LMANet, split: str) -> ClipDataset:
    """The clips of an evaluation, as a stream where videos are densely labeled; else as they are."""
    positions = model.config.frame_positions(data.window)
    if data.control or positions is None or not can_be_streamed(model):
        return clips
    dataset, root = _opened(data)
    memory_size = 0 if model.config.baseline else model.config.memory_size
    videos = dataset.videos(root, _folder_of(split))
    if split == HELD_OUT:
        held = {clip.label for clip in clips.clips}
        videos = [video for video in videos if not held.isdisjoint(video.labels)]
    stream = streamed(videos, clips.clips, data.window, positions, memory_size)
    return clips if stream is None else StreamedClips(clips, stream)


def evaluation_loader_of(
    data: DataSettings, clips: ClipDataset, model: LMANet, split: str, device: torch.device
) -> ClipLoader:
    """A loader of this process's share of the clips of an evaluation; densely labeled videos are streamed."""
    return loader_in_order(data, in_stream(data, clips, model, split), device)


def loader_in_order(data: DataSettings, clips: ClipDataset, device: torch.device) -> ClipLoader:
    """A loader of this process's share of the clips of an evaluation, which may be a stream."""
    if not isinstance(clips, StreamedClips):
        return loader_of(data, clips, device, trains=False)[0]
    share = clips.share(distributed.rank(), distributed.world_size())
    return ClipLoader(
        clips,
        batch_size=1,
        sampler=[(0, position) for position in share],
        num_workers=min(data.num_workers, len(share)),
        pin_memory=device.type == "cuda",
        worker_init_fn=leave_interrupts_to_parent,
        generator=torch.Generator().manual_seed(data.seed),
    )


def _opened(data: DataSettings) -> tuple[VideoDatasetBase, Any]:
    """The data set and its root. The first process generates data sets that are generated on first use."""
    dataset = dataset_of(data.dataset, data.class_map)
    if distributed.is_first():
        dataset.prepare(data.root)
    distributed.barrier()
    return dataset, dataset.root(data.root)
