"""One strict loader for every kind of weight file, and the same names for what is saved."""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.backbone import SHALLOW_CLASSIFIER, BackboneCard, Classifier, backbone_card, shipped_backbones
from models.config import LMANetConfig
from models.lmanet import LMANet
from models.weights.file_kinds import FileKind, WeightsOrigin
from models.weights.folder import file_in, is_of_transformers, options_of_folder, tensors_by_transformers
from models.weights.saved_options import SavedOptions
from models.weights.wrapping import INNER_MODULE, is_safetensors, read_safetensors, unwrapped, without_inner_modules
from utils import tensor_files
from utils.class_set import ClassSet
from utils.errors import WeightsError

log = logging.getLogger(__name__)

COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class WeightFile:
    """The content of a weight file: tensors by name without ``module.``, and the options of the network, if it has any.

    ``label`` names the file in messages."""

    label: str
    tensors: Mapping[str, Tensor]
    options: SavedOptions | None = None

    @property
    def classes(self) -> ClassSet | None:
        """The classes of its options; ``None`` where it does not say them."""
        return self.options.classes if self.options else None

    def num_classes(self, backbone: str, shallow: bool = False) -> int | None:
        """Number of logits, by the shape of the classifier; ``None`` without one."""
        card = backbone_card(backbone)
        for kind in card.file_kinds():
            for classifier in _classifiers(card, shallow):
                name = kind.name_in_halves(f"{classifier.prefix}weight")
                for tensors in (self.tensors, without_inner_modules(self.tensors)):
                    if name is not None and name in tensors:
                        constant = 0 if classifier is SHALLOW_CLASSIFIER else card.constant_logits
                        return tensors[name].shape[classifier.class_dim] + constant
        return None


@dataclass(frozen=True)
class LoadReport:
    """Result of ``load_weights``: the kind of file, names of its unused tensors, names of tensors that start fresh."""

    kind: str
    unused: tuple[str, ...]
    fresh: tuple[str, ...]


def read_weights(source: str | Path | Mapping[str, Tensor]) -> WeightFile:
    """Reads a weight file or a checkpoint, as data only; or takes a state dict; logs how its tensors are wrapped.

    A folder is one that transformers or segmentation_models_pytorch saved: what its ``config.json`` says of the network
    and of the classes are the options of the file.

    Raises ``WeightsError`` where it cannot be read or holds no weights.
    """
    if not isinstance(source, str | os.PathLike | Mapping):
        raise WeightsError(f"weights is {source!r}: expected a file or its state dict")
    label = "the state dict" if isinstance(source, Mapping) else str(source)
    content: object = source
    beside = None
    if not isinstance(source, Mapping):
        path = Path(source)
        is_folder = path.is_dir()
        beside = options_of_folder(path if is_folder else path.parent, names_backbone=is_folder)
        path = file_in(path) if is_folder else path
        content = read_safetensors(path) if is_safetensors(path) else tensor_files.read(path, WeightsError)
        if is_of_transformers(path):
            content = tensors_by_transformers(path.parent)
    tensors, options, wrappings = unwrapped(content, label)
    options = options or beside
    if wrappings:
        log.info("%s: weights %s", label, ", ".join(wrappings))
    return WeightFile(label, tensors, options)


def load_weights(
    model: LMANet, source: str | Path | Mapping[str, Tensor] | WeightFile, other_classes: bool = True
) -> LoadReport:
    """Copies a weight file (or its state dict) into a model, strictly; logs what was not used and what starts fresh.

    The file is of the kind that most of its names belong to, and must hold all that this kind holds: from a
    single-frame file only the memory starts fresh, from an encoder's all but the encoder, from a network with the other
    sort of decoder (full or shallow) the decoder, and from a network for other classes its classifier, if
    ``other_classes`` are allowed. Raises ``WeightsError`` with the names, and leaves the model untouched, where a
    tensor is missing, has no place, another shape or numbers that are not finite.
    """
    file = source if isinstance(source, WeightFile) else read_weights(source)
    label, tensors = file.label, file.tensors
    state, card = model.state_dict(), backbone_card(model.config.backbone)
    if not any(INNER_MODULE in own for own in state):
        tensors = without_inner_modules(tensors)
    kind = max(card.file_kinds(), key=lambda kind: _placed(tensors, kind, state, model.config))
    names = kind.names(state, model.config)
    tensors = _with_counters(tensors, names.values(), label)
    found = {own: tensors[name] for own, name in names.items() if name in tensors}
    fresh_classifiers = _other_classifiers(found, state, card, _names_differ(file, model))
    if fresh_classifiers and not other_classes:
        raise WeightsError(_other_classes(file, model))
    for own in fresh_classifiers:
        del found[own]
    if fresh_classifiers:
        log.warning("%s; the classifier starts fresh", _other_classes(file, model))
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


