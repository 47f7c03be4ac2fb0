"""The kinds of weight files there are, each with its table of tensor names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from models.config import BACKBONES, LMANetConfig

# Beginnings of this program's names and of a file's; the first that fits a name counts.
Pairs = tuple[tuple[str, str], ...]

SHALLOW = "decoder.output_conv_stm_shallow."


class MemoryNames(NamedTuple):
    """How a kind of file names what belongs to the memory: beginnings of the names, and the table of an LMANet."""

    beginnings: tuple[str, ...]
    pairs: Callable[[LMANetConfig], Pairs]


def _published_memory_pairs(config: LMANetConfig) -> Pairs:
    reduced = config.fusion == "sigmoid-down1"
    fusion = (
        (
            ("fusion.reduced_norm.", "memory_fusion.bn0."),
            ("fusion.reduce.", "memory_fusion.conv_layer_1."),
            ("fusion.reduce_unused.", "memory_fusion.conv_layer_2."),
        )
        if reduced
        else (
            ("fusion.prepare_query.0.", "memory_fusion.bn1."),
            ("fusion.prepare_read.0.", "memory_fusion.bn2."),
            ("fusion.features_query.", "memory_fusion.conv_layer_1."),
            ("fusion.features_read.", "memory_fusion.conv_layer_2."),
        )
    )
    return (
        ("memory_head.key.", "kv_M_r4.Key."),
        ("memory_head.value.", "kv_M_r4.Value."),
        ("query_head.key.", "kv_Q_r4.Key."),
        ("query_head.value.", "kv_Q_r4.Value."),
        ("init_head.key.", "kv_init_r4.Key."),
        ("init_head.value.", "kv_init_r4.Value."),
        ("attention_constant", "memory_module_local.const" if config.local else "memory_module.const"),
        *fusion,
        ("fusion.gate_query.", f"memory_fusion.conv_layer_{'34' if config.fusion == 'sigmoid-do3' else '3'}."),
        ("fusion.gate_read.", "memory_fusion.conv_layer_4."),
        ("fusion.norm.", "memory_fusion.bn."),
        ("memory_decoder.classifier.", "decoder_mem.output_conv_stm_shallow."),
        ("memory_decoder.", "decoder_mem."),
    )


PUBLISHED_MEMORY = MemoryNames(
    ("kv_M_r4.", "kv_Q_r4.", "kv_init_r4.", "memory_fusion.", "decoder_mem.", "memory_module.", "memory_module_local."),
    _published_memory_pairs,
)
OWN_PARTS = ("memory_head.", "query_head.", "init_head.", "attention_constant", "fusion.", "memory_decoder.")


def _own_memory_pairs(config: LMANetConfig) -> Pairs:
    return tuple((part, part) for part in OWN_PARTS)


OWN_MEMORY = MemoryNames(OWN_PARTS, _own_memory_pairs)


@dataclass(frozen=True)
class FileKind:
    """One kind of weight file.

    ``encoder`` and ``decoder`` name the two halves, ``shallow`` the 1x1 decoder, ``memory`` what an LMANet has more;
    what is not named is not in such files and starts fresh. ``aside`` are beginnings of what files hold and no network
    uses. Names begin with ``module.`` where the files are written so. ``classifier`` are beginnings of this program's
    names that start fresh where a file has another number of classes. This program's own names are read, but nothing
    is published under them.
    """

    label: str
    encoder: Pairs
    decoder: Pairs = ()
    shallow: str = ""
    memory: MemoryNames | None = None
    aside: tuple[str, ...] = ()
    prefix: str = "module."
    classifier: tuple[str, ...] = ()
    is_published: bool = True

    def names(self, own_names: Iterable[str], config: LMANetConfig) -> dict[str, str]:
        """This program's names -> the file's, without ``module.``, for all tensors that such a file holds."""
        pairs = self.memory.pairs(config) if self.memory else ()
        if self.shallow:
            pairs += (("decoder.classifier.", self.shallow),)
        pairs += self.decoder + self.encoder
        found = {}
        for own in own_names:
            pair = next((pair for pair in pairs if own.startswith(pair[0])), None)
            if pair is not None:
                found[own] = pair[1] + own.removeprefix(pair[0])
        return found

    def other_decoder(self, config: LMANetConfig) -> tuple[str, ...]:
        """Beginnings of a file's decoder of the other sort: of the full one for a shallow network, and vice versa."""
        if config.shallow_decoder:
            return tuple(name for _, name in self.decoder)
        return (self.shallow,) if self.shallow else ()

    def without_use(self, config: LMANetConfig) -> tuple[str, ...]:
        """Beginnings of what such a file may hold that a network of this configuration has no use for."""
        memory = self.memory.beginnings if self.memory and config.baseline else ()
        return self.aside + self.other_decoder(config) + memory


