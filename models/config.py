"""The network's configuration. No torch here: the command line is checked before torch is imported."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from numbers import Integral

from models.backbone import BackboneTraits, backbone_card, shipped_backbones
from models.choices import ATTENTION_BACKENDS, FUSION_WIDTH, MEMORY_STRATEGIES, RESIDUAL, STRUCTURES
from utils.class_set import MOST_CLASSES
from utils.errors import OptionError
from utils.sizes import format_size


@dataclass(frozen=True)
class LMANetConfig:
    """The network's options; raises ``OptionError`` for unknown values and for options that exclude each other.

    ``fusion=""`` takes the backbone's default. ``memory_size`` counts frames (T), ``corr_size`` is the side n of the
    attention's window. ``num_classes`` counts the logits: one a class, and the last for the ignore index.
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
    attention_backend: str = "auto"
    num_classes: int = field(kw_only=True)

    def __post_init__(self) -> None:
        self._check_types()
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
        if not 2 <= self.num_classes <= MOST_CLASSES + 1:
            raise OptionError(
                f"num_classes is {self.num_classes}: expected 2 to {MOST_CLASSES + 1}, as labels are 8-bit"
            )
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
            able = ", ".join(n for n in shipped_backbones() if backbone_card(n).traits.batch_norm_optional)
            raise OptionError(
                f"--backbone-nobn does not go with --backbone {self.backbone}, whose batch norms are built in: "
                f"leave it out, or take one of {able}"
            )
        if self.baseline:
            self._check_baseline()

    def _check_types(self) -> None:
        for name, kind, kind_text in ((each.name, *_kind_of(each.name, each.default)) for each in fields(self)):
            value = getattr(self, name)
            if kind is int and isinstance(value, Integral) and not isinstance(value, bool):
                object.__setattr__(self, name, int(value))  # such as NumPy's
            elif not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise OptionError(f"{name} is {value!r}: expected {kind_text}")

    def check_work_size(self, size: tuple[int, int], name: str = "work_size") -> None:
        """Raises ``OptionError`` naming the option for a height and width of frames that the backbone does not take."""
        sides = tuple(size) if isinstance(size, tuple | list) else ()
        if len(sides) != 2 or any(not isinstance(side, Integral) or side < 1 for side in sides):
            raise OptionError(f"{name} is {size!r}: expected a height and a width, for example (512, 1024)")
        allowed = [self.traits.nearest_sides(side, axis) for axis, side in enumerate(sides)]
        if any(side not in nearest for side, nearest in zip(sides, allowed, strict=True)):
            choices = dict.fromkeys(format_size(nearest[place] for nearest in allowed) for place in (0, -1))
            raise OptionError(
                f"{name} {format_size(sides)} does not fit --backbone {self.backbone}: try {' or '.join(choices)}"
            )

    def _check_baseline(self) -> None:
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
        return backbone_card(self.backbone).traits

    @property
    def value_channels(self) -> int:
        """Channels D of a value."""
        return self.traits.value_channels_for(self.fusion)

    @property
    def is_residual(self) -> bool:
        """Whether the fusion's output is added to the features instead of replacing them."""
        return self.fusion == RESIDUAL

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


def _kind_of(name: str, default: object) -> tuple[type, str]:
    """The type of a field by its default, and its text; ``num_classes`` has none."""
    kind = int if name == "num_classes" else type(default)
    return kind, {int: "a whole number, for example 3", bool: "True or False", str: "a name"}[kind]


def _stride_of(strategy: str) -> int:
    return 1 + int(strategy.removeprefix("skip_")) if strategy.startswith("skip_") else 1


def _check_choice(option: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise OptionError(f"{option} {value} is not known: expected one of {', '.join(known)}")
