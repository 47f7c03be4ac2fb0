"""From options to objects: the only place that reads the parsed options."""

import argparse
import copy
import logging
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from torch.utils.data import DataLoader

from datasets.cache import FrameCache
from datasets.cityscapes import CityscapesClips, Roots, find_clips, resolve_roots
from datasets.classes import IGNORED, LOSS_WEIGHTS, LOSS_WEIGHTS_SHALLOW, NUM_CLASSES
from datasets.controls import CONTROLS
from datasets.sampling import EpochSampler
from datasets.transforms import Augmentation
from engine.evaluation.consistency import FrameSequence, prediction_names, sequences_of
from engine.evaluation.temporal_consistency import TemporalConsistency
from engine.loading import network_input
from engine.options.checks import CROP, NO_WEIGHTS, SYNTHETIC_SIZE, network_config
from engine.run_folder import RunFolder
from engine.streaming.outputs import LabelOutput, ProbabilityOutput, VideoOutput
from engine.streaming.sources import FrameSource, open_source, spread_frames
from engine.streaming.stream import Stream
from engine.training.checkpoint import Training
from engine.training.gradients import BatchLearner, ClipLearner, Learner
from engine.training.loop import TrainSettings
from models.inference.segmenter import VideoSegmenter, has_untrained_memory
from models.lmanet import LMANet, build_lmanet
from models.losses import WeightedCrossEntropy
from models.warm_start import warm_start
from models.weights.files import load_weights
from utils import distributed
from utils.errors import OptionError
from utils.files import writable_folder

log = logging.getLogger(__name__)

SYNTHETIC_TRAIN_CLIPS, SYNTHETIC_VAL_CLIPS = 100, 30
PLATEAU_FLOOR = 1e-9
POW_B_EPOCHS = 50
PROBE_SIDE = 64
CALIBRATION_FRAMES = 16


def run_folder(options: argparse.Namespace) -> RunFolder:
    return RunFolder(options.savedir, options.shallow_dec)


def model_with_weights(options: argparse.Namespace, device: torch.device) -> LMANet:
    """The network on its device, with the weights that were asked for and the parts frozen that are not trained."""
    model = build_lmanet(network_config(options))
    if options.weights != NO_WEIGHTS and not options.resume:
        load_weights(model, options.weights)
    if not options.train_encoder:
        model.encoder.requires_grad_(False)
    if not (options.train_decoder or options.train_erfnet_shallow_dec):
        model.decoder.requires_grad_(False)
    return model.to(device, memory_format=torch.channels_last)


