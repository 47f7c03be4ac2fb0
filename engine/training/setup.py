"""Builds a training from settings: optimizer, schedule, loss, and the network spread over several processes."""

import copy
import logging
import warnings

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Adam

from datasets.clip_dataset import ClipDataset
from engine.options.settings import Settings
from engine.training.checkpoint import Training
from engine.training.gradients import BatchLearner, ClipLearner, Learner
from engine.training.schedule import make_schedule
from models.inference.segmenter import has_untrained_memory
from models.lmanet import LMANet
from models.losses import WeightedCrossEntropy
from models.normalize import network_input
from models.warm_start import warm_start
from utils import distributed
from utils.class_set import ClassSet
from utils.errors import OptionError

log = logging.getLogger(__name__)

PROBE_SIDE = 64


def warm_start_memory(settings: Settings, model: LMANet, clips: ClipDataset, device: torch.device) -> None:
    """Initializes the weights of the memory from the features of clips, evenly spaced over the data set.

    Raises ``OptionError`` for a network without a memory or with a trained one.
    """
    count = settings.train.warm_start
    if not has_untrained_memory(model):
        raise OptionError(
            f"--warm-start with --weights {settings.network.weights}: expected a trained single-frame network's "
            "weights, whose memory has none yet; leave it out"
        )
    step = max(1, len(clips) // count)
    chosen = [clips[index].frames for index in range(0, len(clips), step)][:count]
    warm_start(model, lambda: (network_input(frames[None], model.config.traits, device) for frames in chosen))
    log.info("the memory's weights are initialized from the features of %d clips", len(chosen))


def loss_function(classes: ClassSet, shallow: bool, device: torch.device) -> WeightedCrossEntropy:
    """The training loss with the weights of the classes, which differ for the shallow decoder."""
    return WeightedCrossEntropy(classes.output_weights(shallow), classes.ignored).to(device)


def training_of(settings: Settings, model: LMANet, device: torch.device) -> Training:
    """A training at its first epoch; ``resume`` continues one from a checkpoint."""
    train, classes = settings.train, settings.network.classes
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = Adam(trained, lr=train.lr_start, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-4)
    schedule = make_schedule(train.lr_strategy, optimizer, train.num_epochs)
    # bfloat16 has the range of float32: only gradients in float16 underflow.
    scaler = torch.amp.GradScaler(device.type, enabled=train.amp == "float16")
    learner = learner_of(settings, model, device, scaler)
    loss = loss_function(classes, settings.network.config.shallow_decoder, device)
    return Training(model, optimizer, schedule, loss, device, scaler, learner, classes)


def learner_of(settings: Settings, model: LMANet, device: torch.device, scaler: torch.amp.GradScaler) -> Learner:
    """The way to compute gradients on a device: clip by clip on the CPU, in batches elsewhere."""
    if device.type == "cpu":
        return ClipLearner(model, settings.data.batch_size, settings.seed)
    if distributed.world_size() == 1:
        return BatchLearner(model, scaler)
    return BatchLearner(spread(settings, model, device), scaler)


def spread(settings: Settings, model: LMANet, device: torch.device) -> DistributedDataParallel:
    """The model for data-parallel training: gradients are averaged and batch norms synchronized over all processes."""
    distributed.synchronize_norms(model)
    for name in unused_parameters(model, settings.data.window):
        # The loss does not depend on it: no gradient is to be waited for.
        model.get_parameter(name).requires_grad_(False)
    if distributed.rank() > 0:
        # Each process draws its own dropout; rank 0 draws that of a single process.
        torch.manual_seed(settings.seed + 1_000_003 * distributed.rank())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of broadcast_buffers, whose new name older PyTorch lacks
        return DistributedDataParallel(
            model,
            device_ids=[device] if device.type == "cuda" else None,
            broadcast_buffers=False,  # the batch norms are synchronized
            gradient_as_bucket_view=True,
        )


def unused_parameters(model: LMANet, window: int) -> list[str]:
    """Names of the trained parameters that the loss of a clip of ``window`` frames does not depend on.

    Such as the query's value convolution where only what was read is decoded. Found by a backward of one small clip, on
    a copy of the model.
    """
    probe = copy.deepcopy(model).cpu().train()
    config = model.config
    positions = config.frame_positions(window)
    frames = config.memory_size + 1 if positions is None else len(positions)
    height, width = (config.traits.nearest_sides(PROBE_SIDE, axis)[0] for axis in (0, 1))
    for module in probe.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()  # synchronized norms would wait for the other processes
    with torch.random.fork_rng(devices=[]):
        logits = probe(torch.zeros(1, frames, 3, height, width), selected=True)
    parts = logits if isinstance(logits, tuple) else (logits,)
    sum(part[:, -1].sum() for part in parts).backward()
    return [name for name, parameter in probe.named_parameters() if parameter.requires_grad and parameter.grad is None]
