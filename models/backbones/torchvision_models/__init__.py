"""The segmentation models that torchvision ships: their cards."""

from models.backbone import IMAGENET_MEAN, IMAGENET_STD, BackboneTraits, register_backbone
from models.weights.file_kinds import SHALLOW, FileKind

FOLDED_CHANNELS = 160  # LR-ASPP's finer level, 40 channels at 1/8, as channels at 1/16


def _register(
    name: str, features: int, stride: int, *classifier: str, skip_channels: int = 0, side_multiple: int = 1
) -> None:
    register_backbone(
        f"torchvision/{name}",
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
