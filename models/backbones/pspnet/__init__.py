"""PSPNet on ResNet-101, the accurate backbone: its card."""

from models.backbone import IMAGENET_MEAN, IMAGENET_STD, BackboneTraits, Classifier, register_backbone
from models.weights.file_kinds import SHALLOW, FileKind, lmanet_kind

_STAGES = tuple((f"encoder.layer{stage}.", f"layer{stage}.") for stage in (1, 2, 3, 4))
_RESNET_STEM = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}

register_backbone(
    "psp101",
    BackboneTraits(
        features=2048,
        stride=8,
        work_size=(1025, 2049),
        key_channels=128,
        value_channels=2048,
        default_fusion="sigmoid-down1",
        side_multiple=8,
        side_offset=1,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        batch_norm_optional=True,
    ),
    "models.backbones.pspnet.network:PspNet101",
    classifier=(Classifier("decoder.cls.4."),),
    constant_logits=1,
    files=(
        FileKind(
            "PSPNet-101",
            (("encoder.layer0.", "layer0."), *_STAGES),
            (("decoder.ppm.", "ppm."), ("decoder.cls.", "cls.")),
            SHALLOW,
            aside=("aux.",),
        ),
        FileKind(
            "ResNet-101",
            (*((f"encoder.layer0.{place}.", f"{name}.") for place, name in _RESNET_STEM.items()), *_STAGES),
            aside=("fc.",),
            prefix="",
        ),
    ),
    lmanet_file=lmanet_kind("LMANet-PSPNet-101", decoder=(("decoder.ppm.", "ppm."), ("decoder.cls.", "decoder.cls."))),
)
