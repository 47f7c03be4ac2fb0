"""Folders that ``save_pretrained`` of transformers or segmentation_models_pytorch wrote, as weight files."""

from __future__ import annotations

import colorsys
import logging
from pathlib import Path

from torch import Tensor

from models.backbones.transformers_models.folder import class_names, read_json
from models.weights.saved_options import SavedOptions
from utils.class_set import ClassSet
from utils.errors import ClassSetError, OptionError, WeightsError

log = logging.getLogger(__name__)

FILES = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"
GOLDEN = 0.618034  # of the circle of hues: neighbors differ most


def is_of_transformers(file: Path) -> bool:
    """Whether a file of weights lies in a folder that transformers saved."""
    if file.name not in FILES or not (file.parent / CONFIG).is_file():
        return False
    try:
        return isinstance(read_json(file.parent / CONFIG).get("architectures"), list)
    except OptionError as error:
        raise WeightsError(str(error)) from error


def tensors_by_transformers(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder under the names of the network: transformers saves some under other names.

    Raises ``WeightsError`` where they are not those of its ``config.json``.
    """
    from models.backbones.transformers_models.network import state_dict_of  # here: it needs the package

    try:
        return state_dict_of(folder)
    except OptionError as error:
        raise WeightsError(str(error)) from error


def file_in(folder: Path) -> Path:
    """The file of a folder's weights. Raises ``WeightsError`` where there is none."""
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError(f"{folder}: is a folder without {FILES[0]}: expected one as save_pretrained writes it")


def options_of_folder(folder: Path, names_backbone: bool) -> SavedOptions | None:
    """What a folder's ``config.json`` says of a network: its classes, and the backbone if that is wanted.

    ``None`` where there is no such file. Raises ``WeightsError`` where it cannot be read.
    """
    if not (folder / CONFIG).is_file():
        return None
    try:
        content = read_json(folder / CONFIG)
    except OptionError as error:
        raise WeightsError(str(error)) from error
    network: dict[str, object] = {"baseline": True}
    if names_backbone:
        network["backbone"] = f"{'smp' if '_model_class' in content else 'hf'}/{folder}"
    return SavedOptions(network, _classes(class_names(content), folder))


def _classes(names: tuple[str, ...] | None, folder: Path) -> ClassSet | None:
    if names is None:
        return None
    try:
        return ClassSet(names, tuple(_color(number) for number in range(len(names))))
    except ClassSetError as error:
        log.warning("%s: its id2label is left out: %s", folder / CONFIG, error)
        return None


def _color(number: int) -> tuple[int, int, int]:
    """A color of its own for each of the first few hundred numbers."""
    hue, saturation, value = number * GOLDEN % 1, 0.9 - 0.15 * (number % 4), 0.95 - 0.2 * (number // 4 % 3)
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, saturation, value))
    return red, green, blue
