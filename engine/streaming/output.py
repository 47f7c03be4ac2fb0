"""The interface of a stream's outputs: an output declares its options and files, and writes frame after frame.

Outputs are the files in ``engine/streaming/outputs/``, and those that a ``--plugin`` registers. The parser reads their
options, so that importing them must import neither torch, NumPy, OpenCV nor PyAV.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from engine.options.option import Option
from engine.streaming.display import Display
from utils.class_set import ClassSet
from utils.errors import OptionError
from utils.modules import check_declared, import_all

if TYPE_CHECKING:
    import numpy as np

SHIPPED = "engine.streaming.outputs"


class LabeledFrame(NamedTuple):
    """A frame, RGB uint8 ``H W 3``, its presentation time, and its class indices, uint8 ``H W``.

    ``probabilities`` are float16 ``K h w`` at the working size; ``None`` where no output of the stream needs them.
    ``duration`` is for how many seconds the frame is shown, where that is known; ``display`` how its pixels are.
    """

    name: str
    image: np.ndarray
    labels: np.ndarray
    seconds: float
    probabilities: np.ndarray | None = None
    duration: float | None = None
    display: Display = Display()


@dataclass(frozen=True)
class StreamInfo:
    """What an output knows of its stream: the folder to write to, the classes, and the source's frames per second."""

    folder: Path
    classes: ClassSet
    fps: float


class Output(ABC):
    """Writes labeled frames, one after the other, in a thread of its own.

    ``name`` is its name in messages and in ``stream.json``; ``options`` are added to ``main.py``; ``leaves`` are the
    names of the files and folders that it writes in ``--savedir``, where nothing else of these names may be. With
    ``needs_probabilities`` frames come with probabilities.
    """

    name: ClassVar[str]
    options: ClassVar[tuple[Option, ...]]
    leaves: ClassVar[tuple[str, ...]]
    needs_probabilities: ClassVar[bool] = False
    position: ClassVar[int] = 100  # among the outputs in help and reports: from the lowest to the highest

    @classmethod
    @abstractmethod
    def from_options(cls, values: Mapping[str, object], stream: StreamInfo) -> Output | None:
        """The output for the values of its options, by name (``save_video``); ``None`` where they do not ask for it."""

    @classmethod
    def wanted_leaves(cls, values: Mapping[str, object]) -> tuple[str, ...]:
        """Those of its leaves that it writes with these values of its options: all where one of them is typed."""
        return cls.leaves if any(values[option.dest] != option.default for option in cls.options) else ()

    @classmethod
    def frame_files(cls, values: Mapping[str, object], name: str) -> tuple[str, ...]:
        """The files that it writes for a frame of that name, as paths in ``--savedir``; none where one holds them all.

        ``--overwrite`` removes these and nothing else from a folder among the leaves.
        """
        return ()

    @classmethod
    def check_options(cls, values: Mapping[str, object]) -> None:
        """Raises ``OptionError`` for invalid values of its options; called before torch is imported."""
        return

    @abstractmethod
    def write(self, frame: LabeledFrame) -> None:
        """Writes the next frame. Raises ``OSError`` or ``IncompleteError`` where it cannot be written."""

    def close(self) -> None:
        """Completes the files after the last frame."""
        return

    def abandon(self) -> str:
        """Closes the files after an error; returns a text that tells which of them are left."""
        return f"what {self.name} wrote until then is left"


def frame_file_name(name: str) -> str:
    """Name for the files of a frame: the frame's, without the ending ``_leftImg8bit`` of Cityscapes' file names."""
    return name.removesuffix("_leftImg8bit")


_OUTPUTS: dict[str, type[Output]] = {}


def register_output(output: type[Output]) -> type[Output]:
    """Registers an output for ``--stream``; a class decorator.

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
    """All outputs, the shipped ones first."""
    import_all(SHIPPED)
    return sorted(_OUTPUTS.values(), key=lambda output: output.position)


def output_options() -> tuple[Option, ...]:
    """The options of all outputs; an option that several outputs declare occurs once."""
    by_flag: dict[str, Option] = {}
    for output in registered_outputs():
        for option in output.options:
            by_flag.setdefault(option.flag, option)
    return tuple(by_flag.values())
