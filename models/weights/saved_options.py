"""Options of the network, saved with its weights: what names and shapes of tensors do not determine.

A checkpoint holds them under keys of its own, a weight file as an attribute of its ``OrderedDict``: other readers see
tensors under the published names and nothing else. The published files have none.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from models.config import LMANetConfig
from utils.class_set import ClassSet
from utils.errors import ClassSetError, WeightsError

VERSION = 1
ATTRIBUTE = "lmanet"
LONGEST_SIDE = 65_536  # of frames: what is longer is damage
# What decides what the weights of a memory, and those of the two halves, mean: it has to be as in the training.
MEMORY_FIELDS = ("corr_size", "fusion", "structure", "local", "learnable_constant", "mask_border", "memorize_first")
HALVES_FIELDS = ("backbone", "batch_norm", "shallow_decoder")
# What the same weights go with in any value: the paper trains with 3 frames in the memory and evaluates with 4.
RUN_FIELDS = ("memory_size", "memory_strategy")


@dataclass(frozen=True)
class SavedOptions:
    """The network's fields (of ``LMANetConfig``), its classes, and the size of its frames where they are known."""

    network: Mapping[str, object]
    classes: ClassSet | None = None
    work_size: tuple[int, int] | None = None

    @property
    def holds_memory(self) -> bool:
        return not self.network.get("baseline", False)

    def content(self) -> dict[str, object]:
        """Plain values, as a checkpoint holds them beside the weights."""
        return {
            "options_version": VERSION,
            "network": dict(self.network),
            "classes": None if self.classes is None else self.classes.to_json(),
            "work_size": None if self.work_size is None else list(self.work_size),
        }

    def inherited(
        self, typed: Mapping[str, object], trains: bool, contradiction: Callable[[str, object, object], str]
    ) -> dict[str, object]:
        """Fields of ``LMANetConfig`` that are taken from the file: those that matter and are not in ``typed``.

        A training takes from a single-frame file what its two halves are, and chooses its decoder itself; everything
        else takes the whole network. Raises ``WeightsError`` for a typed value that contradicts the file, in the words
        of ``contradiction(field, typed value, file's value)``.
        """
        single = typed.get("baseline", not self.holds_memory and not trains)
        fields = HALVES_FIELDS if single or not self.holds_memory else HALVES_FIELDS + MEMORY_FIELDS + RUN_FIELDS
        found = {name: self.network[name] for name in fields if name in self.network}
        if trains:
            found.pop("shallow_decoder", None)
        for name, value in found.items():
            if name == "backbone" and _is_moved(typed.get(name), value):
                continue
            if name in typed and name not in RUN_FIELDS and typed[name] != value:
                raise WeightsError(contradiction(name, typed[name], value))
        if single and "baseline" not in typed:
            found["baseline"] = True
        return {name: value for name, value in found.items() if name not in typed}


def _is_moved(typed: object, found: object) -> bool:
    """Whether two backbones are folders of the same family: these may lie elsewhere, and their tensors are checked."""
    return all(isinstance(each, str) and each.startswith("hf/") for each in (typed, found))


def network_fields(config: LMANetConfig) -> dict[str, object]:
    """The configuration's fields that decide what the weights mean."""
    fields = dataclasses.asdict(config)
    del fields["attention_backend"]
    return fields


def with_options(tensors: Mapping[str, Tensor], options: SavedOptions) -> OrderedDict[str, Tensor]:
    """Tensors by name with the options of their network, as ``torch.save`` writes them."""
    described = OrderedDict(tensors)
    setattr(described, ATTRIBUTE, options.content())
    return described


def options_in(content: object, label: str) -> SavedOptions | None:
    """The options in a file's content; ``None`` where it has none.

    Raises ``WeightsError`` for options of a newer version and for damaged ones.
    """
    found = getattr(content, ATTRIBUTE, None)
    if found is None and isinstance(content, Mapping) and "network" in content:
        network = content["network"]
        is_state_dict = isinstance(network, Mapping) and any(isinstance(value, Tensor) for value in network.values())
        found = None if is_state_dict else content  # other programs may call the weights so
    if found is None:
        return None
    version = found.get("options_version", VERSION) if isinstance(found, Mapping) else VERSION
    if type(version) is int and version > VERSION:
        raise WeightsError(
            f"{label}: its options are of version {version}, this program reads up to {VERSION}: take a newer program"
        )
    try:
        if type(version) is not int or version < 1:
            raise ValueError(f"options_version is {version!r}")
        classes, size = found.get("classes"), found.get("work_size")
        return SavedOptions(
            _known_fields(found["network"]),
            None if classes is None else ClassSet.from_json(classes),
            None if size is None else _size(size),
        )
    except (TypeError, ValueError, LookupError, AttributeError, ClassSetError) as error:
        raise WeightsError(f"{label}: its options cannot be read ({error}): write the file again") from error


def _size(sides: Sequence[object]) -> tuple[int, int]:
    height, width = sides
    if type(height) is not int or type(width) is not int or not (0 < height <= LONGEST_SIDE >= width > 0):
        raise ValueError(f"work_size is {sides!r}")
    return height, width


def _known_fields(network: Mapping[str, object]) -> dict[str, object]:
    """The fields by name, each of the type that it has here."""
    types = {field.name: type(field.default) for field in dataclasses.fields(LMANetConfig)} | {"num_classes": int}
    for name, value in network.items():
        if name not in types or type(value) is not types[name]:
            raise ValueError(f"{name} is {value!r}")
    return dict(network)
