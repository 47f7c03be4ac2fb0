"""One strict loader for every kind of weight file, and the same names for what is saved."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.config import SHIPPED_BACKBONES, LMANetConfig
from models.lmanet import LMANet
from models.weights.file_kinds import FileKind, WeightsOrigin, kinds_of, saved_kind
from utils import tensor_files
from utils.errors import WeightsError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What ``load_weights`` did: the kind of file it read, names in it without use, tensors that start fresh."""

    kind: str
    unused: tuple[str, ...]
    fresh: tuple[str, ...]


def load_weights(model: LMANet, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Copies a weight file (or its state dict) into a model, strictly; logs what was not used and what starts fresh.

    The file is of the kind that most of its names belong to, and must hold all that this kind holds: from a
    single-frame file only the memory starts fresh, from an encoder's all but the encoder, from a network with the other
    sort of decoder (full or shallow) the decoder. Raises ``WeightsError`` with the names, and leaves the model
    untouched, where a tensor is missing, has no place, another shape or numbers that are not finite.
    """
    label = "the state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else tensor_files.read(source, WeightsError)
    tensors = _tensors_of(content, label)
    state = model.state_dict()
    kind = max(kinds_of(model.config.backbone), key=lambda kind: _placed(tensors, kind, state, model.config))
    names = kind.names(state, model.config)
    found = {own: tensors[name] for own, name in names.items() if name in tensors}
    _leave_out_other_classifier(found, state, kind, model.config)
    _refuse_names(tensors, state, kind, model.config, label)
    expected = {names[own]: state[own] for own in found}
    for name, tensor in tensors.items():
        _check_tensor(name, tensor, expected.get(name, tensor), label)

    model.load_state_dict(state | found)
    used = {names[own] for own in found}
    carried = {name: tensor for name, tensor in tensors.items() if name not in used}
    fresh = [own for own in state if own not in found]
    model.origin = WeightsOrigin(kind, frozenset(fresh), carried)
    log.info("%s: read as %s", label, kind.label)
    if carried:
        log.info("%s: not used: %s", label, summary(carried))
    if fresh:
        log.info("%s: start fresh: %s", label, summary(fresh))
    return LoadReport(kind.label, tuple(sorted(carried)), tuple(fresh))


def export_weights(model: LMANet, path: str | Path, trained: bool = True) -> str:
    """Writes the model's weights under the published names, whole or not at all; gives the kind of file it wrote.

    A baseline is saved as its single-frame network, everything else as an LMANet. With ``trained=False`` nothing is
    written that started fresh, so that a file that was only read is written as what it was. Raises ``WeightsError``
    where the file cannot be written.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        reason = "is a folder" if path.is_dir() else "its folder is not there"
        raise WeightsError(f"{path}: cannot be written, {reason}: expected a file such as weights.pth")
    tensors = published_state_dict(model, trained)
    try:
        tensor_files.save(path, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be written ({error.strerror}): expected a file in a folder of yours"
        ) from error
    return exported_kind(model, trained).label


def published_state_dict(model: LMANet, trained: bool = True) -> dict[str, Tensor]:
    """The model's tensors under the names of the published files; see ``export_weights``.

    What the file of the same kind that the weights came from held without use is in it as well.
    """
    state, origin, kind = model.state_dict(), model.origin, exported_kind(model, trained)
    left_out = origin.fresh if origin and not trained else frozenset()
    names = kind.names(state, model.config)
    published = {name: state[own] for own, name in names.items() if own not in left_out}
    if origin and origin.kind == kind:
        kept = {name: tensor for name, tensor in origin.carried.items() if not trained or name.startswith(kind.aside)}
        published = kept | published
    return {kind.prefix + name: tensor for name, tensor in published.items()}


def exported_kind(model: LMANet, trained: bool = True) -> FileKind:
    """The kind of file that the model is saved as."""
    saved, origin = saved_kind(model.config), model.origin
    holds_no_memory = origin is not None and origin.kind.memory is None and origin.kind.is_published
    return origin.kind if holds_no_memory and not trained else saved


def summary(names: Iterable[str], shown: int = 4) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _tensors_of(content: object, label: str) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{label}: holds no weights: expected a state dict, bare or under 'state_dict'")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{label}: {name!r} is no tensor: expected a state dict, bare or under 'state_dict'")
    tensors = {name.removeprefix("module."): value for name, value in content.items()}
    if len(tensors) < len(content):
        twice = next(name for name in content if f"module.{name}" in content)
        raise WeightsError(f"{label}: holds {twice} with and without 'module.': expected it once")
    return tensors


