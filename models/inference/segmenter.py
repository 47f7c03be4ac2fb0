"""A video in, labels out, one frame at a time: the network, its memory and the sizes, for programs of any kind."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import LMANetConfig
from models.inference.fast_copy import fast_copy
from models.inference.int8 import quantize
from models.lmanet import LMANet, build_lmanet
from models.weights.files import load_weights
from utils.errors import OptionError, WeightsError


class VideoSegmenter:
    """Labels the frames of one video, one after the other, with a memory of constant size.

    ``weights`` is a weight file, its state dict, or a network. ``work_size`` is the height and width that frames are
    resized to for the network (default: the backbone's); ``every`` says that every how many frames one is memorized;
    ``compiled`` and ``amp`` make it faster (see ``fast_copy``; ``amp`` computes in 16 bits), and so do ``int8_frames``,
    on the CPU: about 16 frames like those to come, by which encoder and decoder are quantized (see ``int8.py``).
    Further names are those of ``LMANetConfig``, such as ``memory_size=4``. Not for use by several threads at once.

    Raises ``WeightsError`` for a file that does not fit, or that would leave the memory untrained, ``OptionError`` for
    settings that cannot be.
    """

    def __init__(
        self,
        weights: str | Path | Mapping[str, Tensor] | LMANet,
        backbone: str = "erf",
        device: str | torch.device = "cpu",
        work_size: tuple[int, int] | None = None,
        every: int = 1,
        compiled: bool = False,
        amp: bool = False,
        int8_frames: Iterable[np.ndarray] | None = None,
        **network: object,
    ):
        model = weights if isinstance(weights, LMANet) else loaded_network(weights, backbone, **network)
        refuse_untrained_memory(model)
        if every < 1:
            raise OptionError(f"every is {every}: expected 1 frame or more, for example 1")
        self.device, self.every = torch.device(device), every
        self.traits = model.config.traits
        self.work_size = tuple(work_size or self.traits.work_size)
        if int8_frames is not None and (compiled or amp or self.device.type != "cpu"):
            other = "compiled" if compiled else "amp" if amp else f"device {self.device}"
            raise OptionError(
                f"int8 is for the CPU, by ONNX Runtime: it does not go with {other}, leave one of them out"
            )
        self.model = fast_copy(model.to(self.device), compiled)
        self.amp = amp
        if int8_frames is not None:
            quantize(self.model, [self._normalized(self.prepared(frame)).contiguous() for frame in int8_frames])
        self.reset()

    def reset(self) -> None:
        """Forgets all frames, as at the start of another video."""
        self._memory, self._position = None, 0

    def push(self, frame: np.ndarray) -> np.ndarray:
        """The labels of the next frame: RGB, uint8 ``H W 3`` in, train ids, uint8 ``H W`` out.

        Frames may have any size; labels come back in the frame's. Raises ``ValueError`` for another kind of array.
        """
        logits = self.logits(self.prepared(frame))
        return self.at_size(self.labels(logits), frame.shape[:2])

    def prepared(self, frame: np.ndarray) -> Tensor:
        """A frame, uint8 ``H W 3``, resized to the working size as Pillow's BILINEAR filter does: uint8 ``1 3 H W``."""
        is_array = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3
        if not is_array or frame.shape[2] != 3 or not frame.size:
            found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ValueError(f"frame is {found}: expected an array of RGB, uint8 of shape H W 3")
        # Tensors are neither mirrored views nor read-only; nothing is copied where the frame is a plain array.
        image = torch.from_numpy(np.require(frame, requirements=("C", "W"))).permute(2, 0, 1)[None]
        if image.shape[-2:] == self.work_size:
            return image
        return F.interpolate(image, size=self.work_size, mode="bilinear", antialias=True)

    @torch.inference_mode()
    def logits(self, image: Tensor) -> Tensor:
        """Logits ``1 K H W`` of the next prepared frame, which enters the memory if its turn has come."""
        with self._precision():
            remember = self._position % self.every == 0
            logits, self._memory = self.model.step(self._normalized(image), self._memory, remember)
        self._position += 1
        return logits

    @torch.inference_mode()
    def single_frame_logits(self, image: Tensor) -> Tensor:
        """Logits ``1 K H W`` of a prepared frame by encoder and decoder alone; the memory is neither read nor filled.

        Where these two were frozen in the training, this is the single-frame network that it started from.
        """
        with self._precision():
            return self.model.decoder(self.model.encoder(self._normalized(image)), self.work_size)

    def labels(self, logits: Tensor) -> np.ndarray:
        """Train ids, uint8 ``H W`` at the logits' size."""
        return logits[0].argmax(0).to(torch.uint8).cpu().numpy()

    def at_size(self, labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Labels brought to another height and width: each pixel's is the one that its center falls on."""
        if labels.shape == tuple(size):
            return labels
        rows, columns = (
            (2 * np.arange(wanted) + 1) * given // (2 * wanted)  # in whole numbers, so that nothing is rounded
            for wanted, given in zip(size, labels.shape, strict=True)
        )
        return labels.take(columns, axis=1).take(rows, axis=0)  # the smaller of the two steps first

    def _normalized(self, image: Tensor) -> Tensor:
        """As the network wants it: float32 in [0, 1], or by the backbone's mean and deviation."""
        image = image.to(self.device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last).div_(255)
        if self.traits.mean is not None:
            mean, std = (torch.tensor(x, device=self.device).view(3, 1, 1) for x in (self.traits.mean, self.traits.std))
            image = image.sub_(mean).div_(std)
        return image

    def _precision(self) -> AbstractContextManager:
        if not self.amp:
            return nullcontext()
        return torch.autocast(self.device.type, torch.float16 if self.device.type == "cuda" else torch.bfloat16)


def loaded_network(weights: str | Path | Mapping[str, Tensor], backbone: str = "erf", **network: object) -> LMANet:
    """A network with the weights of a file or a state dict; further names are those of ``LMANetConfig``."""
    model = build_lmanet(LMANetConfig(backbone=backbone, **network))
    load_weights(model, weights)
    return model


def has_untrained_memory(model: LMANet) -> bool:
    """Whether the weights were a single-frame network's, so that the memory starts fresh."""
    return model.origin is not None and any(name.startswith("memory_head.") for name in model.origin.fresh)


def refuse_untrained_memory(model: LMANet) -> None:
    """Raises ``WeightsError`` where the weights were a single-frame network's and the memory would be noise."""
    if has_untrained_memory(model):
        raise WeightsError(
            f"the weights are those of {model.origin.kind.label}: the memory would be untrained; "
            "run the single-frame network (--baseline-mode, baseline=True), or give the weights of a trained LMANet"
        )
