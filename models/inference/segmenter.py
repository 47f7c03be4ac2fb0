"""A video in, labels out, one frame at a time: the network, its memory and the sizes, for programs of any kind."""

import copy
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.choices import ENGINES, SMOOTHINGS, TORCH
from models.config import LMANetConfig
from models.enlarging import EnlargedDecoder, enlarged, stop_enlarging
from models.inference.bfloat16 import use_bfloat16
from models.inference.engines import check_engine, use_engine
from models.inference.fast_copy import fast_copy
from models.inference.int8 import quantize
from models.inference.labels import all_finite, checked_labels, labels_of
from models.inference.smoothing import Motion, Smoother
from models.lmanet import LMANet, build_lmanet
from models.memory import FrameMemory
from models.normalize import network_input
from models.weights.load import load_weights, read_weights
from utils.devices import usable_device
from utils.errors import OptionError, ScoresError, WeightsError
from utils.resize import resize_frames, resize_labels
from utils.sizes import height_width
from utils.transfer import fetched, pinned

log = logging.getLogger(__name__)

NOT_FINITE = "the network's scores are not finite (NaN or infinity)"


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one frame, computed on first access.

    ``decoded`` are the logits as the decoder returned them, ``1 K h w``; ``size``, ``H W``, says what they are to be
    enlarged to, and ``align_corners`` how. ``H W`` is the working size, or the features' with the shallow decoder.
    With smoothing there are also the ``smoothed`` probabilities ``K H W``, whose labels these are, and the ``motion``
    since the frame before (``None`` where a scene begins). Labels on the CPU raise ``ScoresError`` where a logit is NaN
    or infinite; tensors do not, as that would wait for a GPU.
    """

    decoded: Tensor
    smoothed: Tensor | None = None
    motion: Motion | None = None
    size: tuple[int, int] | None = None
    align_corners: bool = False

    @cached_property
    def logits(self) -> Tensor:
        """Logits ``1 K H W``, on the network's device."""
        return self.decoded if self.size is None else enlarged(self.decoded, self.size, self.align_corners)

    @cached_property
    def label_map(self) -> Tensor:
        """Class indices, uint8 ``H W``, on the network's device."""
        if self.smoothed is not None:
            return labels_of(self.smoothed[None], height_width(self.smoothed.shape))
        return self._checked_labels[0]

    @cached_property
    def is_finite(self) -> Tensor:
        """Whether all logits are finite: one element, on the network's device."""
        return all_finite(self.decoded) if self.smoothed is not None else self._checked_labels[1]

    @cached_property
    def _checked_labels(self) -> tuple[Tensor, Tensor]:
        """Labels of what the network alone predicts, and whether all logits are finite."""
        return checked_labels(self.decoded, self.size or height_width(self.decoded.shape), self.align_corners)

    @cached_property
    def labels(self) -> np.ndarray:
        """Class indices, uint8 ``H W``."""
        return self.fetched_labels()()

    def labels_at(self, size: tuple[int, int]) -> np.ndarray:
        """Class indices, uint8, at another height and width, such as those of the frame."""
        return self.fetched_labels(size)()

    def fetched_labels(self, size: tuple[int, int] | None = None) -> Callable[[], np.ndarray]:
        """A function that returns ``labels_at(size)``, or ``labels``; on a GPU they are enlarged and copied meanwhile.

        Any thread may call it.
        """
        label_map, device = self.label_map, self.decoded.device
        if size is None:
            labels = fetched(lambda: label_map, device)
        elif device.type == "cpu":
            labels = partial(_resized, label_map, size)  # by NumPy, which is faster here
        else:
            labels = fetched(lambda: resize_labels(label_map, size), device)
        is_finite = fetched(lambda: self.is_finite, device)

        def checked() -> np.ndarray:
            if not is_finite():
                raise ScoresError(f"{NOT_FINITE}: expected finite numbers; try other weights")
            return labels()

        return checked

    @cached_property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, or the smoothed ones, ``K H W``, on the network's device."""
        return self.logits[0].softmax(0) if self.smoothed is None else self.smoothed

    def without_smoothing(self) -> "Prediction":
        """What the network alone predicts."""
        return replace(self, smoothed=None, motion=None)

    def fetched_probabilities(self) -> Callable[[], np.ndarray]:
        """A function that returns the probabilities, float16 ``K H W``; as ``fetched_labels``."""
        return fetched(lambda: self.probabilities.half(), self.decoded.device)