def warm_start_memory(options: argparse.Namespace, model: LMANet, clips: CityscapesClips, device: torch.device) -> None:
    """First weights for a memory that would start with random ones, from clips spread over the data set."""
    if not has_untrained_memory(model):
        raise OptionError(
            f"--warm-start with --weights {options.weights}: expected a trained single-frame network's weights, whose "
            "memory has none yet; leave it out"
        )
    step = max(1, len(clips) // options.warm_start)
    chosen = [clips[index].frames for index in range(0, len(clips), step)][: options.warm_start]
    warm_start(model, lambda: (network_input(frames[None], model.config.traits, device) for frames in chosen))
    log.info("the memory starts from the features of %d clips", len(chosen))


def loss_function(options: argparse.Namespace, device: torch.device) -> nn.Module:
    class_weights = LOSS_WEIGHTS_SHALLOW if options.shallow_dec else LOSS_WEIGHTS
    return WeightedCrossEntropy(class_weights, IGNORED).to(device)


def data_roots(options: argparse.Namespace) -> Roots:
    """Where the data set is; synthetic clips are drawn first where they are not there yet."""
    if options.dataset == "Cityscapes":
        return resolve_roots(options.data_root)
    from datasets.synthetic import StreetOptions, write_dataset  # only here: a real data set needs no painter

    root = Path(options.data_root)
    if distributed.is_first() and not (root / "dataset.json").is_file():
        log.info("drawing synthetic street clips into %s", root)
        height, width = SYNTHETIC_SIZE
        write_dataset(
            root,
            SYNTHETIC_TRAIN_CLIPS,
            SYNTHETIC_VAL_CLIPS,
            StreetOptions(height=height, width=width),
            os.cpu_count() or 1,
        )
    distributed.barrier()
    return resolve_roots(str(root))


def clips_of(options: argparse.Namespace, split: str) -> CityscapesClips:
    """The clips of a split, augmented where it is the one that is trained on."""
    config, trains = network_config(options), split == "train"
    augmentation = Augmentation(flip=True, shift=2, crop=CROP if options.random_crop else None) if trains else None
    positions = config.frame_positions(options.win_size)
    clips = find_clips(data_roots(options), split, options.win_size, positions)
    return CityscapesClips(
        CONTROLS[options.control](clips) if options.control else clips,
        options.work_size,
        augmentation=augmentation,
        cache=FrameCache(writable_folder(options.cache, "--cache")) if options.cache else None,
        seed=options.seed,
        original_labels=options.use_orig_res and not trains,
        label_divisor=config.traits.stride if config.shallow_decoder else 1,
        retries=options.retries,
        drawn_frames=config.memory_size if config.picks_by_chance else None,
    )


def sequences_of_split(options: argparse.Namespace, split: str) -> list[FrameSequence]:
    """The sequences of a split, with all labels that it has."""
    roots = data_roots(options)
    return sequences_of(find_clips(roots, split, options.win_size), find_clips(roots, split, 1))


def loader_of(
    options: argparse.Namespace, clips: CityscapesClips, device: torch.device, trains: bool
) -> tuple[DataLoader, EpochSampler]:
    """A loader and the sampler that decides its order; validation goes through the clips as they lie."""
    # Batches that go through a network as one have to be of one size in all processes.
    pad = trains and device.type != "cpu"
    sampler = EpochSampler(len(clips), seed=options.seed, shuffle=trains, pad=pad, **_share())
    loader = DataLoader(
        clips,
        batch_size=options.batch_size if trains else 1,
        sampler=sampler,
        num_workers=min(options.num_workers, len(clips)),
        pin_memory=device.type == "cuda",
        persistent_workers=trains and options.num_workers > 0,
        worker_init_fn=_leave_signals_to_the_parent if trains else _leave_interrupts_to_the_parent,
        # Of its own, so that loading never moves the random numbers of the training.
        generator=torch.Generator().manual_seed(options.seed),
    )
    return loader, sampler


def training_of(options: argparse.Namespace, model: LMANet, device: torch.device) -> Training:
    """The start of a training, before ``resume``."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = Adam(trained, lr=options.lr_start, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4)
    schedule = schedule_of(options.lr_strategy, optimizer, options.num_epochs)
    # Only numbers of half the width and range of float32 need to be scaled.
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "float16")
    learner = learner_of(options, model, device, scaler)
    return Training(model, optimizer, schedule, loss_function(options, device), device, scaler, learner)


def learner_of(
    options: argparse.Namespace, model: LMANet, device: torch.device, scaler: torch.amp.GradScaler
) -> Learner:
    """How gradients are found, of trained parameters alone, by processes that train as one."""
    if device.type == "cpu":
        return ClipLearner(model, options.batch_size, options.seed)
    if distributed.world_size() == 1:
        return BatchLearner(model, scaler)
    return BatchLearner(spread(options, model, device), scaler)


def spread(options: argparse.Namespace, model: LMANet, device: torch.device) -> DistributedDataParallel:
    """The model in several processes, whose gradients are averaged and whose batch norms see all samples."""
    distributed.synchronize_norms(model)
    for name in unused_parameters(model, options.win_size):
        # No loss reaches it, so that it never changes; the other processes need not be asked about it.
        model.get_parameter(name).requires_grad_(False)
    if distributed.rank() > 0:
        # Dropout of its own for each process; the first draws what a single process would.
        torch.manual_seed(options.seed + 1_000_003 * distributed.rank())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a new name for broadcast_buffers, which older PyTorch lacks
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # the batch norms are synchronized
            gradient_as_bucket_view=True,
        )


def unused_parameters(model: LMANet, window: int) -> list[str]:
    """Names of the trained parameters that the loss of a clip of ``window`` frames does not depend on, such as the
    value convolution of the query where only what was read is decoded. Found with one small clip, on a copy."""
    probe = copy.deepcopy(model).cpu().train()
    config = model.config
    positions = config.frame_positions(window)
    frames = config.memory_size + 1 if positions is None else len(positions)
    side = config.traits.nearest_sides(PROBE_SIDE)[0]
    for module in probe.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # the other processes are not waited for
    with torch.random.fork_rng(devices=[]):
        logits = probe(torch.zeros(1, frames, 3, side, side), selected=True)
    parts = logits if isinstance(logits, tuple) else (logits,)
    sum(part[:, -1].sum() for part in parts).backward()
    return [name for name, parameter in probe.named_parameters() if parameter.requires_grad and parameter.grad is None]


def _share() -> dict[str, int]:
    return {"rank": distributed.rank(), "world_size": distributed.world_size()}


def train_settings(options: argparse.Namespace) -> TrainSettings:
    return TrainSettings(
        num_epochs=options.num_epochs,
        steps_loss=options.steps_loss,
        epochs_save=options.epochs_save,
        steps_save=options.steps_save,
        accumulate=options.accumulate,
        autocast=getattr(torch, options.amp) if options.amp else None,
        train_iou=options.iouTrain,
        val_iou=options.iouVal,
        encoder_eval_mode=options.encoder_eval_mode,
        decoder_eval_mode=options.decoder_eval_mode,
    )


def schedule_of(strategy: str, optimizer: Optimizer, num_epochs: int) -> LRScheduler | ReduceLROnPlateau:
    """The learning rate's schedule, stepped once an epoch.

    ``plateau_0X``: times 0.X when the mean training loss stalls (PyTorch's patience of 10 epochs), not below 1e-9.
    ``pow_0X``: ``(1 - epoch / num_epochs) ** 0.X`` from epoch 0 on. ``pow_09_b``: the same over 50 epochs; the rate of
    the 50th is kept after it.
    """
    kind, digits, *rest = strategy.split("_")
    power = int(digits) / 10
    if kind == "plateau":
        return ReduceLROnPlateau(optimizer, factor=power, min_lr=PLATEAU_FLOOR, eps=0)
    length = POW_B_EPOCHS if rest else num_epochs
    return LambdaLR(optimizer, lambda epoch: (1 - min(epoch, length - 1) / length) ** power)


def segmenter_of(options: argparse.Namespace, model: LMANet, device: torch.device) -> VideoSegmenter:
    return VideoSegmenter(
        model,
        device=device,
        work_size=options.work_size,
        every=options.every,
        compiled=options.compile,
        amp=options.amp is not None,
        int8_frames=calibration_frames(options),
    )


def calibration_frames(options: argparse.Namespace) -> list[np.ndarray] | None:
    """Frames, RGB uint8 ``H W 3``, that ``--int8`` names; ``None`` where it is not given."""
    if options.int8 is None:
        return None
    return spread_frames(open_source(options.int8, "--int8"), CALIBRATION_FRAMES)


def stream_of(options: argparse.Namespace, segmenter: VideoSegmenter, source: FrameSource, folder: Path) -> Stream:
    """A stream from the source into the outputs that were asked for."""
    outputs = [
        VideoOutput(folder, options.save_video, options.alpha, source.fps) if options.save_video else None,
        LabelOutput(folder, options.save_labels) if options.save_labels else None,
        ProbabilityOutput(folder) if options.save_probabilities else None,
    ]
    names = prediction_names(segmenter)
    return Stream(
        segmenter,
        source,
        [output for output in outputs if output is not None],
        detect_cuts=not options.no_cut_detection,
        consistency=TemporalConsistency(names, NUM_CLASSES) if options.consistency else None,
        wants_probabilities=options.save_probabilities,
    )


def circumstances(options: argparse.Namespace, device: torch.device) -> dict:
    """Where and how something was computed, as JSON holds it."""
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "options": {name: _plain(value) for name, value in sorted(vars(options).items())},
    }


def _plain(value: object) -> object:
    return value if isinstance(value, (str, int, float, bool, list, tuple, type(None))) else str(value)


def _leave_interrupts_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches the whole process group; only the main process answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave_signals_to_the_parent(worker: int) -> None:
    """A training answers SIGTERM with a checkpoint, until which its workers are needed."""
    _leave_interrupts_to_the_parent(worker)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
