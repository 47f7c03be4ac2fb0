"""What all processes of a run must have in common, compared when they have joined: machines may be started differently.

Different options or data would let the processes train apart in silence, abort, or wait for each other for ever.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from datasets.clips import Clip
from engine.options.settings import Settings
from engine.version import program_digest, program_version
from models.lmanet import LMANet
from utils import distributed
from utils.class_set import ClassSet
from utils.errors import OptionError

# Where a machine keeps its files, and how many processes it runs; what is in these files is compared instead.
LOCAL_OPTIONS = frozenset(
    {
        *("nr", "gpus", "master_addr", "mport", "max_restarts", "device", "num_workers", "retries"),
        *("savedir", "data_root", "cache", "weights", "class_map", "plugin", "baseline_path", "visualize", "port"),
    }
)
_SHOWN = 5  # differences in a message
_DIGITS = 12


def check_same_options(settings: Settings) -> None:
    """Raises ``OptionError``, in all processes, where they run other versions or have other options.

    A collective, as the others here: all processes must call it.
    """
    values = {**settings.arguments, "cache_features": bool(settings.arguments["cache_features"])}
    options = {f"--{name.replace('_', '-')}": str(v) for name, v in values.items() if name not in LOCAL_OPTIONS}
    plugins = {
        f"--plugin number {i}": _digest(Path(each).read_bytes()) for i, each in enumerate(settings.plugins, start=1)
    }
    version = f"{program_version()} ({program_digest()[:_DIGITS]})"
    pytorch = torch.__version__.partition("+")[0]
    _check_same({"the version": version, "PyTorch": pytorch, **options, **plugins})


def check_same_data(model: LMANet, classes: ClassSet, clips: Mapping[str, Sequence[Clip]]) -> None:
    """Raises ``OptionError``, in all processes, where they have other weights, classes or clips, by split.

    Clips are compared by name, and by the sizes of their files, which one process of a machine looks up.
    """
    if distributed.world_size() == 1:
        return
    found = {"the class set": f"{len(classes.names)} classes ({_digest(repr(classes.to_json()).encode())})"}
    for split, each in clips.items():
        found[f"the number of {split} clips"] = str(len(each))
        found[f"the digest of the {split} clips' names"] = _digest("\n".join(clip.name for clip in each).encode())
        if os.environ.get("LOCAL_RANK", "0") == "0":
            found[f"the digest of the {split} clips' files"] = _digest_of_files(each)
    found["the digest of the weights"] = digest_of_weights(model)
    _check_same(found)


def _check_same(found: Mapping[str, str]) -> None:
    """Compares values by name; a process that lacks a name is not compared in it."""
    by_rank = distributed.all_gather(dict(found))
    differences = []
    for name in dict.fromkeys(name for each in by_rank for name in each):
        values: dict[str, int] = {}  # the first rank that has it
        for rank, each in enumerate(by_rank):
            if name in each:
                values.setdefault(each[name], rank)
        if len(values) > 1:
            differences.append(f"{name} is {', '.join(f'{value} on rank {rank}' for value, rank in values.items())}")
    if not differences:
        return
    distributed.settle()  # nobody ends before all have read what the others sent
    more = f"; {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
    raise OptionError(
        f"the processes differ: {'; '.join(differences[:_SHOWN])}{more}: expected the same command, version and data "
        "on all machines, but for --nr and where their files are"
    )


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGITS]


def _digest_of_files(clips: Sequence[Clip]) -> str:
    """Of the names and sizes of the frames and labels; a file that is missing is told of when it is read."""
    digest = hashlib.sha256()
    for clip in clips:
        for path in (*clip.frames, clip.label):
            try:
                size = os.stat(path).st_size
            except OSError:
                size = -1
            digest.update(f"{path.name}\0{size}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:_DIGITS]


def digest_of_weights(part: nn.Module) -> str:
    """A digest of all parameters and buffers of a network or a part of one."""
    digest = hashlib.sha256()
    for name, tensor in sorted(part.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:_DIGITS]