def _placed(tensors: Iterable[str], kind: FileKind, own_names: Iterable[str], config: LMANetConfig) -> int:
    """How many of a file's names belong to a kind of file."""
    names, without_use = set(kind.names(own_names, config).values()), kind.without_use(config)
    return sum(name in names or name.startswith(without_use) for name in tensors)


def _leave_out_other_classifier(
    found: dict[str, Tensor], state: dict[str, Tensor], kind: FileKind, config: LMANetConfig
) -> None:
    """Takes out the classifier of another number of classes: it starts fresh."""
    for own in [own for own in found if own.startswith(kind.classifier)] if kind.classifier else ():
        theirs, mine = found[own].shape, state[own].shape
        if theirs[1:] == mine[1:] and mine[:1] == (config.num_classes,) != theirs[:1]:
            del found[own]


def _refuse_names(
    tensors: dict[str, Tensor], state: dict[str, Tensor], kind: FileKind, config: LMANetConfig, label: str
) -> None:
    """Refuses a file that lacks a tensor of its kind or holds one too many."""
    names = kind.names(state, config)
    starts_fresh = _decoder_parts(tensors, names, kind, config)
    missing = [name for own, name in names.items() if name not in tensors and not own.startswith(starts_fresh)]
    without_use = kind.without_use(config) + (("decoder_mem.", "memory_decoder.") if starts_fresh else ())
    expected = set(names.values())
    surplus = [name for name in tensors if name not in expected and not name.startswith(without_use)]
    if not missing and not surplus:
        return
    _refuse_other_backbone(tensors, _placed(tensors, kind, state, config), config, label)
    found = []
    if missing:
        found.append(f"{_tensor_count(missing)} missing for {_described(kind, config)}: {summary(missing)}")
    if surplus:
        found.append(f"{_tensor_count(surplus)} without a place in {_described(kind, config)}: {summary(surplus)}")
    raise WeightsError(f"{label}: {'; '.join(found)}; expected that kind of file, and the options it was trained with")


def _decoder_parts(
    tensors: Iterable[str], names: dict[str, str], kind: FileKind, config: LMANetConfig
) -> tuple[str, ...]:
    """Beginnings of the decoders that start fresh, since the file holds the other sort, full or shallow, instead."""
    other = kind.other_decoder(config)
    expected = {name for own, name in names.items() if own.startswith("decoder.")}
    holds_own = any(name in expected for name in tensors)
    holds_other = any(name.startswith(other) for name in tensors if name not in expected)
    return ("decoder.", "memory_decoder.") if holds_other and not holds_own else ()


def _refuse_other_backbone(tensors: dict[str, Tensor], placed: int, config: LMANetConfig, label: str) -> None:
    """Says which other backbone a file is of, where more of its names belong to that one."""
    best, best_backbone, best_kind = placed, config.backbone, None
    for backbone in SHIPPED_BACKBONES:
        with torch.device("meta"):
            names = LMANet(LMANetConfig(backbone=backbone)).state_dict()
        for kind in kinds_of(backbone):
            count = _placed(tensors, kind, names, LMANetConfig(backbone=backbone))
            if count > best:
                best, best_backbone, best_kind = count, backbone, kind
    if 2 * best < len(tensors):
        raise WeightsError(
            f"{label}: looks like no network that is known here (it holds {summary(tensors, 2)}): "
            f"expected a file of --backbone {config.backbone}"
        )
    if best_kind is not None and best_backbone != config.backbone:
        raise WeightsError(
            f"{label}: looks like {best_kind.label}: expected a file of --backbone {config.backbone}, "
            f"or give --backbone {best_backbone}"
        )


def _check_tensor(name: str, tensor: Tensor, expected: Tensor, label: str) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise WeightsError(f"{label}: {name} is no plain tensor: expected dense weights, such as {expected.dtype}")
    if tensor.shape != expected.shape:
        raise WeightsError(f"{label}: {name} has shape {list(tensor.shape)}: expected {list(expected.shape)}")
    if tensor.is_floating_point() != expected.is_floating_point():
        raise WeightsError(f"{label}: {name} is of {tensor.dtype}: expected {expected.dtype}")
    if not torch.isfinite(tensor.to(expected.dtype)).all():
        raise WeightsError(f"{label}: {name} holds numbers that are not finite: expected finite weights")


def _tensor_count(names: list[str]) -> str:
    return "1 tensor" if len(names) == 1 else f"{len(names)} tensors"


def _described(kind: FileKind, config: LMANetConfig) -> str:
    options = f" ({config.structure}, {config.fusion})" if kind.memory and not config.baseline else ""
    return kind.label + options + (" with --shallow-dec" if config.shallow_decoder else "")
