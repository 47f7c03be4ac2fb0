"""Runs the modes of the settings on a device, alone or as one of several processes."""

import errno
import logging
import os
import random
import time
import traceback
import warnings
from contextlib import nullcontext
from pathlib import Path

import torch

from datasets.sampling import clean_worker_error
from engine import processes
from engine.agreement import check_same_options
from engine.benchmarks import stream as benchmark_stream
from engine.modes.evaluation import run_evaluation
from engine.modes.exports import run_export, run_onnx_export, run_openvino_export
from engine.modes.streaming import run_stream
from engine.modes.training import run_training
from engine.options.settings import Settings
from engine.run_folder import RunFolder
from utils import distributed
from utils.allocator import keep_freed_memory
from utils.command import log_to_stderr
from utils.devices import usable_device
from utils.errors import LostPeerError, OptionError, TrainingError, UserError
from utils.ranks import is_rank

log = logging.getLogger(__name__)


def run(settings: Settings) -> None:
    """Runs the modes of the settings.

    Raises a ``UserError`` for what a user can correct, ``StoppedError`` after SIGTERM and ``LostPeerError`` where
    another process ended.
    """
    try:
        _run(settings)
    except BaseException as error:
        # The traceback would keep a loader alive, and the end of the program would wait forever for its workers.
        traceback.clear_frames(error.__traceback__)
        if settings.training and isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(_how_to_go_on(settings)) from error
        raise


def _how_to_go_on(settings: Settings) -> str:
    if RunFolder(settings.savedir, settings.shallow).has_checkpoint():
        return f"go on with --resume --savedir {settings.savedir}"
    return f"no checkpoint is in {settings.savedir} yet: start anew"


def _run(settings: Settings) -> None:
    level = logging.INFO if distributed.is_first() else logging.WARNING
    log_to_stderr(level)
    # PyTorch warns of more workers than processors: four are the published default.
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    for plugin in settings.plugins:
        log.info("plugin %s", Path(plugin).resolve())
    processes.end_with_parent()
    keep_freed_memory()
    device = pick_device("cpu" if settings.stream.is_for_cpu else settings.device)
    folder = RunFolder(settings.savedir, settings.shallow)
    torch.backends.cudnn.benchmark = True  # as all frames of a run have one size
    random.seed(settings.seed)
    torch.manual_seed(settings.seed)
    try:
        distributed.join(device.type)
        check_same_options(settings)
        with folder.locked(processes.lock_timeout()) if distributed.is_first() else nullcontext():
            distributed.barrier()
            run_modes(settings, device, folder)
        distributed.leave()
    except (UserError, OSError, RuntimeError, MemoryError) as error:
        if _was_interrupted(error):
            raise KeyboardInterrupt from error
        explained = _explained(error, settings, device)
        if explained is error:
            raise
        raise explained from error


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether an error followed Ctrl-C, such as that of a data worker which it ended."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _explained(error: Exception, settings: Settings, device: torch.device) -> Exception:
    """The error as one that tells a user what to do; the error itself where none is known."""
    if isinstance(error, UserError):
        return clean_worker_error(error) or error
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "DefaultCPUAllocator" in str(error):
        return OptionError(
            f"{device} has not enough memory: try a smaller --batch-size (now {settings.data.batch_size}), --work-size "
            "or --corr-size"
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return OptionError(
            f"--savedir {settings.savedir}: {error.filename or 'a file'} cannot be written ({error.strerror}): "
            "expected free space on the disk; free some, or give another --savedir"
        )
    if "DataLoader worker" in str(error):
        resume = ", and go on from the last checkpoint with --resume" if settings.training else ""
        return TrainingError(
            f"a data loading process ended ({str(error).strip()}), often for lack of memory: try fewer than "
            f"--num-workers {settings.data.num_workers}{resume}"
        )
    if isinstance(error, RuntimeError) and distributed.is_lost_peer(error):
        time.sleep(processes.GRACE_SECONDS)
        return LostPeerError(f"rank {distributed.rank()} ended, as another process had ended")
    return error


def run_modes(settings: Settings, device: torch.device, folder: RunFolder) -> None:
    """Runs the modes of the settings, one after the other."""
    use_tf32(settings.tf32 != "off")
    if settings.training:
        run_training(settings, device, folder)
    if settings.export_weights and distributed.is_first():
        run_export(settings, settings.export_weights)
    if settings.export_onnx and distributed.is_first():
        run_onnx_export(settings, settings.export_onnx)
    if settings.export_openvino and distributed.is_first():
        run_openvino_export(settings, settings.export_openvino)
    if settings.benchmark == "attention":
        from engine.benchmarks import attention  # here, as no other mode needs it

        attention.run(folder.path, device)
    if settings.benchmark == "stream":
        benchmark_stream.run(settings.network, settings.stream, device, folder.path, settings.plugins)
    if settings.benchmark == "backbones":
        from engine.benchmarks import backbones  # here, as no other mode needs it

        backbones.run(settings.network, settings.backbones, settings.plugins, folder.path)
    if settings.benchmark == "scaling":
        from engine.benchmarks import scaling  # here, as no other mode needs it

        scaling.run(settings.network, settings.axes, settings.plugins, device, folder.path)
    if settings.stream.source:
        run_stream(settings, settings.stream.source, device, folder)
    if settings.eval_mode:
        use_tf32(settings.tf32 == "on")
        run_evaluation(settings, device, folder)


def use_tf32(allowed: bool) -> None:
    """Whether convolutions of float32 may round their inputs to TF32, of 10 bits, on NVIDIA GPUs that have it."""
    torch.backends.cudnn.allow_tf32 = allowed


def pick_device(name: str) -> torch.device:
    """The device of that name, of this rank; ``auto`` is the first available of CUDA, MPS, CPU.

    Raises ``OptionError`` where the device is not available.
    """
    device = usable_device(name, "--device")
    return _device_of_rank(device.type) if is_rank() else device


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
