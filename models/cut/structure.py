"""Nested outputs of modules: their tensors, the same with other tensors, and which of them are logits."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import OptionError

# Names of logits in the dictionaries that networks return: torchvision, transformers.
LOGITS = ("out", "logits")


def copy_of(module: nn.Module) -> nn.Module:
    """A deep copy; of tensors that a network keeps of its last run, which cannot be copied with gradients, without."""
    kept = (each for part in module.modules() for each in tensors_of(vars(part)) if not each.is_leaf)
    return copy.deepcopy(module, {id(tensor): tensor.detach() for tensor in kept})


class Placeholder:
    """Stands for a tensor in a nested structure."""


def tensors_of(value: object) -> Iterator[Tensor]:
    """All tensors of nested lists, tuples, mappings and dataclasses, in order."""
    return (leaf for leaf in leaves_of(value) if isinstance(leaf, Tensor))


def leaves_of(value: object) -> Iterator[object]:
    """All that nested lists, tuples, mappings and dataclasses hold, in order."""
    children = _children(value)
    if children is None:
        yield value
    for each in children or ():
        yield from leaves_of(each)


def replaced(value: Any, replace: Callable[[Any], Any]) -> Any:
    """A nested structure whose leaves, tensors or not, are ``replace(leaf)``."""
    if type(value) is dict:  # without a copy, which torch.compile does not see through
        return {name: replaced(each, replace) for name, each in value.items()}
    if isinstance(value, Mapping):
        new: Any = copy.copy(value)
        for name, each in value.items():
            new[name] = replaced(each, replace)
        return new
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(replaced(each, replace) for each in value))
    if isinstance(value, torch.Size):  # which holds nothing but numbers
        return tuple(replaced(each, replace) for each in value)
    if isinstance(value, list | tuple):
        return type(value)(replaced(each, replace) for each in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Placeholder):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        return dataclasses.replace(value, **{name: replaced(each, replace) for name, each in fields.items()})
    return replace(value)


def _children(value: object) -> list[object] | None:
    """What a value holds; ``None`` for a leaf."""
    if isinstance(value, Mapping):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Placeholder):
        return [getattr(value, field.name) for field in dataclasses.fields(value) if field.init]
    return None


def logits_of(output: object) -> Tensor:
    """The logits ``B K h w`` in what a network returns: a tensor, or a dictionary or tuple with one.

    They are the tensor called ``out`` or ``logits``, or the first one. Raises ``OptionError`` where there are none, as
    in networks that predict masks by queries.
    """
    if isinstance(output, Mapping):
        queries = [name for name in output if "queries_logits" in str(name) or name == "pred_masks"]
        if queries:
            raise OptionError(
                f"the network returns {queries[0]}: it predicts masks by queries (as Mask2Former and EoMT do), which "
                "have no map of features that a memory could replace; expected logits B K h w, as of a SegFormer"
            )
        named = [output[name] for name in LOGITS if isinstance(output.get(name), Tensor)]
        if named:
            return _checked(named[0])
    found = next((tensor for tensor in tensors_of(output) if tensor.dim() == 4), None)
    return _checked(found if found is not None else next(tensors_of(output), None))


def _checked(found: Tensor | None) -> Tensor:
    if found is None or found.dim() != 4 or not found.is_floating_point():
        shape = "no tensor" if found is None else f"{tuple(found.shape)} of {found.dtype}"
        raise OptionError(f"the network returns {shape}: expected logits B K h w, alone or in a dictionary as 'out'")
    return found