def summary(names: Iterable[str], shown: int = 4) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _with_counters(tensors: Mapping[str, Tensor], names: Iterable[str], label: str) -> Mapping[str, Tensor]:
    """The tensors with the batch norms' counters of batches that a file lacks: as they are 0, as PyTorch takes them.

    They only count where a norm has no momentum, and files of PyTorch before 0.4.1 have none.
    """
    missing = [name for name in names if name.endswith(COUNTER) and name not in tensors]
    lacking = [name for name in missing if f"{name.removesuffix(COUNTER)}running_mean" in tensors]
    if not lacking:
        return tensors
    log.info("%s: %d x num_batches_tracked is not in it, as before PyTorch 0.4.1: taken as 0", label, len(lacking))
    return {**tensors, **{name: torch.tensor(0) for name in lacking}}


def _placed(tensors: Iterable[str], kind: FileKind, own_names: Iterable[str], config: LMANetConfig) -> int:
    """Number of a file's names that belong to a kind of file."""
    names, without_use = set(kind.names(own_names, config).values()), kind.without_use(config)
    return sum(name in names or name.startswith(without_use) for name in tensors)


def _classifiers(card: BackboneCard, shallow: bool) -> tuple[Classifier, ...]:
    return (SHALLOW_CLASSIFIER,) if shallow else card.classifiers


def _names_differ(file: WeightFile, model: LMANet) -> bool:
    """Whether both have names of classes, and these differ."""
    theirs = file.classes
    return theirs is not None and model.classes is not None and theirs.names != model.classes.names


def _other_classifiers(
    found: dict[str, Tensor], state: dict[str, Tensor], card: BackboneCard, names_differ: bool
) -> list[str]:
    """Names of the tensors of classifiers for other classes: of another number, or all where the names differ."""
    others: dict[str, None] = {}  # a backbone's own classifier may be called as the shallow one
    for classifier in (*card.classifiers, SHALLOW_CLASSIFIER):
        for prefix in (classifier.prefix, classifier.prefix.replace("decoder.", "memory_decoder.", 1)):
            for own in (own for own in found if own.startswith(prefix)):
                theirs, mine = list(found[own].shape), list(state[own].shape)
                dim = classifier.class_dim if len(mine) > 1 else 0
                if len(theirs) == len(mine) and theirs != mine:
                    theirs[dim] = mine[dim]
                    if theirs == mine:
                        others[own] = None
                elif theirs == mine and names_differ:
                    others[own] = None
    return list(others)


def _other_classes(file: WeightFile, model: LMANet) -> str:
    """That a file is for other classes: both counts, of classes where both are known by name, else of logits."""
    theirs, mine = file.classes, model.classes
    if theirs is None or mine is None:
        found = file.num_classes(model.config.backbone, model.config.shallow_decoder) or "another number of"
        return f"{file.label}: its classifier has {found} logits, expected {model.config.num_classes}"
    found_names, expected_names = list(theirs.names), list(mine.names)
    if len(found_names) == len(expected_names):  # those that differ tell the two apart
        differing = [place for place, name in enumerate(found_names) if name != expected_names[place]]
        found_names, expected_names = ([names[i] for i in differing] for names in (found_names, expected_names))
    return (
        f"{file.label}: is for {len(theirs.names)} classes, among them {summary(found_names, 2)}; "
        f"expected {len(mine.names)}, among them {summary(expected_names, 2)}"
    )


def _refuse_names(
    tensors: Mapping[str, Tensor], state: dict[str, Tensor], kind: FileKind, config: LMANetConfig, label: str
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
    """Prefixes of the decoders that start fresh, as the file holds the other one, full or shallow, instead."""
    other = kind.other_decoder(config)
    expected = {name for own, name in names.items() if own.startswith("decoder.")}
    holds_own = any(name in expected for name in tensors)
    holds_other = any(name.startswith(other) for name in tensors if name not in expected)
    return ("decoder.", "memory_decoder.") if holds_other and not holds_own else ()


def _refuse_other_backbone(tensors: Mapping[str, Tensor], placed: int, config: LMANetConfig, label: str) -> None:
    """Says which other backbone a file is of, where more of its names belong to that one."""
    best, best_backbone, best_kind = placed, config.backbone, None
    for backbone in shipped_backbones():
        card = backbone_card(backbone)  # some are made by running the network, which a tensor without data cannot
        with torch.device("meta"):
            other = LMANetConfig(backbone=backbone, num_classes=config.num_classes)
            names = LMANet(other).state_dict()
        for kind in card.file_kinds():
            count = _placed(tensors, kind, names, other)
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
