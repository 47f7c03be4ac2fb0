"""Export of weights under the published names."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from models.backbone import backbone_card
from models.lmanet import LMANet
from models.weights.file_kinds import FileKind
from models.weights.saved_options import SavedOptions, network_fields, with_options
from utils import tensor_files
from utils.errors import WeightsError


def export_weights(model: LMANet, path: str | Path, trained: bool = True) -> str:
    """Writes the model's weights under the published names, whole or not at all; returns the kind of the file.

    A baseline is saved as its single-frame network, everything else as an LMANet. With ``trained=False`` tensors
    that started fresh are left out, so that a file that was only read is written back unchanged.

    Raises ``WeightsError`` where the file cannot be written.
    """
    path = Path(path)
    if path.is_dir() or not path.parent.is_dir():
        reason = "is a folder" if path.is_dir() else "its folder is not there"
        raise WeightsError(f"{path}: cannot be written, {reason}: expected a file such as weights.pth")
    published, kind = published_state_dict(model, trained), exported_kind(model, trained)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in published.items()}
    try:
        tensor_files.save(path, with_options(tensors, options_of(model, holds_memory=kind.memory is not None)))
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be written ({error.strerror}): expected a file in a folder of yours"
        ) from error
    return kind.label


def options_of(model: LMANet, holds_memory: bool = True) -> SavedOptions:
    """The options that are saved with a network's weights: without the memory, those of a single-frame network."""
    network = network_fields(model.config)
    network["baseline"] = model.config.baseline or not holds_memory
    return SavedOptions(network, model.classes, model.work_size)


def published_state_dict(model: LMANet, trained: bool = True) -> dict[str, Tensor]:
    """The model's tensors under the names of the published files; see ``export_weights``.

    Unused tensors of the file that the weights came from are included where it was of the same kind.
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
    card, origin = backbone_card(model.config.backbone), model.origin
    if not trained and origin is not None and origin.kind.memory is None and origin.kind.is_published:
        return origin.kind
    return card.files[0] if model.config.baseline else card.lmanet_file
