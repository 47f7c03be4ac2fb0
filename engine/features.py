"""Features of a frozen encoder, computed once for each frame and transform, and kept on disk (``--cache-features``)."""

import hashlib
import logging
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datasets.clip_dataset import ClipDataset, Sample
from datasets.feature_cache import FeatureCache
from engine.agreement import digest_of_weights
from engine.loading import PADDING, clip_indices
from engine.options.settings import Settings
from models.lmanet import EncodedFrame, LMANet
from models.normalize import network_input
from utils.errors import OptionError
from utils.files import writable_folder

log = logging.getLogger(__name__)

_ALIGNED = 16  # bytes, so that a level can be viewed as numbers where it lies


@dataclass(frozen=True)
class _Level:
    """One of the tensors that an encoder returns: its shape without B, its dimensions in the order in which they lie in
    memory, its type, the type that is stored, and where its bytes begin."""

    shape: torch.Size
    order: tuple[int, ...]
    dtype: torch.dtype
    stored: torch.dtype
    start: int

    @property
    def num_bytes(self) -> int:
        return int(math.prod(self.shape)) * int(self.stored.itemsize)

    def packed(self, level: Tensor) -> Tensor:
        """The bytes ``B N`` of a level ``B ...``, up to the beginning of the next one.

        Raises ``OptionError`` for values that float16 does not reach.
        """
        content = level.permute(0, *(d + 1 for d in self.order)).to(self.stored).contiguous().flatten(1)
        if self.stored != self.dtype and not bool(content.isfinite().all()):
            raise OptionError(
                f"--feature-precision float16: the encoder returns {level.abs().max().item():g}, expected up to "
                f"{torch.finfo(self.stored).max:g}: keep its features in float32"
            )
        return F.pad(content.view(torch.uint8), (0, _padding(self.num_bytes)))

    def unpacked(self, rows: Tensor) -> Tensor:
        """The level ``B ...``, in the encoder's own order in memory, of the bytes ``B N`` of all levels."""
        content = rows[:, self.start : self.start + self.num_bytes].contiguous().view(self.stored)
        content = content.view(-1, *(self.shape[d] for d in self.order))
        back = sorted(range(len(self.order)), key=lambda d: self.order[d])
        return content.permute(0, *(d + 1 for d in back)).to(self.dtype)


class FrozenEncoder:
    """The encoder of a network, in evaluation mode, and how what it returns for frames of a size is packed.

    ``key`` differs for encoders whose features differ, be it in their last bit: by their weights, normalization,
    precision, device, code or version of PyTorch. With ``halves`` float32 is stored as float16, and used so.
    """

    def __init__(
        self,
        model: LMANet,
        size: tuple[int, int],
        device: torch.device,
        amp: str | None = None,
        halves: bool = False,
    ):
        self._encoder, self._traits, self.size, self.device = model.encoder, model.config.traits, size, device
        self._amp = getattr(torch, amp) if amp else None
        training = self._encoder.training
        self._encoder.eval()
        levels = self.encoded(torch.zeros(1, 3, *size, dtype=torch.uint8))
        self._encoder.train(training)
        self._is_tuple = isinstance(levels, tuple)
        self._levels: list[_Level] = []
        self.num_bytes = 0
        for level in levels if isinstance(levels, tuple) else (levels,):
            stored = torch.float16 if halves and level.dtype == torch.float32 else level.dtype
            made = _Level(level.shape[1:], _memory_order(level[0]), level.dtype, stored, self.num_bytes)
            self._levels.append(made)
            self.num_bytes += made.num_bytes + _padding(made.num_bytes)
        self.key = self._key(halves)

    @torch.no_grad()
    def encoded(self, frames: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What the encoder returns for frames uint8 ``B 3 H W``."""
        assert not self._encoder.training
        with torch.autocast(self.device.type, self._amp, enabled=self._amp is not None):
            found: Tensor | tuple[Tensor, ...] = self._encoder(network_input(frames, self._traits, self.device))
        return found

    @torch.no_grad()
    def packed(self, frames: Tensor) -> Tensor:
        """The features of frames uint8 ``B 3 H W`` as bytes ``B N``, on the device."""
        levels = self.encoded(frames)
        levels = levels if isinstance(levels, tuple) else (levels,)
        return torch.cat([each.packed(level) for each, level in zip(self._levels, levels, strict=True)], dim=1)

    def unpacked(self, rows: Tensor) -> EncodedFrame:
        """The encoder's output that bytes ``B N`` hold."""
        levels = tuple(level.unpacked(rows) for level in self._levels)
        return EncodedFrame(levels if self._is_tuple else levels[0], self.size)

    def _key(self, halves: bool) -> str:
        if self.device.type == "cuda":
            where = f"{torch.cuda.get_device_name(self.device)}, TF32 {torch.backends.cudnn.allow_tf32}"
        else:
            where = torch.backends.cpu.get_cpu_capability()
        described = (
            *(str(self._encoder), _digest_of_code(self._encoder), digest_of_weights(self._encoder)),
            *(self._traits.mean, self._traits.std),
            *(torch.__version__, self.device.type, where, self._amp, halves, self._levels),
        )
        return hashlib.sha256(repr(described).encode()).hexdigest()[:16]


def _digest_of_code(part: nn.Module) -> str:
    """A digest of the files that hold the classes of a network's modules, be it a library's or a plugin's."""
    names = {type(each).__module__ for each in part.modules()}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in names}
    digest = hashlib.sha256()
    for file in sorted(filter(None, files)):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()


