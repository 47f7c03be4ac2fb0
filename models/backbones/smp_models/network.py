"""Models of segmentation_models_pytorch, cut behind their encoder. Nothing is fetched: weights are the user's."""

import difflib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from models.backbone import IMAGENET_MEAN, IMAGENET_STD, BackboneCard
from models.cut.card import card_of, cut_and_stride
from models.extras import imported
from utils.errors import OptionError

TIMM = "tu-"  # before the names of timm's encoders
ASIDE = ("classification_head.",)


def card(name: str) -> BackboneCard:
    """The card of ``smp/ARCH:ENCODER``, or of ``smp/FOLDER`` as ``save_pretrained`` writes it.

    ``@STRIDE`` at the end names the level for the memory, ``@MODULE`` another cut than behind the encoder. Raises
    ``OptionError`` for what the package does not have.
    """
    smp = imported("segmentation_models_pytorch", f"--backbone {name}")
    text, _, place = name.removeprefix("smp/").partition("@")
    cut, stride = cut_and_stride(place, "encoder")
    file = Path(text) / "config.json"
    options = _saved_options(file) if file.is_file() else _named_options(smp, name, text)
    mean, std = _normalization(str(options.get("encoder_name", "")))
    make = _maker(smp, name, options)
    return card_of(name, make, cut, stride, mean=mean, std=std, aside=ASIDE)


def _named_options(smp: ModuleType, name: str, text: str) -> dict[str, Any]:
    arch, colon, encoder = text.partition(":")
    architectures = sorted(kind.__name__ for kind in smp.MODEL_ARCHITECTURES_MAPPING.values())
    if arch not in architectures:
        choices = _expected(arch, architectures, architectures)
        raise OptionError(f"--backbone {name}: {arch!r} is no architecture of segmentation_models_pytorch: {choices}")
    if not colon or not encoder:
        raise OptionError(f"--backbone {name} names no encoder: expected one such as smp/{arch}:resnet34")
    known = list(smp.encoders.encoders)
    if encoder not in known and not _is_timm(encoder):
        timm_names = [TIMM + each for each in imported("timm", f"--backbone {name}").list_models()]
        choices = _expected(encoder, [*known, *timm_names], known)
        raise OptionError(f"--backbone {name}: {encoder} is no encoder of segmentation_models_pytorch: {choices}")
    return {"arch": arch, "encoder_name": encoder}


def _expected(found: str, names: Sequence[str], shown: Sequence[str]) -> str:
    """The nearest names, or the first ones where none is near."""
    by_lower = {name.lower(): name for name in names}
    near = [by_lower[each] for each in difflib.get_close_matches(found.lower(), by_lower, 3)]
    return f"expected {' or '.join(near)}" if near else f"expected one of {', '.join(shown[:12])}"


def _is_timm(encoder: str) -> bool:
    if not encoder.startswith(TIMM):
        return False
    return bool(imported("timm", f"the encoder {encoder}").is_model(encoder.removeprefix(TIMM)))


def _saved_options(file: Path) -> dict[str, Any]:
    """Arguments of the model that a folder was written by."""
    try:
        content = json.loads(file.read_text())
        arch = content.pop("_model_class")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{file}: is no model of segmentation_models_pytorch: expected what save_pretrained writes"
        ) from error
    return {"arch": arch, **{key: value for key, value in content.items() if not key.startswith("_")}}


def _maker(smp: ModuleType, name: str, options: dict[str, Any]) -> Callable[[int], nn.Module]:
    def make(num_classes: int) -> nn.Module:
        arguments = {**options, "encoder_weights": None, "classes": num_classes, "aux_params": None, "activation": None}
        try:
            model: nn.Module = smp.create_model(**arguments)
        except Exception as error:  # whatever the package raises for what does not go together
            reason = " ".join(str(error).split())
            raise OptionError(f"--backbone {name}: cannot be made ({reason}): expected another encoder") from error
        return model

    return make


def _normalization(encoder: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Mean and deviation that an encoder of timm was trained with; those of ImageNet for all others."""
    if not encoder.startswith(TIMM):
        return IMAGENET_MEAN, IMAGENET_STD
    known = imported("timm", f"the encoder {encoder}").get_pretrained_cfg(encoder.removeprefix(TIMM))
    return (IMAGENET_MEAN, IMAGENET_STD) if known is None else (tuple(known.mean), tuple(known.std))
