"""What a network is made of, as plain values. No torch here: the command line is checked before torch is imported."""

from collections.abc import Sequence
from dataclasses import dataclass

from utils.errors import OptionError


@dataclass(frozen=True)
class BackboneTraits:
    """What the rest of the program must know of a backbone before it builds one.

    ``features`` channels come out of the encoder at ``1 / stride`` of the input's size; keys have ``key_channels``,
    values ``value_channels``. Where ``value_is_features``, the encoder's output is the value and no convolution makes
    one. Input sides must be a multiple of ``side_multiple``, plus ``side_offset``. ``mean`` and ``std`` normalise
    RGB in [0, 1]; where they are ``None`` the network takes it as it is.
    """

    features: int
    key_channels: int
    value_channels: int
    value_is_features: bool
    stride: int
    side_multiple: int
    side_offset: int
    work_size: tuple[int, int]
    default_fusion: str
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def fitting_fusions(self) -> list[str]:
        """Names of the fusions whose output has as many channels as the decoder takes."""
        return [name for name, factor in FUSION_WIDTH.items() if factor * self.value_channels == self.features]

    def nearest_sides(self, side: int) -> list[int]:
        """The allowed side at or below ``side`` and the one above it; one number where ``side`` itself is allowed."""
        below = (side - self.side_offset) // self.side_multiple * self.side_multiple + self.side_offset
        if below == side:
            return [side]
        return [allowed for allowed in (below, below + self.side_multiple) if allowed > 0]


BACKBONES: dict[str, BackboneTraits] = {
    "erf": BackboneTraits(
        features=128,
        key_channels=16,
        value_channels=64,
        value_is_features=False,
        stride=8,
        side_multiple=8,
        side_offset=0,
        work_size=(512, 1024),
        default_fusion="sigmoid-do1",
    ),
}

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
    memorize_first: bool = False
    align_weights: bool = True
    always_decode: bool = False
    baseline: bool = False
    shallow_decoder: bool = False
    batch_norm: bool = True
    num_classes: int = 20
    attention_backend: str = "auto"

    def __post_init__(self):
        _check_choice("--backbone", self.backbone, BACKBONES)
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
                "--memorize-first does not go with --model-struct original_kv_fusion, which memorises what was fused "
                "after the read: leave one of them out"
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
        }
        chosen = [option for option, contradicts in memory_choices.items() if contradicts]
        if chosen:
            raise OptionError(f"--baseline-mode has no memory, which {', '.join(chosen)} shapes: leave one of them out")

    @property
    def traits(self) -> BackboneTraits:
        return BACKBONES[self.backbone]

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