def _padding(num_bytes: int) -> int:
    return -num_bytes % _ALIGNED


def _memory_order(level: Tensor) -> tuple[int, ...]:
    """The dimensions of a tensor, the one with the largest stride first; as they are where that is not dense."""
    order = tuple(sorted(range(level.dim()), key=lambda d: -level.stride()[d]))
    return order if level.permute(order).is_contiguous() else tuple(range(level.dim()))


class StoredFeatures:
    """The features of the frames of clips: from the folder, or from the encoder, and then into the folder.

    ``clips`` are the clips to load: their samples hold the features that are stored.
    """

    def __init__(self, encoder: FrozenEncoder, cache: FeatureCache, clips: ClipDataset, shows_last_frame: bool = False):
        self.encoder, self.cache = encoder, cache
        self.clips = clips.with_features(cache, shows_last_frame)

    def frames(self, sample: Sample, epoch: int = 0) -> list[EncodedFrame]:
        """The S frames of B clips; those that were not stored are encoded, and stored."""
        places = range(sample.frames.shape[1])
        return [self.encoder.unpacked(self._rows(sample, place, epoch)) for place in places]

    def _rows(self, sample: Sample, place: int, epoch: int) -> Tensor:
        """The bytes ``B N`` of the clips' frames at a place."""
        rows = sample.features[:, place].to(self.encoder.device, non_blocking=True)
        missing = [number for number, has in enumerate(sample.has_features[:, place].tolist()) if not has]
        if not missing:
            return rows
        rows, indices = rows.clone(), clip_indices(sample).tolist()  # clips that run at the same time share the sample
        for number in missing:
            # Alone, so that a frame has the same features in any batch.
            rows[number] = self.encoder.packed(sample.frames[number, place][None])[0]
            if indices[number] != PADDING:
                item = epoch, indices[number]
                self.clips.store_features(rows[number].cpu(), item, place, sample.stamps[number, place])
        return rows

    def size_text(self, variants: int) -> str:
        """How much the folder may hold for these clips, and what is free."""
        frames = len({frame for clip in self.clips.clips for frame in clip.frames})
        most = frames * variants * self.encoder.num_bytes
        free = shutil.disk_usage(self.cache.folder).free
        return (
            f"{self.cache.folder}: features of up to {frames} frames in {variants} variants, {_size(most)} "
            f"({_size(self.encoder.num_bytes)} each, {_size(free)} are free)"
        )


def _size(count: int) -> str:
    gibibytes = count / (1 << 30)
    return f"{gibibytes:.1f} GiB" if gibibytes >= 1 else f"{1024 * gibibytes:.2g} MiB"


def stored_features(
    settings: Settings,
    model: LMANet,
    clips: ClipDataset,
    device: torch.device,
    trains: bool,
    beside: StoredFeatures | None = None,
) -> StoredFeatures | None:
    """The features of clips that a network trains on, or is validated on; ``None`` without ``--cache-features``.

    Those ``beside`` them, of the same encoder, share their folder.
    """
    wanted = settings.data.features
    if wanted is None:
        return None
    # A validation is in float32, whatever the training computes in.
    amp = settings.train.amp if trains else None
    encoder = FrozenEncoder(model, settings.data.work_size, device, amp, wanted.precision == "float16")
    if beside is not None and beside.encoder.key == encoder.key:
        cache = beside.cache
    else:
        folder = writable_folder(wanted.folder, "--cache-features") / encoder.key
        cache = FeatureCache(folder, encoder.num_bytes)
    found = StoredFeatures(encoder, cache, clips, shows_last_frame=not trains)
    log.info("%s", found.size_text(wanted.variants if trains else 1))
    return found
