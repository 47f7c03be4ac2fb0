"""Kinds of weight files: each a table of tensor names here and in the file. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

    from models.config import LMANetConfig

# Prefixes of this program's names and of a file's; the first that matches a name counts.
Pairs = tuple[tuple[str, str], ...]

SHALLOW = "decoder.output_conv_stm_shallow."
ENCODER: Pairs = (("encoder.", "encoder."),)
DECODER: Pairs = (("decoder.", "decoder."),)


class MemoryNames(NamedTuple):
    """Names of the memory's tensors in a kind of file: their prefixes, and the pairs for an LMANet."""

    prefixes: tuple[str, ...]
    pairs: Callable[[LMANetConfig], Pairs]


def _published_memory_pairs(config: LMANetConfig) -> Pairs:
    reduced = config.is_residual or config.fusion == "sigmoid-down1"
    fusion = (
        (
            ("fusion.gate.", "memory_fusion.conv_layer_3."),  # of the residual fusion, which was not published
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

    ``encoder`` and ``decoder`` map the names of the two halves, ``memory`` those of an LMANet's memory, and ``shallow``
    is the prefix of the 1x1 decoder; tensors without a name are not in such files and start fresh. ``aside`` are
    prefixes of tensors that files hold and no network uses. ``prefix`` begins every name in the file. A kind that is
    not ``is_published`` is read, never written.
    """

    label: str
    encoder: Pairs
    decoder: Pairs = ()
    shallow: str = ""
    memory: MemoryNames | None = None
    aside: tuple[str, ...] = ()
    prefix: str = "module."
    is_published: bool = True

    @classmethod
    def own(cls, memory: bool) -> FileKind:
        """A file in this program's own names, with a memory or without."""
        label = f"{'an LMANet' if memory else 'a single-frame network'} in this program's names"
        names = OWN_MEMORY if memory else None
        return cls(label, ENCODER, DECODER, "decoder.classifier.", names, is_published=False)

    def names(self, own_names: Iterable[str], config: LMANetConfig) -> dict[str, str]:
        """This program's names -> the file's, without ``module.``, for all tensors that such a file holds."""
        pairs = self.memory.pairs(config) if self.memory else ()
        return _translated(own_names, pairs + self._halves())

    def name_in_halves(self, own: str) -> str | None:
        """The file's name, without ``module.``, of a tensor of the encoder or the decoder."""
        return _translated([own], self._halves()).get(own)

    def _halves(self) -> Pairs:
        shallow = (("decoder.classifier.", self.shallow),) if self.shallow else ()
        return (*shallow, *self.decoder, *self.encoder)

    def other_decoder(self, config: LMANetConfig) -> tuple[str, ...]:
        """Prefixes of a file's other decoder: of the full one for a shallow network, and vice versa."""
        if config.shallow_decoder:
            return tuple(name for _, name in self.decoder)
        return (self.shallow,) if self.shallow else ()

    def without_use(self, config: LMANetConfig) -> tuple[str, ...]:
        """Prefixes of tensors in such files that a network of this configuration does not use."""
        memory = self.memory.prefixes if self.memory and config.baseline else ()
        return self.aside + self.other_decoder(config) + memory


def _translated(own_names: Iterable[str], pairs: Pairs) -> dict[str, str]:
    found = {}
    for own in own_names:
        pair = next((pair for pair in pairs if own.startswith(pair[0])), None)
        if pair is not None:
            found[own] = pair[1] + own.removeprefix(pair[0])
    return found


def lmanet_kind(label: str, decoder: Pairs = DECODER) -> FileKind:
    """The kind of an LMANet's files, under the published names; encoder and decoder keep theirs."""
    return FileKind(label, ENCODER, decoder, SHALLOW, PUBLISHED_MEMORY)


@dataclass(frozen=True)
class WeightsOrigin:
    """Where a network's weights came from: the kind of file, tensors that it lacked, and tensors that were not used.

    ``fresh`` are names of this program, ``carried`` are the file's unused tensors under its names without ``module.``,
    kept so that they can be saved again with that kind of file.
    """

    kind: FileKind
    fresh: frozenset[str]
    carried: dict[str, Tensor]