def _resized(label_map: Tensor, size: tuple[int, int]) -> np.ndarray:
    return resize_labels(label_map.numpy(), size)


class VideoSegmenter:
    """Labels the frames of one video, one after the other, with a memory of constant size.

    ``weights`` is a weight file, its state dict, or a network. ``work_size`` is the height and width that frames are
    resized to for the network (default: the backbone's); one frame in ``every`` is memorized, the first one first;
    ``compiled`` and ``amp`` make it faster (see ``fast_copy``; ``amp`` computes in 16 bits: ``"float16"``,
    ``"bfloat16"``, or with ``True`` float16 on CUDA and bfloat16 elsewhere), and so do ``int8_frames``,
    on the CPU: about 16 frames like those to come, by which encoder and decoder are quantized (see ``int8.py``).
    ``engine`` is what computes the network, on the CPU: one of ``ENGINES`` (see ``engines.py``); of them OpenVINO
    computes in bfloat16 with ``amp``.

    ``smooth`` averages the probabilities over time (see ``smoothing.py``): ``average``, where they are, or ``flow``,
    along the motion of the video. ``smooth_weight`` is the share of the past, 0 or more and below 1 (default: 0.3 and
    0.95). It starts anew at scene cuts, or with ``detect_cuts=False`` only at ``reset()``.

    Further names are those of ``LMANetConfig``, such as ``memory_size=4``. Not for use by several threads at once.

    Raises ``WeightsError`` for a file that does not fit, or that would leave the memory or the decoder untrained, and
    ``OptionError`` for invalid settings.
    """

    def __init__(
        self,
        weights: str | Path | Mapping[str, Tensor] | LMANet,
        backbone: str | None = None,
        device: str | torch.device = "cpu",
        work_size: tuple[int, int] | None = None,
        every: int = 1,
        compiled: bool = False,
        amp: bool | str = False,
        int8_frames: Iterable[np.ndarray] | None = None,
        engine: str = TORCH,
        smooth: str | None = None,
        smooth_weight: float | None = None,
        detect_cuts: bool = True,
        **network: object,
    ):
        if backbone is not None:
            network["backbone"] = backbone
        if isinstance(weights, LMANet) and network:
            given = ", ".join(f"{name}={value!r}" for name, value in network.items())
            raise OptionError(f"{given}: the network that is given has fields of its own: leave it out")
        model = weights if isinstance(weights, LMANet) else loaded_network(weights, **network)
        refuse_untrained(model)
        _check_every(every, model.config)
        self.device, self.every = usable_device(device), every
        self.traits = model.config.traits
        wanted = model.work_size or self.traits.work_size if work_size is None else work_size
        model.config.check_work_size(wanted)
        height, width = wanted
        self.work_size = int(height), int(width)
        self.classes = model.classes
        self.smoother = None
        if smooth is not None:
            self.smoother = Smoother(smooth, smooth_weight, self.work_size, self.device, detect_cuts)
        elif smooth_weight is not None:
            raise OptionError(f"smooth_weight is {smooth_weight} without smooth: add smooth={SMOOTHINGS[-1]!r}")
        if int8_frames is not None and (compiled or amp or self.device.type != "cpu"):
            other = "compiled" if compiled else "amp" if amp else f"device {self.device}"
            raise OptionError(
                f"int8 is for the CPU, by ONNX Runtime: it does not go with {other}, leave one of them out"
            )
        self.amp = _amp_dtype(amp, self.device)
        if engine not in ENGINES:
            raise OptionError(f"engine is {engine!r}: expected one of {', '.join(ENGINES)}")
        others = {
            "compiled": compiled,
            "int8": int8_frames is not None,
            f"device {self.device}": self.device.type != "cpu",
        }
        check_engine(engine, self.amp, others)
        self.engine = engine
        self.model = fast_copy(model.to(self.device), compiled)
        # On the CPU labels are found faster in logits that are not enlarged.
        self._align_corners = None
        if self.device.type == "cpu" and not hasattr(self.model, "memory_decoder"):
            self._align_corners = stop_enlarging(self.model.decoder)
        if engine != TORCH:
            use_engine(self.model, engine, self.work_size, self.amp)
        elif self.amp == torch.bfloat16 and self.device.type == "cpu" and not compiled:
            why_not = use_bfloat16(self.model)
            log.info("bfloat16 by %s", "the compiled library" if why_not is None else f"PyTorch alone: {why_not}")
        if int8_frames is not None:
            quantize(self.model, [self._normalized(self.prepare(frame)).contiguous() for frame in int8_frames])
        self.reset()

    def reset(self) -> None:
        """Clears the memory and the average over time, for the start of another video."""
        self._memory: FrameMemory | None = None
        self._position = 0
        if self.smoother is not None:
            self.smoother.reset()

    def push(self, frame: np.ndarray) -> np.ndarray:
        """The labels of the next frame: RGB, uint8 ``H W 3`` -> class indices, uint8 ``H W``.

        Frames may have any size; labels have the frame's. Raises ``ValueError`` for another kind of array.
        """
        return self.step(self.prepare(frame)).labels_at(frame.shape[:2])

    def prepare(self, frame: np.ndarray) -> Tensor:
        """A frame, uint8 ``H W 3``, resized to the working size as Pillow's BILINEAR filter does: uint8 ``1 3 H W``.

        The memory takes no part: another thread may prepare frames ahead. Raises ``ValueError`` for another kind of
        array.
        """
        is_array = isinstance(frame, np.ndarray) and frame.dtype == np.uint8 and frame.ndim == 3
        if not is_array or frame.shape[2] != 3 or not frame.size:
            found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise ValueError(f"frame is {found}: expected an array of RGB, uint8 of shape H W 3")
        # Tensors are neither mirrored views nor read-only; nothing is copied where the frame is a plain array.
        image = torch.from_numpy(np.require(frame, requirements=("C", "W"))).permute(2, 0, 1)[None]
        return pinned(resize_frames(image, self.work_size), self.device)

    @torch.inference_mode()
    def step(self, image: Tensor, use_memory: bool = True) -> Prediction:
        """The prediction for the next frame, which is memorized if it is one of ``every``.

        ``image`` is a prepared frame, uint8 ``1 3 H W`` at the working size. Without ``use_memory`` encoder and decoder
        predict alone, without smoothing, and the memory is neither read nor filled: where these two were frozen in the
        training, this is the single-frame network that it started from.

        Raises ``ValueError`` for another kind of tensor.
        """
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.shape != (1, 3, *self.work_size):
            found = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise ValueError(f"image is {found}: expected what prepare returns, uint8 {(1, 3, *self.work_size)}")
        with self._precision():
            frame = self._normalized(image)
            if not use_memory:
                return self._prediction(self.model.single_frame(frame))
            remember = self._position % self.every == 0
            logits, self._memory = self.model.step(frame, self._memory, remember)
        self._position += 1
        prediction = self._prediction(logits)
        if self.smoother is None:
            return prediction
        # On a GPU the network still computes while the motion is found on the CPU.
        motion = self.smoother.motion(image, height_width(prediction.logits.shape))
        smoothed = self.smoother.average(prediction.logits, motion)
        return replace(prediction, smoothed=smoothed, motion=motion)

    def enlarged_model(self) -> LMANet:
        """The network as it runs here, whose steps return logits of the working size."""
        if self._align_corners is None:
            return self.model
        model = copy.copy(self.model)
        model._modules = dict(self.model._modules)
        model.decoder = EnlargedDecoder(self.model.decoder, self._align_corners)
        return model

    def _prediction(self, logits: Tensor) -> Prediction:
        if self._align_corners is None:
            return Prediction(logits)
        return Prediction(logits, size=self.work_size, align_corners=self._align_corners)

    @torch.inference_mode()
    def first_part_not_finite(self, image: Tensor) -> str | None:
        """Name of the first part of the network (``encoder``, ``fusion``) whose output for a prepared frame is not
        finite, with that frame alone in the memory; ``None`` where there is none. Clears the memory."""
        found: list[str] = []

        def look(name: str, output: object) -> None:
            outputs = output if isinstance(output, tuple) else (output,)
            if not all(all_finite(each) for each in outputs if isinstance(each, Tensor) and each.numel()):
                found.append(name)

        hooks = [
            part.register_forward_hook(lambda module, inputs, output, name=name: look(name, output))
            for name, part in self.model.named_children()
        ]
        self.reset()
        try:
            for _ in range(2):  # the second time the memory is read
                self.step(image)
        finally:
            for hook in hooks:
                hook.remove()
            self.reset()
        return found[0] if found else None

    def _normalized(self, image: Tensor) -> Tensor:
        return network_input(image, self.traits, self.device, torch.channels_last)

    def _precision(self) -> AbstractContextManager:
        is_in_graphs = self.amp is None or self.engine != TORCH
        return nullcontext() if is_in_graphs else torch.autocast(self.device.type, self.amp)


