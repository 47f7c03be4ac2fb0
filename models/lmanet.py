"""LMANet: encode a frame, read the memory, fuse, decode, remember (Paul et al., IROS 2021).

The network is stateless: the caller holds the memory of a video. A clip and a stream go through the same step.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.backbone import backbone_card
from models.config import LMANetConfig
from models.fusion import FUSIONS, ResidualFusion
from models.memory import FrameMemory, KeyValueHead, PaddedMemory, Push
from models.memory_read import MemoryRead
from models.shallow_decoder import ShallowDecoder
from models.weights.file_kinds import WeightsOrigin
from utils.class_set import ClassSet
from utils.errors import OptionError

# What reaches the decoder around the memory: channels of the features' own size, or levels of sizes of their own.
Skip = Tensor | tuple[Tensor, ...]


class EncodedFrame(NamedTuple):
    """What the encoder returned for frames ``B 3 H W``, and their height and width: it need not run again."""

    levels: Skip
    size: tuple[int, int]


class LMANet(nn.Module):
    """A single-frame network with a memory between its encoder and its decoder; see ``LMANetConfig``.

    ``classes`` and ``work_size`` (height and width of its frames) are saved with its weights.
    """

    def __init__(self, config: LMANetConfig, classes: ClassSet | None = None, work_size: tuple[int, int] | None = None):
        super().__init__()
        if not isinstance(config, LMANetConfig):
            raise OptionError(f"config is {config!r}: expected an LMANetConfig")
        self.config = config
        if work_size is not None:
            config.check_work_size(work_size)
        if classes is not None and classes.num_outputs != config.num_classes:
            raise ValueError(
                f"{len(classes.names)} classes need {classes.num_outputs} logits, not {config.num_classes}"
            )
        self.classes, self.work_size = classes, work_size
        self.origin: WeightsOrigin | None = None  # set by load_weights
        traits, backbone = config.traits, backbone_card(config.backbone).make(config)
        make_decoder = ShallowDecoder if config.shallow_decoder else backbone.make_decoder
        self.encoder = backbone.make_encoder()
        self.decoder = make_decoder(traits.features + traits.skip_channels, config.num_classes)
        if config.baseline:
            return
        self.read: nn.Module = MemoryRead(config)
        self.push: nn.Module = Push(config.memory_size)
        head_sizes = traits.features, traits.key_channels, config.value_channels
        memory_head, query_head = KeyValueHead(*head_sizes), KeyValueHead(*head_sizes)
        if config.align_weights:
            query_head.key.load_state_dict(memory_head.key.state_dict())
        self.memory_head: nn.Module = memory_head
        self.query_head: nn.Module = query_head
        make_fusion = ResidualFusion if config.is_residual else FUSIONS[config.fusion]
        self.fusion = make_fusion(config.value_channels)
        if config.learnable_constant:
            self.attention_constant = nn.Parameter(torch.zeros(1))
        if config.structure == "original_kv_fusion":
            self.init_head = KeyValueHead(*head_sizes)
        if config.structure in ("mem_only", "aux_mem_loss"):
            self.memory_decoder = make_decoder(config.value_channels + traits.skip_channels, config.num_classes)
        if config.structure == "mem_only":
            # Published files hold a fusion all the same.
            self.fusion.requires_grad_(False)

    def forward(self, clip: Tensor | Sequence[EncodedFrame], selected: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of the last frame of each clip, or of every processed frame with ``always_decode``.

        ``clip`` is ``B S 3 H W``, normalized for the backbone, or its S frames as the encoder returned them; returns
        ``B 1 K H W`` (``B S' K H W``), at the features' size with the shallow decoder. The memory strategy picks the
        frames; ``selected`` says that the clip holds the picked ones already. In training the structure
        ``aux_mem_loss`` returns a pair: the logits, and those of the last frame decoded from what was read alone.

        Raises ``ValueError`` for a clip that is not ``B S 3 H W`` with at least one frame.
        """
        if isinstance(clip, Sequence) and clip and all(isinstance(frame, EncodedFrame) for frame in clip):
            frames: list[Tensor | EncodedFrame] = list(clip)
        else:
            frames = list(_checked_frames("clip", clip, "B S 3 H W", " with S of 1 or more").unbind(1))
        if not selected:
            frames = [frames[position] for position in self._picked_positions(len(frames))]
        memory: FrameMemory | None = None
        all_logits: list[Tensor] = []
        aux_logits = None
        for position, frame in enumerate(frames):
            last = position == len(frames) - 1
            decode = last or self.config.always_decode
            logits, aux_logits, memory = self._advance(frame, memory, decode=decode, remember=not last)
            if logits is not None:
                all_logits.append(logits)
        stacked = torch.stack(all_logits, dim=1)
        if self.training and self.config.structure == "aux_mem_loss" and aux_logits is not None:
            return stacked, aux_logits.unsqueeze(1)
        return stacked

    def step(
        self, frame: Tensor | EncodedFrame, memory: FrameMemory | None = None, remember: bool = True
    ) -> tuple[Tensor, FrameMemory | None]:
        """Logits of one frame of a stream, and the memory for the next one, with this frame unless not ``remember``.

        ``frame`` is ``B 3 H W``, or that as the encoder returned it; ``memory`` is ``None`` for the first frame and
        what the last call returned after that; logits are ``B K H W``. Stepping through a clip ends in the logits of
        ``model(clip)``. In baseline mode there is no memory, and ``None`` is returned.

        Raises ``ValueError`` where frame and memory do not go together.
        """
        if not isinstance(frame, EncodedFrame):
            _checked_frames("frame", frame, "B 3 H W")
        logits, _, memory = self._advance(frame, memory, decode=True, remember=remember)
        assert logits is not None
        return logits, memory

    def memorize(self, frame: Tensor | EncodedFrame, memory: FrameMemory | None = None) -> FrameMemory | None:
        """The memory with one more frame ``B 3 H W``, which is not decoded; otherwise as ``step``."""
        _, _, memory = self._advance(frame, memory, decode=False, remember=True)
        return memory

    def single_frame(self, frame: Tensor) -> Tensor:
        """Logits ``B K H W`` of frames ``B 3 H W`` by encoder and decoder alone: the single-frame network."""
        return self.decoder(self.encoder(frame), tuple(frame.shape[-2:]))

    def _advance(
        self, frame: Tensor | EncodedFrame, memory: FrameMemory | None, decode: bool, remember: bool
    ) -> tuple[Tensor | None, Tensor | None, FrameMemory | None]:
        """One frame: its logits, the auxiliary logits where the structure has them, and the memory after it."""
        config = self.config
        size = frame.size if isinstance(frame, EncodedFrame) else (frame.shape[-2], frame.shape[-1])
        self.check_sides(size)
        if config.baseline:
            return (self.decoder(self._encoded(frame), size) if decode else None), None, None
        features, skip = self.split_skip(self._encoded(frame))  # B F h w, and B U h w or levels

        if config.memorize_first:
            memory = self._remembered(features, memory)
        read, fused = None, features
        if memory is not None and (decode or config.structure == "original_kv_fusion"):
            key, value = self.query_head(features)  # B C h w, B D h w
            sink = self.attention_constant if config.learnable_constant else None
            read = self.read(key, memory, sink)  # B D h w
            if config.structure != "mem_only":
                fused = self.fusion(value, read)  # B F h w
                if config.is_residual:
                    fused = features + fused
                if isinstance(memory, PaddedMemory):  # whether it holds a frame is known when the graph runs
                    fused = torch.where(memory.filled > 0, fused, features)
        if remember and not config.memorize_first:  # before decoding, while what is remembered is in the cache
            memory = self._remembered(fused if config.structure == "original_kv_fusion" else features, memory)
        logits = aux_logits = None
        if decode:
            logits, aux_logits = self._decoded(fused, read, skip, size)
        return logits, aux_logits, memory

    def _encoded(self, frame: Tensor | EncodedFrame) -> Skip:
        return frame.levels if isinstance(frame, EncodedFrame) else self.encoder(frame)

    def split_skip(self, encoded: Skip) -> tuple[Tensor, Skip]:
        """Features for the memory and skip features: ``B F+U h w`` -> ``B F h w`` and ``B U h w``, U is mostly 0; or a
        tuple of ``B F h w`` and levels of any size -> ``B F h w`` and these levels.

        Raises ``ValueError`` where the encoder's output contradicts the backbone's traits.
        """
        traits = self.config.traits
        first = encoded[0] if isinstance(encoded, tuple) else encoded
        if first.dim() != 4 or first.shape[1] != traits.features + traits.skip_channels:
            raise ValueError(
                f"the encoder of {self.config.backbone} returns {tuple(first.shape)}: expected B F h w with "
                f"{traits.features + traits.skip_channels} channels, as its traits say"
            )
        if isinstance(encoded, tuple):
            return first, encoded[1:]
        return encoded[:, : traits.features], encoded[:, traits.features :]

    def _decoded(
        self, fused: Tensor, read: Tensor | None, skip: Skip, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor | None]:
        structure = self.config.structure
        if structure == "mem_only" and read is not None:
            return self.memory_decoder(_with_skip(read, skip), size), None
        aux_logits = None
        if structure == "aux_mem_loss" and self.training and read is not None:
            aux_logits = self.memory_decoder(_with_skip(read, skip), size)
        return self.decoder(_with_skip(fused, skip), size), aux_logits

    def _remembered(self, features: Tensor, memory: FrameMemory | None) -> FrameMemory:
        starts_fused_memory = self.config.structure == "original_kv_fusion" and memory is None
        head = self.init_head if starts_fused_memory else self.memory_head
        key, value = head(features)
        return self.push(memory, key, value)

    def _picked_positions(self, window: int) -> list[int]:
        positions = self.config.frame_positions(window)
        if positions is not None:
            return positions
        past = torch.randperm(window - 1)[: self.config.memory_size].sort().values.tolist()
        return [*past, window - 1]

    def starts_fresh(self, part: str) -> bool:
        """Whether weights were loaded that lacked some whose names begin with ``part``, such as ``decoder.``."""
        return self.origin is not None and any(name.startswith(part) for name in self.origin.fresh)

    def check_sides(self, size: tuple[int, int]) -> None:
        """Raises ``ValueError`` for a height and width of frames that the backbone does not take."""
        for axis, (name, side) in enumerate(zip(("height", "width"), size, strict=True)):
            nearest = self.config.traits.nearest_sides(side, axis)
            if side not in nearest:
                choices = " or ".join(str(allowed) for allowed in nearest)
                raise ValueError(f"the frame's {name} is {side}: {self.config.backbone} takes {choices}")


