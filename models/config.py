"""What a network is made of, as plain values. No torch here: the command line is checked before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass

from utils.errors import OptionError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Channels that a fusion of two D-channel inputs gives, in multiples of D.
FUSION_WIDTH = {
    "sigmoid-do1": 2,
    "sigmoid-do2": 2,
    "sigmoid-do3": 2,
    "sigmoid": 2,
    "linear": 2,
    "simple-sigmoid": 2,
    "concat": 2,
    "sigmoid-down1": 1,
}
# Above this, the 3x3 gates of the other fusions would outweigh the backbone.
WIDEST_FOR_3X3_GATES = 512


@dataclass(frozen=True)
class BackboneTraits:
    """What the rest of the program must know of a backbone before it builds one. Three numbers are enough.

    The encoder gives ``features`` channels for the memory, at ``1 / stride`` of the input's size rounded up, and
    behind them ``around`` channels that go round the memory to the decoder, such as fine detail of the current frame.
    ``work_size`` is the height and width that frames are resized to. Input sides must be a multiple of
    ``side_multiple``, plus ``side_offset``. ``mean`` and ``std`` normalize RGB in [0, 1]; where they are ``None`` the
    network takes it as it is. ``batch_norm_optional`` says that the backbone can be built without its batch norms.

    Where they are not given, the rest follows from ``features``, as the sizes of the published networks do: a 16th of
    them for keys, in steps of 16, at least 16; a fusion by their number; values so wide that the fusion ends in
    ``features`` channels. Values as wide as the features are the features themselves, without a convolution.
    """

    features: int
    stride: int
    work_size: tuple[int, int]
    key_channels: int = 0
    value_channels: int = 0
    default_fusion: str = ""
    around: int = 0
    side_multiple: int = 1
    side_offset: int = 0
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    batch_norm_optional: bool = False

    def __post_init__(self):
        if not self.key_channels:
            object.__setattr__(self, "key_channels", 16 * max(1, round(self.features / 256)))
        if not self.default_fusion:
            narrow = self.features % 2 == 0 and self.features <= WIDEST_FOR_3X3_GATES
            object.__setattr__(self, "default_fusion", "sigmoid-do1" if narrow else "sigmoid-down1")

    def value_channels_for(self, fusion: str) -> int:
        """Channels D of the values that a fusion takes."""
        return self.value_channels or self.features // FUSION_WIDTH[fusion]

    def fitting_fusions(self) -> list[str]:
        """Names of the fusions whose output has as many channels as the decoder takes."""
        return [n for n, factor in FUSION_WIDTH.items() if factor * self.value_channels_for(n) == self.features]

    def nearest_sides(self, side: int) -> list[int]:
        """The allowed side at or below ``side`` and the one above it; one number where ``side`` itself is allowed."""
        below = (side - self.side_offset) // self.side_multiple * self.side_multiple + self.side_offset
        if below == side:
            return [side]
        return [allowed for allowed in (below, below + self.side_multiple) if allowed > 0]

    def feature_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The encoder's output size h, w for frames of size H, W."""
        height, width = size
        return -(-height // self.stride), -(-width // self.stride)


def _torchvision(features: int, stride: int, **more) -> BackboneTraits:
    return BackboneTraits(features, stride, work_size=(512, 1024), mean=IMAGENET_MEAN, std=IMAGENET_STD, **more)


BACKBONES: dict[str, BackboneTraits] = {
    "erf": BackboneTraits(
        features=128,
        stride=8,
        work_size=(512, 1024),
        key_channels=16,
        value_channels=64,
        default_fusion="sigmoid-do1",
        side_multiple=8,
        batch_norm_optional=True,
    ),
    "psp101": BackboneTraits(
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
    "torchvision/fcn_resnet50": _torchvision(2048, 8),
    "torchvision/fcn_resnet101": _torchvision(2048, 8),
    "torchvision/deeplabv3_resnet50": _torchvision(2048, 8),
    "torchvision/deeplabv3_resnet101": _torchvision(2048, 8),
    "torchvision/deeplabv3_mobilenet_v3_large": _torchvision(960, 16),
    # Its finer level, 40 channels at 1/8, goes round the memory as 160 channels at 1/16.
    "torchvision/lraspp_mobilenet_v3_large": _torchvision(960, 16, around=160, side_multiple=16),
}

SHIPPED_BACKBONES = tuple(BACKBONES)
STRUCTURES = ("original", "mem_only", "aux_mem_loss", "original_kv_fusion")
MEMORY_STRATEGIES = ("all", "skip_01", "skip_02", "skip_03", "skip_04", "skip_05", "random")
ATTENTION_BACKENDS = ("auto", "reference", "portable", "cpu", "cuda")


@dataclass(frozen=True)
class LMANetConfig:
    """One field for each choice that shapes the network; raises ``OptionError`` where choices do not go together.

    ``fusion=""`` takes the backbone's default. ``memory_size`` counts frames (T), ``corr_size`` is the side n of the
    attention's window. ``num_classes`` counts the logits, with class 19, which stands for all that is ignored.
    """

    backbone: str = "erf"
    memory_size: int = 3
    corr_size: int = 21
    fusion: str = ""
    structure: str = "original"
    memory_strategy: str = "all"
    local: bool = True
    learnable_constant: bool = False
    mask_border: bool = False
    memorize_first: bool = False
    align_weights: bool = True
    always_decode: bool = False
    baseline: bool = False
    shallow_decoder: bool = False
    batch_norm: bool = True
    num_classes: int = 20
    attention_backend: str = "auto"

    def __post_init__(self):
        family = "torchvision/" if self.backbone.startswith("torchvision/") else ""
        _check_choice("--backbone", self.backbone, [name for name in BACKBONES if name.startswith(family)])
        if not self.fusion:
            object.__setattr__(self, "fusion", self.traits.default_fusion)
        _check_choice("--fusion-strategy", self.fusion, FUSION_WIDTH)
        _check_choice("--model-struct", self.structure, STRUCTURES)
        _check_choice("--memory-strategy", self.memory_strategy, MEMORY_STRATEGIES)
        _check_choice("--attention-backend", self.attention_backend, ATTENTION_BACKENDS)
        if self.memory_size < 1:
            raise OptionError(f"--stm-queue-size is {self.memory_size}: expected 1 frame or more, for example 3")
        if self.corr_size < 1 or self.corr_size % 2 == 0:
            raise OptionError(f"--corr-size is {self.corr_size}: expected an odd number of 1 or more, for example 21")
        if self.num_classes < 2:
            raise OptionError(f"num_classes is {self.num_classes}: expected 2 or more, for example 20")
        if self.fusion not in self.traits.fitting_fusions():
            fitting = ", ".join(self.traits.fitting_fusions())
            raise OptionError(
                f"--fusion-strategy {self.fusion} does not fit --backbone {self.backbone}: expected one of {fitting}"
            )
        if self.structure == "original_kv_fusion" and self.memorize_first:
            raise OptionError(
                "--memorize-first does not go with --model-struct original_kv_fusion, which memorizes what was fused "
                "after the read: leave one of them out"
            )
        for option, found in (
            ("--learnable-constant", self.learnable_constant),
            ("--no-local-correlation", not self.local),
        ):
            if self.mask_border and found:
                raise OptionError(
                    f"--mask-border does not go with {option}: it changes the plain softmax over a window; leave one "
                    "of them out"
                )
        if not self.batch_norm and not self.traits.batch_norm_optional:
            able = ", ".join(name for name, traits in BACKBONES.items() if traits.batch_norm_optional)
            raise OptionError(
                f"--backbone-nobn does not go with --backbone {self.backbone}, whose batch norms are built in: "
                f"leave it out, or take one of {able}"
            )
        if self.baseline:
            self._check_baseline()

    def _check_baseline(self):
        memory_choices = {
            f"--model-struct {self.structure}": self.structure != "original",
            f"--memory-strategy {self.memory_strategy}": self.memory_strategy != "all",
            "--learnable-constant": self.learnable_constant,
            "--memorize-first": self.memorize_first,
            "--no-local-correlation": not self.local,
            "--mask-border": self.mask_border,
        }
        chosen = [option for option, contradicts in memory_choices.items() if contradicts]
        if chosen:
            raise OptionError(f"--baseline-mode has no memory, which {', '.join(chosen)} shapes: leave one of them out")

    @property
    def traits(self) -> BackboneTraits:
        return BACKBONES[self.backbone]

    @property
    def value_channels(self) -> int:
        """Channels D of a value."""
        return self.traits.value_channels_for(self.fusion)

    @property
    def picks_by_chance(self) -> bool:
        """Whether the processed frames of a window are drawn anew for each clip."""
        return self.memory_strategy == "random"

    def smallest_window(self) -> int:
        """Frames that a clip must have at least for the memory strategy to find one past frame, or T for ``random``."""
        if self.baseline:
            return 1
        if self.memory_strategy == "random":
            return self.memory_size + 1
        return _stride_of(self.memory_strategy) + 1

    def window_that_fills_the_memory(self) -> int:
        """Frames of the shortest clip with T past frames that the memory strategy takes."""
        return 1 + self.memory_size * _stride_of(self.memory_strategy)

    def frame_positions(self, window: int) -> list[int] | None:
        """Positions of a ``window`` of frames that are processed, oldest first; ``None`` where chance decides.

        ``all`` takes every frame, ``skip_0K`` every (K+1)th counted back from the last; the baseline only the last.
        """
        if self.baseline and not self.always_decode:
            return [window - 1]
        if self.picks_by_chance:
            return None
        return list(range(window - 1, -1, -_stride_of(self.memory_strategy)))[::-1]


def _stride_of(strategy: str) -> int:
    return 1 + int(strategy.removeprefix("skip_")) if strategy.startswith("skip_") else 1


def _check_choice(option: str, value: str, known: Sequence[str] | dict):
    if value not in known:
        raise OptionError(f"{option} {value} is not known: expected one of {', '.join(known)}")
