"""The tensors of a file however they are wrapped: in a checkpoint of another program, under prefixes, as safetensors.

Only names differ from a plain state dict; what was taken off is told, so that it is logged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from models.backbone import backbone_card, backbone_names
from models.weights.saved_options import SavedOptions, options_in
from utils.errors import WeightsError

# Keys that checkpoints hold their weights under, the preferred one first: running means of weights come last.
CONTAINERS = (
    *("state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params"),
    *("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema", "params_ema", "shadow"),
)
DEEPEST = 4  # containers within each other
# Modules that wrap a whole network, the first part of all names (PyTorch, Lightning, moving averages) ...
OUTER = ("module", "model", "net", "network", "ema_model", "averaged_model", "_forward_module")
# ... and those that wrap parts of it as well (torch.compile, FSDP, activation checkpointing).
INNER = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))
INNER_MODULE = ".module."  # a part in DataParallel, or a part that a network calls so: only where it does not
COUNTERS = frozenset(("n_averaged",))  # what a wrapper counts by itself (torch.optim.swa_utils.AveragedModel)
LONGEST_HEADER = 100_000_000  # bytes of a safetensors file, as its library allows


class Unwrapped(NamedTuple):
    """Tensors by bare name, the options beside them, and what was taken off, as texts such as ``under 'model'``."""

    tensors: dict[str, Tensor]
    options: SavedOptions | None
    wrappings: list[str]


def unwrapped(content: object, label: str) -> Unwrapped:
    """The tensors in a file's content. Raises ``WeightsError`` where there are none, or other values among them."""
    levels, keys = [content], list[str]()
    while len(keys) < DEEPEST and (key := _container(levels[-1])) is not None:
        keys.append(key)
        levels.append(levels[-1][key])  # type: ignore[index]  # as it has a container
    state = levels[-1]
    if not isinstance(state, Mapping) or not state:
        raise WeightsError(f"{label}: holds no weights: expected a state dict, bare or under {_listed()}")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{label}: {name!r} is no tensor: expected a state dict, bare or under {_listed()}")
    tensors, renamed = _without_wrappers(state, label)
    options = next((found for each in reversed(levels) if (found := options_in(each, label)) is not None), None)
    wrappings = [f"under {' in '.join(repr(key) for key in reversed(keys))}"] if keys else []
    return Unwrapped(tensors, options, wrappings + ([renamed] if renamed else []))


def without_inner_modules(tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The tensors by names such as ``encoder.layers.0`` where a file has ``encoder.module.layers.0``."""
    return {name.replace(INNER_MODULE, "."): tensor for name, tensor in tensors.items()}


def is_safetensors(path: str | Path) -> bool:
    """Whether a file is of the safetensors format, by its first bytes."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError:
        return False
    return len(head) == 9 and 2 <= int.from_bytes(head[:8], "little") <= LONGEST_HEADER and head[8:] == b"{"


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises ``WeightsError`` where it is damaged, and where the package of that name is not installed.
    """
    try:
        from safetensors import SafetensorError  # here, as few files need it
        from safetensors.torch import load_file
    except ImportError as error:
        raise WeightsError(
            f"{path}: is a safetensors file, and the package safetensors is not installed: pip install safetensors"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise WeightsError(f"{path}: is damaged or cut short ({error}): copy it again") from error


def _container(content: object) -> str | None:
    """The key under which a checkpoint holds its weights; ``None`` where it is a state dict itself."""
    if not isinstance(content, Mapping) or all(isinstance(value, Tensor) for value in content.values()):
        return None
    return next((key for key in CONTAINERS if _may_hold_weights(content.get(key))), None)


def _may_hold_weights(value: object) -> bool:
    """Whether a value is a state dict or holds one."""
    if not isinstance(value, Mapping) or not value:
        return False
    return all(isinstance(each, Tensor) for each in value.values()) or _container(value) is not None


def _without_wrappers(state: Mapping[str, Tensor], label: str) -> tuple[dict[str, Tensor], str]:
    """Tensors by bare name, and a text that tells how a name changed; empty where it is as it was published."""
    bare_of = {name: _without_inner(name) for name in state if name not in COUNTERS or len(state) == 1}
    while (first := _common_first(bare_of.values())) in OUTER and first not in _first_parts_in_use():
        bare_of = {name: bare.partition(".")[2] for name, bare in bare_of.items()}
    tensors: dict[str, Tensor] = {}
    for name, bare in bare_of.items():
        if bare in tensors:
            raise WeightsError(f"{label}: holds {bare} with and without 'module.': expected it once")
        tensors[bare] = state[name]
    changed = next(((name, bare) for name, bare in bare_of.items() if name not in (bare, f"module.{bare}")), None)
    return tensors, f"called {changed[0]} for {changed[1]}" if changed else ""


def _without_inner(name: str) -> str:
    """A name without the parts that wrap it, and without ``module.`` at its beginning."""
    bare = ".".join(part for part in name.split(".") if part not in INNER)
    while bare.startswith("module."):
        bare = bare.removeprefix("module.")
    return bare


def _common_first(names: Iterable[str]) -> str | None:
    """The part before the first dot that all names have in common."""
    firsts = {name.partition(".")[0] if "." in name else None for name in names}
    return firsts.pop() if len(firsts) == 1 else None


def _first_parts_in_use() -> frozenset[str]:
    """First parts of the names in files of registered backbones, which wrap nothing."""
    kinds = [kind for name in backbone_names() for kind in backbone_card(name).file_kinds()]
    return frozenset(pair[1].partition(".")[0] for kind in kinds for pair in (*kind.encoder, *kind.decoder))


def _listed() -> str:
    return ", ".join(repr(key) for key in CONTAINERS[:3]) + " and the like"