def _checked_frames(name: str, frames: object, shape: str, rest: str = "") -> Tensor:
    """Raises ``ValueError`` for anything but normalized frames of such a shape: three channels of float numbers."""
    if not isinstance(frames, Tensor):
        raise ValueError(f"{name} is of type {type(frames).__name__}: expected a tensor {shape}{rest}")
    if frames.dim() != len(shape.split()) or frames.shape[-3] != 3 or 0 in frames.shape[:-3]:
        raise ValueError(f"{name} has shape {tuple(frames.shape)}: expected {shape}{rest}")
    if not frames.is_floating_point():
        raise ValueError(f"{name} is of {frames.dtype}: expected normalized frames, such as torch.float32 in [0, 1]")
    return frames


def _with_skip(x: Tensor, skip: Skip) -> Skip:
    """The decoder's input, as the encoder returns it: ``B C h w`` and skip features ``B U h w`` -> ``B C+U h w``, or
    and levels -> a tuple of all."""
    if isinstance(skip, tuple):
        return x, *skip
    return torch.cat([x, skip], dim=1) if skip.shape[1] else x


def build_lmanet(
    config: LMANetConfig, classes: ClassSet | None = None, work_size: tuple[int, int] | None = None
) -> LMANet:
    """The network that a configuration describes, with fresh weights.

    Raises ``ValueError`` where ``classes`` are others than the configuration's number.
    """
    return LMANet(config, classes, work_size)
