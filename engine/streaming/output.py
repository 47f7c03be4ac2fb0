"""What an output of a stream is: it declares its options, its files and what it needs, and takes frame after frame.

Outputs are the files in ``engine/streaming/outputs/``, and those that a ``--plugin`` registers. No torch is needed to
read what they declare.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from engine.options.option import Option
from utils.class_set import ClassSet
from utils.errors import OptionError
from utils.modules import check_declared, import_all

if TYPE_CHECKING:
    import numpy as np

SHIPPED = "engine.streaming.outputs"


class LabeledFrame(NamedTuple):
    """A frame with its labels, and when it is shown: RGB uint8 ``H W 3``, class indices uint8 ``H W``, probabilities
    float16 ``K h w`` where an output needs them."""

    name: str
    image: np.ndarray
    labels: np.ndarray
    seconds: float
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class StreamInfo:
    """What an output is told of its stream: the folder to write to, the classes, frames per second of the source."""

    folder: Path
    classes: ClassSet
    fps: float


class Output(ABC):
    """Takes one labeled frame after the other, in a thread of its own.

    ``name`` is what messages and ``stream.json`` call it; ``options`` are added to ``main.py``; ``leaves`` are names of
    files and folders in the save folder that it writes, which ``--overwrite`` removes before another stream.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]]
    leaves: ClassVar[tuple[str, ...]]
    needs_probabilities: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def from_options(cls, values: Mapping[str, object], stream: StreamInfo) -> Output | None:
        """The output that the parsed options ask for, by their names (``save_video``); ``None`` where they do not."""

    @classmethod
    def check_options(cls, values: Mapping[str, object]) -> None:
        """Raises ``OptionError`` for values that cannot be; called before torch is imported."""
        return

    @abstractmethod
    def write(self, frame: LabeledFrame) -> None:
        """Takes the next frame. Raises ``OSError`` or ``IncompleteError`` where it cannot be written."""

    def close(self) -> None:
        """Completes what was written."""
        return

    def abandon(self) -> str:
        """Ends after an error and returns what is left under which name."""
        return f"what {self.name} wrote until then is left"


def frame_file_name(name: str) -> str:
    """What the files of a frame are called: as the frame, without the ending of Cityscapes' frames."""
    return name.removesuffix("_leftImg8bit")


_OUTPUTS: dict[str, type[Output]] = {}


def register_output(output: type[Output]) -> type[Output]:
    """Makes an output known to ``--stream``; usable as a decorator.

    Raises ``OptionError`` for a name that is taken, and for an output without a name, options or leaves.
    """
    if not (isinstance(output, type) and issubclass(output, Output)):
        raise OptionError(f"{output!r} is no output: expected a subclass of Output, not an instance")
    check_declared("output", output, "name", "options", "leaves")
    if output.name in _OUTPUTS:
        raise OptionError(f"an output named {output.name!r} is registered already: expected another name")
    _OUTPUTS[output.name] = output
    return output


def registered_outputs() -> Sequence[type[Output]]:
    """All outputs, those of the project first."""
    import_all(SHIPPED)
    return tuple(_OUTPUTS.values())


def output_options() -> tuple[Option, ...]:
    """The options of all outputs; one that several declare occurs once, as the first of them declares it."""
    by_flag: dict[str, Option] = {}
    for output in registered_outputs():
        for option in output.options:
            by_flag.setdefault(option.flag, option)
    return tuple(by_flag.values())