def _check_every(every: int, config: LMANetConfig) -> None:
    if not isinstance(every, Integral) or isinstance(every, bool) or every < 1:
        raise OptionError(f"every is {every!r}: expected 1 or more")
    if every > 1 and (config.memorize_first or config.baseline):
        other = "memorize_first" if config.memorize_first else "baseline"
        raise OptionError(f"every={every} does not go with {other}=True: leave one of them out")


def _amp_dtype(amp: bool | str, device: torch.device) -> torch.dtype | None:
    names = {"float16": torch.float16, "bfloat16": torch.bfloat16}
    if isinstance(amp, bool):
        return names["float16" if device.type == "cuda" else "bfloat16"] if amp else None
    if amp not in names:
        raise OptionError(f"amp is {amp!r}: expected True, False, 'float16' or 'bfloat16'")
    return names[amp]


def loaded_network(weights: str | Path | Mapping[str, Tensor], **network: object) -> LMANet:
    """A network with the weights of a file or a state dict.

    ``network`` are fields of ``LMANetConfig``. Other fields are those of the file's options, else the defaults; the
    number of classes is that of the file's classifier. Raises ``WeightsError`` for fields that contradict the file.
    """
    file = read_weights(weights)
    fields: dict[str, Any] = {"backbone": "erf", **network}
    options = file.options
    if options is not None:
        fields |= options.inherited(network, trains=False, contradiction=partial(_contradiction, file.label))
    classes, work_size = (options.classes, options.work_size) if options else (None, None)
    backbone, shallow = fields["backbone"], fields.get("shallow_decoder", False)
    found = classes.num_outputs if classes else file.num_classes(backbone, shallow)
    given = fields.setdefault("num_classes", found)
    if given is None:
        raise WeightsError(f"{file.label}: holds no classifier of --backbone {backbone}: pass num_classes")
    if classes is not None and given != found:
        raise WeightsError(_contradiction(file.label, "num_classes", given, found))
    model = build_lmanet(LMANetConfig(**fields), classes, work_size)
    load_weights(model, file, other_classes=False)
    return model


def _contradiction(label: str, field: str, given: object, found: object) -> str:
    return f"{field}={given!r} contradicts {label}, whose network has {field}={found!r}: leave it out"


def has_untrained_memory(model: LMANet) -> bool:
    """Whether the weights were a single-frame network's, so that the memory starts fresh."""
    return model.starts_fresh("memory_head.")


def has_untrained_decoder(model: LMANet) -> bool:
    """Whether the weights were an encoder's alone, or those of the other sort of decoder."""
    return model.starts_fresh("decoder.") or model.starts_fresh("memory_decoder.")


def refuse_untrained(model: LMANet) -> None:
    """Raises ``WeightsError`` where the decoder would be noise, or the memory, as with a single-frame network's."""
    if model.origin is not None and has_untrained_decoder(model):
        raise WeightsError(
            f"the weights are those of {model.origin.kind.label} without this decoder, which would be untrained: give "
            "those of a whole network, with shallow_decoder (--shallow-dec) as it was trained"
        )
    if model.origin is not None and has_untrained_memory(model):
        raise WeightsError(
            f"the weights are those of {model.origin.kind.label}: the memory would be untrained; "
            "run the single-frame network (--baseline-mode, baseline=True), or give the weights of a trained LMANet"
        )
