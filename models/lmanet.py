"""LMANet: encode a frame, read the memory, fuse, decode, remember (Paul et al., IROS 2021).

The network keeps no state: whoever plays a video holds its memory. A clip and a stream go through the same step.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import build_backbone
from models.backbones.shallow import ShallowDecoder
from models.config import LMANetConfig
from models.fusion import FUSIONS
from models.local_attention import global_attention, local_attention
from models.memory import KeyValueHead, Memory, pushed
from models.weights.file_kinds import WeightsOrigin


class LMANet(nn.Module):
    """A single-frame network with a memory between its encoder and its decoder; see ``LMANetConfig``."""

    def __init__(self, config: LMANetConfig):
        super().__init__()
        self.config = config
        self.origin: WeightsOrigin | None = None  # set by load_weights
        traits, backbone = config.traits, build_backbone(config)
        make_decoder = ShallowDecoder if config.shallow_decoder else backbone.make_decoder
        self.encoder = backbone.make_encoder()
        self.decoder = make_decoder(traits.features + traits.around, config.num_classes)
        if config.baseline:
            return
        self.push = pushed  # models.inference.fast_copy puts in what works in place
        head_sizes = traits.features, traits.key_channels, config.value_channels
        self.memory_head, self.query_head = KeyValueHead(*head_sizes), KeyValueHead(*head_sizes)
        if config.align_weights:
            self.query_head.key.load_state_dict(self.memory_head.key.state_dict())
        self.fusion = FUSIONS[config.fusion](config.value_channels)
        if config.learnable_constant:
            self.attention_constant = nn.Parameter(torch.zeros(1))
        if config.structure == "original_kv_fusion":
            self.init_head = KeyValueHead(*head_sizes)
        if config.structure in ("mem_only", "aux_mem_loss"):
            self.memory_decoder = make_decoder(config.value_channels + traits.around, config.num_classes)
        if config.structure == "mem_only":
            # Published files hold a fusion all the same.
            self.fusion.requires_grad_(False)

    def forward(self, clip: Tensor, selected: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of the last frame of each clip, or of every processed frame with ``always_decode``.

        ``clip`` is ``B S 3 H W``, normalized as the backbone wants it; ``B 1 K H W`` (``B S' K H W``) come out,
        at the features' size with the shallow decoder. The memory strategy picks the frames; ``selected`` says that
        the clip holds the picked ones already. In training the structure ``aux_mem_loss`` gives a pair: the logits,
        and those of the last frame decoded from what was read alone.

        Raises ``ValueError`` for a clip that is not ``B S 3 H W`` with at least one frame.
        """
        if clip.dim() != 5 or clip.shape[1] < 1:
            raise ValueError(f"clip has shape {tuple(clip.shape)}: expected B S 3 H W with S of 1 or more")
        frames = clip.unbind(1)
        if not selected:
            frames = [frames[position] for position in self._picked_positions(len(frames))]
        memory, all_logits, aux_logits = None, [], None
        for position, frame in enumerate(frames):
            last = position == len(frames) - 1
            decode = last or self.config.always_decode
            logits, aux_logits, memory = self._advance(frame, memory, decode=decode, remember=not last)
            if decode:
                all_logits.append(logits)
        stacked = torch.stack(all_logits, dim=1)
        if self.training and self.config.structure == "aux_mem_loss" and aux_logits is not None:
            return stacked, aux_logits.unsqueeze(1)
        return stacked

    def step(self, frame: Tensor, memory: Memory | None = None, remember: bool = True) -> tuple[Tensor, Memory | None]:
        """Logits of one frame of a stream, and the memory for the next one, with this frame unless not ``remember``.

        ``frame`` is ``B 3 H W``, ``memory`` is ``None`` for the first frame and what the last call gave after that;
        logits are ``B K H W``. Stepping through a clip ends in the logits of ``model(clip)``. In baseline mode there
        is no memory, and ``None`` comes out.

        Raises ``ValueError`` where frame and memory do not go together.
        """
        if frame.dim() != 4:
            raise ValueError(f"frame has shape {tuple(frame.shape)}: expected B 3 H W")
        logits, _, memory = self._advance(frame, memory, decode=True, remember=remember)
        return logits, memory

    def _advance(
        self, frame: Tensor, memory: Memory | None, decode: bool, remember: bool
    ) -> tuple[Tensor | None, Tensor | None, Memory | None]:
        """One frame: its logits, the auxiliary logits where the structure has them, and the memory after it."""
        config, size = self.config, tuple(frame.shape[-2:])
        self.check_sides(size)
        encoded = self.encoder(frame)  # B F+U h w
        if config.baseline:
            return (self.decoder(encoded, size) if decode else None), None, None
        features, around = self.parted(encoded)  # B F h w, B U h w

        if config.memorize_first:
            memory = self._remembered(features, memory)
        read, fused = None, features
        if memory is not None and (decode or config.structure == "original_kv_fusion"):
            key, value = self.query_head(features)  # B C h w, B D h w
            read = self.read(key, memory)  # B D h w
            if config.structure != "mem_only":
                fused = self.fusion(value, read)  # B F h w
        logits = aux_logits = None
        if decode:
            logits, aux_logits = self._decoded(fused, read, around, size)
        if remember and not config.memorize_first:
            memory = self._remembered(fused if config.structure == "original_kv_fusion" else features, memory)
        return logits, aux_logits, memory

    def read(self, key: Tensor, memory: Memory) -> Tensor:
        """What the attention reads from the memory for query keys ``B C h w``: values ``B D h w``."""
        if memory.keys.shape[0] != key.shape[0] or memory.keys.shape[-2:] != key.shape[-2:]:
            raise ValueError(
                f"the memory holds {memory.keys.shape[0]} videos with features of {tuple(memory.keys.shape[-2:])}, "
                f"the frame has {key.shape[0]} with {tuple(key.shape[-2:])}: start the memory anew with None"
            )
        sink = self.attention_constant if self.config.learnable_constant else None
        if not self.config.local:
            return global_attention(key, memory.keys, memory.values, sink=sink)
        window, backend = self.config.corr_size, self.config.attention_backend

        def attend(values: Tensor) -> Tensor:
            return local_attention(key, memory.keys, values, window=window, sink=sink, backend=backend)

        return inside_of_the_frame(attend, memory.values) if self.config.mask_border else attend(memory.values)

    def parted(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """What goes through the memory, and what goes round it: most often nothing."""
        traits = self.config.traits
        if encoded.dim() != 4 or encoded.shape[1] != traits.features + traits.around:
            raise ValueError(
                f"the encoder of {self.config.backbone} gives {tuple(encoded.shape)}: expected B F h w with "
                f"{traits.features + traits.around} channels, as its traits say"
            )
        return encoded[:, : traits.features], encoded[:, traits.features :]

    def _decoded(
        self, fused: Tensor, read: Tensor | None, around: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        structure = self.config.structure
        if structure == "mem_only" and read is not None:
            return self.memory_decoder(_beside(read, around), size), None
        wants_aux = structure == "aux_mem_loss" and self.training and read is not None
        aux_logits = self.memory_decoder(_beside(read, around), size) if wants_aux else None
        return self.decoder(_beside(fused, around), size), aux_logits

    def _remembered(self, features: Tensor, memory: Memory | None) -> Memory:
        starts_fused_memory = self.config.structure == "original_kv_fusion" and memory is None
        head = self.init_head if starts_fused_memory else self.memory_head
        key, value = head(features)
        return self.push(memory, key, value, self.config.memory_size)

    def _picked_positions(self, window: int) -> list[int]:
        positions = self.config.frame_positions(window)
        if positions is not None:
            return positions
        past = torch.randperm(window - 1)[: self.config.memory_size].sort().values.tolist()
        return [*past, window - 1]

    def check_sides(self, size: tuple[int, int]) -> None:
        """Raises ``ValueError`` for a height and width of frames that the backbone does not take."""
        for name, side in zip(("height", "width"), size, strict=True):
            nearest = self.config.traits.nearest_sides(side)
            if side not in nearest:
                choices = " or ".join(str(allowed) for allowed in nearest)
                raise ValueError(f"the frame's {name} is {side}: {self.config.backbone} takes {choices}")


def inside_of_the_frame(attend: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """What ``attend`` reads from values ``B D T h w``, ``B D h w``, as if neighbors outside took no part."""
    # Reads a one where it reads inside of the frame: what comes back is the share that the border left over.
    read = attend(F.pad(values, (0, 0, 0, 0, 0, 0, 0, 1), value=1.0))  # B D+1 h w
    return read[:, :-1] / read[:, -1:].clamp(min=torch.finfo(read.dtype).tiny)


def _beside(x: Tensor, around: Tensor) -> Tensor:
    """What goes through the memory and what goes round it, B C h w and B U h w -> B C+U h w."""
    return torch.cat([x, around], dim=1) if around.shape[1] else x


def build_lmanet(config: LMANetConfig) -> LMANet:
    """The network that a configuration describes, with fresh weights."""
    return LMANet(config)
