"""Published weight files: the names they use, one strict loader, and the same names for what is saved.

A file is a bare state dict or a dict that holds one under ``state_dict``; its names may begin with ``module.``.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from models.config import LMANetConfig
from models.lmanet import LMANet
from utils import checkpoint
from utils.errors import WeightsError

log = logging.getLogger(__name__)

# Beginnings of this program's names and of the published ones; the first that fits counts.
_PUBLISHED_BEGINNINGS = (
    ("encoder.", "encoder."),
    ("decoder.", "decoder."),
    ("memory_decoder.", "decoder_mem."),
    ("memory_head.key.", "kv_M_r4.Key."),
    ("memory_head.value.", "kv_M_r4.Value."),
    ("query_head.key.", "kv_Q_r4.Key."),
    ("query_head.value.", "kv_Q_r4.Value."),
    ("init_head.key.", "kv_init_r4.Key."),
    ("init_head.value.", "kv_init_r4.Value."),
    ("fusion.prepare_query.0.", "memory_fusion.bn1."),
    ("fusion.prepare_read.0.", "memory_fusion.bn2."),
    ("fusion.features_query.", "memory_fusion.conv_layer_1."),
    ("fusion.features_read.", "memory_fusion.conv_layer_2."),
    ("fusion.gate_query.", "memory_fusion.conv_layer_3."),
    ("fusion.gate_read.", "memory_fusion.conv_layer_4."),
    ("fusion.norm.", "memory_fusion.bn."),
)
_MEMORY_PARTS = ("memory_head.", "query_head.", "init_head.", "fusion.", "memory_decoder.", "attention_constant")
_PUBLISHED_MEMORY_PARTS = ("kv_M_r4.", "kv_Q_r4.", "kv_init_r4.", "memory_fusion.", "decoder_mem.", "memory_module")
_ENCODER_OUTPUT = "encoder.output_conv."

# What a file of another network holds that no other has, to say what it looks like.
_MARKS = (
    ("PSPNet-101", "layer0.0.weight"),
    ("LMANet-PSPNet-101", "ppm.features.0.1.weight"),
    ("ResNet-101", "fc.weight"),
    ("LMANet-ERFNet", "kv_M_r4.Value.weight"),
    ("ERFNet", "encoder.initial_block.conv.weight"),
)


@dataclass(frozen=True)
class LoadReport:
    """What ``load_weights`` did: names it did not use, and names of tensors that start fresh."""

    unused: tuple[str, ...]
    fresh: tuple[str, ...]


def published_names(names: Iterable[str], config: LMANetConfig) -> dict[str, str]:
    """This program's tensor names -> the published ones, without ``module.``."""
    special = {
        "fusion.gate_query.": "memory_fusion.conv_layer_34." if config.fusion == "sigmoid-do3" else None,
        "attention_constant": "memory_module_local.const" if config.local else "memory_module.const",
        "decoder.classifier.": _ENCODER_OUTPUT if config.baseline else "decoder.output_conv_stm_shallow.",
        "memory_decoder.classifier.": "decoder_mem.output_conv_stm_shallow.",
    }
    beginnings = [(own, published) for own, published in special.items() if published] + list(_PUBLISHED_BEGINNINGS)
    renamed = {}
    for name in names:
        own, published = next(pair for pair in beginnings if name.startswith(pair[0]))
        renamed[name] = published + name.removeprefix(own)
    return renamed


def published_state_dict(model: LMANet) -> dict[str, Tensor]:
    """The model's tensors under the names of the published files, with ``module.``."""
    state = model.state_dict()
    return {f"module.{published}": state[own] for own, published in published_names(state, model.config).items()}


