"""ERFNet, the fast backbone: its card."""

from models.backbone import BackboneTraits, Classifier, register_backbone
from models.weights.file_kinds import ENCODER, FileKind, lmanet_kind

_DECODER = (("decoder.layers.", "decoder.layers."), ("decoder.output_conv.", "decoder.output_conv."))

register_backbone(
    "erf",
    BackboneTraits(
        features=128,
        stride=8,
        work_size=(512, 1024),
        key_channels=16,
        value_channels=64,
        default_fusion="sigmoid-do1",
        side_multiple=8,
        batch_norm_optional=True,
    ),
    "models.backbones.erfnet.network:ErfNet",
    # A transposed convolution, whose weight is I O kh kw.
    classifier=(Classifier("decoder.output_conv.", class_dim=1),),
    files=(FileKind("ERFNet", ENCODER, _DECODER, shallow="encoder.output_conv.", aside=("encoder.output_conv.",)),),
    lmanet_file=lmanet_kind("LMANet-ERFNet", decoder=_DECODER),
)
