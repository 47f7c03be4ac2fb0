"""The segmentation models that torchvision ships: their cards."""

import difflib

from models.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BackboneCard,
    BackboneTraits,
    register_backbone,
    register_family,
    shipped_backbones,
)
from models.weights.file_kinds import SHALLOW, FileKind
from utils.errors import OptionError

FAMILY = "torchvision"
FOLDED_CHANNELS = 160  # LR-ASPP's finer level, 40 channels at 1/8, as channels at 1/16


def card(name: str) -> BackboneCard:
    """The card of ``torchvision/NAME@MODULE``: a model that is cut behind that module, such as ``classifier.cbr``.

    A number instead is the stride of the backbone's level for the memory. Raises ``OptionError`` for what torchvision
    does not have.
    """
    text, at, place = name.partition("@")
    known = [each for each in shipped_backbones() if each.startswith(f"{FAMILY}/")]
    if text not in known:
        near = difflib.get_close_matches(text, known, 3, 0.8) or known
        raise OptionError(f"--backbone {name} is not known: expected one of {', '.join(near)}")
    if not place:
        raise OptionError(f"--backbone {name} ends in {at}: expected a module or a stride behind it, such as @16")
    from models.backbones.torchvision_models.network import cut_card

    return cut_card(name, text.removeprefix(f"{FAMILY}/"), place)


def _register(
    name: str, features: int, stride: int, *classifier: str, skip_channels: int = 0, side_multiple: int = 1
) -> None:
    register_backbone(
        f"{FAMILY}/{name}",
        BackboneTraits(
            features,
            stride,
            work_size=(512, 1024),
            skip_channels=skip_channels,
            side_multiple=side_multiple,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
        ),
        "models.backbones.torchvision_models.network:from_config",
        classifier=tuple(f"decoder.head.{layer}." for layer in classifier),
        files=(
            FileKind(
                f"torchvision's {name}",
                (("encoder.body.", "backbone."),),
                (("decoder.head.", "classifier."),),
                SHALLOW,
                aside=("aux_classifier.",),
                prefix="",
            ),
        ),
    )


_register("fcn_resnet50", 2048, 8, "4")
_register("fcn_resnet101", 2048, 8, "4")
_register("deeplabv3_resnet50", 2048, 8, "4")
_register("deeplabv3_resnet101", 2048, 8, "4")
_register("deeplabv3_mobilenet_v3_large", 960, 16, "4")
_register(
    "lraspp_mobilenet_v3_large",
    960,
    16,
    "low_classifier",
    "high_classifier",
    skip_channels=FOLDED_CHANNELS,
    side_multiple=16,
)
register_family(FAMILY, "torchvision/NAME@MODULE", "models.backbones.torchvision_models:card")