def load_weights(model: LMANet, source: str | Path | Mapping[str, Tensor]) -> LoadReport:
    """Copies a weight file (or its state dict) into a model, strictly; logs what was not used and what starts fresh.

    From a single-frame file the memory parts start fresh; a shallow decoder has no use for a full one and the other
    way round. All else must be there, of the right shape and finite. Raises ``WeightsError`` with the names and leaves
    the model untouched otherwise.
    """
    label = "the state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else checkpoint.read(source, WeightsError)
    tensors = _tensors_of(content, label)
    state = model.state_dict()
    published = published_names(state, model.config)
    found = {own: tensors.get(name, tensors.get(own)) for own, name in published.items()}
    _borrow_encoder_output(found, tensors)
    used = {name for own, name in published.items() if found[own] is not None} | set(published)
    unused = tuple(sorted(set(tensors) - used))
    fresh = tuple(own for own, tensor in found.items() if tensor is None)

    _refuse_missing(fresh, tensors, published, model.config, label)
    _refuse_leftovers(unused, model.config, label)
    for own, tensor in found.items():
        if tensor is not None:
            _check_tensor(published[own], tensor, state[own], label)
    model.load_state_dict({own: state[own] if tensor is None else tensor for own, tensor in found.items()})
    if unused:
        log.info("%s: not used: %s", label, summary(unused))
    if fresh:
        log.info("%s: start fresh: %s", label, summary(fresh))
    return LoadReport(unused, fresh)


def summary(names: Iterable[str], shown: int = 4) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def _tensors_of(content: object, label: str) -> dict[str, Tensor]:
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{label}: holds no weights: expected a state dict, bare or under 'state_dict'")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise WeightsError(f"{label}: {name!r} is no tensor: expected a state dict, bare or under 'state_dict'")
    return {name.removeprefix("module."): value for name, value in content.items()}


def _borrow_encoder_output(found: dict[str, Tensor | None], tensors: dict[str, Tensor]):
    """A shallow decoder starts from the 1x1 output that ERFNet's file holds for its encoder."""
    for ending in ("weight", "bias"):
        if found.get(f"decoder.classifier.{ending}", "absent") is None:
            found[f"decoder.classifier.{ending}"] = tensors.get(_ENCODER_OUTPUT + ending)


def _refuse_missing(
    fresh: tuple[str, ...], tensors: dict[str, Tensor], published: dict[str, str], config: LMANetConfig, label: str
):
    has_memory = any(name.startswith(_PUBLISHED_MEMORY_PARTS + _MEMORY_PARTS) for name in tensors)
    has_decoder = any(name.startswith("decoder.") for name in tensors)
    may_be_fresh = () if has_memory else _MEMORY_PARTS
    if config.shallow_decoder or not has_decoder or _is_shallow(tensors):
        may_be_fresh += ("decoder.",)
    missing = [published[own] for own in fresh if not own.startswith(may_be_fresh)]
    if len(missing) == 0:
        return
    looks_like = next((network for network, mark in _MARKS if mark in tensors), "another network")
    if "encoder.initial_block.conv.weight" not in tensors:
        raise WeightsError(
            f"{label}: looks like {looks_like}: expected a file of --backbone {config.backbone} "
            f"(it lacks {summary(missing, 2)})"
        )
    raise WeightsError(f"{label}: {len(missing)} tensors are missing for {_described(config)}: {summary(missing)}")


def _refuse_leftovers(unused: tuple[str, ...], config: LMANetConfig, label: str):
    allowed = (_ENCODER_OUTPUT,)
    if config.baseline:
        allowed += _PUBLISHED_MEMORY_PARTS
    if config.shallow_decoder:
        allowed += ("decoder.layers.", "decoder.output_conv.")
    else:
        allowed += ("decoder.output_conv_stm_shallow.",)
    surplus = [name for name in unused if not name.startswith(allowed)]
    if surplus:
        raise WeightsError(
            f"{label}: {len(surplus)} tensors have no place in {_described(config)}: {summary(surplus)}; "
            "give the options that the file was trained with"
        )


def _check_tensor(name: str, tensor: Tensor, expected: Tensor, label: str):
    if tensor.shape != expected.shape:
        raise WeightsError(f"{label}: {name} has shape {list(tensor.shape)}: expected {list(expected.shape)}")
    if tensor.is_floating_point() and not torch.isfinite(tensor).all():
        raise WeightsError(f"{label}: {name} holds numbers that are not finite: expected finite weights")


def _is_shallow(tensors: dict[str, Tensor]) -> bool:
    return any(name.startswith("decoder.output_conv_stm_shallow.") for name in tensors)


def _described(config: LMANetConfig) -> str:
    kind = "baseline" if config.baseline else f"LMANet ({config.structure}, {config.fusion})"
    return f"{kind} on --backbone {config.backbone}" + (" with --shallow-dec" if config.shallow_decoder else "")