def _lmanet(label: str, encoder: Pairs, decoder: Pairs) -> FileKind:
    return FileKind(label, encoder, decoder, SHALLOW, PUBLISHED_MEMORY)


_ENCODER: Pairs = (("encoder.", "encoder."),)
_DECODER: Pairs = (("decoder.", "decoder."),)
_ERF_DECODER: Pairs = (("decoder.layers.", "decoder.layers."), ("decoder.output_conv.", "decoder.output_conv."))
_STAGES: Pairs = tuple((f"encoder.layer{stage}.", f"layer{stage}.") for stage in (1, 2, 3, 4))
_RESNET_STEM = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}

ERFNET = FileKind("ERFNet", _ENCODER, _ERF_DECODER, shallow="encoder.output_conv.", aside=("encoder.output_conv.",))
PSPNET101 = FileKind(
    "PSPNet-101",
    (("encoder.layer0.", "layer0."), *_STAGES),
    (("decoder.ppm.", "ppm."), ("decoder.cls.", "cls.")),
    shallow=SHALLOW,
    aside=("aux.",),
)
RESNET101 = FileKind(
    "ResNet-101",
    (*((f"encoder.layer0.{place}.", f"{name}.") for place, name in _RESNET_STEM.items()), *_STAGES),
    aside=("fc.",),
    prefix="",
)
LMANETS = {
    "erf": _lmanet("LMANet-ERFNet", _ENCODER, _ERF_DECODER),
    "psp101": _lmanet("LMANet-PSPNet-101", _ENCODER, (("decoder.ppm.", "ppm."), ("decoder.cls.", "decoder.cls."))),
}
# The first one is what a single-frame network is saved as.
SINGLE_FRAME: dict[str, tuple[FileKind, ...]] = {"erf": (ERFNET,), "psp101": (PSPNET101, RESNET101)}

OWN_SINGLE = FileKind(
    "a single-frame network in this program's names", _ENCODER, _DECODER, "decoder.classifier.", is_published=False
)
OWN_LMANET = FileKind(
    "an LMANet in this program's names", _ENCODER, _DECODER, "decoder.classifier.", OWN_MEMORY, is_published=False
)


def register_files(backbone: str, single_frame: FileKind) -> None:
    """Makes the weight files of a backbone known; its LMANet's are named as all are."""
    SINGLE_FRAME[backbone] = (single_frame,)
    LMANETS[backbone] = _lmanet(f"LMANet on {backbone}", _ENCODER, _DECODER)


@dataclass(frozen=True)
class WeightsOrigin:
    """Where a network's weights came from: the kind of file, what it did not hold, and what found no use.

    ``fresh`` are names of this program, ``carried`` are the file's unused tensors under its names without ``module.``:
    kept beside the network, so that they are there when it is saved as that kind of file again.
    """

    kind: FileKind
    fresh: frozenset[str]
    carried: dict[str, Tensor]


def kinds_of(backbone: str) -> tuple[FileKind, ...]:
    """All kinds of files that a network on this backbone can read."""
    return *SINGLE_FRAME[backbone], OWN_SINGLE, LMANETS[backbone], OWN_LMANET


def saved_kind(config: LMANetConfig) -> FileKind:
    """The kind of file that a network is saved as."""
    return SINGLE_FRAME[config.backbone][0] if config.baseline else LMANETS[config.backbone]


def _torchvision(name: str) -> FileKind:
    last = ("low_classifier.", "high_classifier.") if name.startswith("lraspp") else ("4.",)
    return FileKind(
        f"torchvision's {name}",
        (("encoder.body.", "backbone."),),
        (("decoder.head.", "classifier."),),
        SHALLOW,
        aside=("aux_classifier.",),
        prefix="",
        classifier=tuple(f"decoder.head.{layer}" for layer in last),
    )


for _name in BACKBONES:
    if _name.startswith("torchvision/"):
        register_files(_name, _torchvision(_name.partition("/")[2]))
