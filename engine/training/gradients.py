"""Two ways to the gradients of a step over the clips of all processes: clip by clip on the CPU, else in batches."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from datasets.cityscapes import Sample
from datasets.sampling import FOR_DROPOUT, seeded_generator
from engine.training.lockstep import Lockstep, prepare
from utils import distributed

# The index of a sample that stands in for the clips that a process lacks.
STANDS_IN = -1


class Part(NamedTuple):
    """What came out for some clips: their share of the loss, their last frame's prediction and label ``B H W``."""

    loss: Tensor
    prediction: Tensor | None
    label: Tensor


# Called with a network and a sample of one or more clips.
PartOf = Callable[[nn.Module, Sample], Part]


class Learner(Protocol):
    """Leaves the gradient of a step's loss, summed over all parts of all processes, in the parameters."""

    def gradients(self, samples: Sequence[Sample], part_of: PartOf, epoch: int) -> list[Part]:
        """The parts of this process's samples, whose losses are detached."""
        ...


class BatchLearner:
    """Whole batches go through the network, or what spreads it over several processes; gradients are exchanged while
    they are computed."""

    def __init__(self, network: nn.Module, scaler: torch.amp.GradScaler):
        self.network, self.scaler = network, scaler

    def gradients(self, samples: Sequence[Sample], part_of: PartOf, epoch: int) -> list[Part]:
        parts = []
        spread = isinstance(self.network, DistributedDataParallel)
        for number, sample in enumerate(samples, start=1):
            # Exchanged once, with those of the last batch.
            with self.network.no_sync() if spread and number < len(samples) else nullcontext():
                part = part_of(self.network, sample)
                # The processes' gradients are averaged.
                self.scaler.scale(part.loss * distributed.world_size()).backward()
            parts.append(part._replace(loss=part.loss.detach()))
        return parts


class ClipLearner:
    """Each clip goes through the model alone, and all meet in its batch norms; gradients are summed in double. The
    weights then become the same for any number of processes that share the clips of a step."""

    def __init__(self, model: nn.Module, batch_size: int, seed: int):
        prepare(model)
        self.model, self.seed = model, seed
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._lockstep = Lockstep(batch_size)

    def gradients(self, samples: Sequence[Sample], part_of: PartOf, epoch: int) -> list[Part]:
        sums: list[Tensor | None] = [None] * len(self.parameters)
        clips = distributed.all_reduce_sum(torch.tensor([counted(sample) for sample in samples])).tolist()
        parts = []

        def learned(clip: Sample) -> tuple[Part, Sequence[Tensor | None]]:
            part = part_of(self.model, clip)
            found = torch.autograd.grad(part.loss, self.parameters, allow_unused=True)
            return part._replace(loss=part.loss.detach()), found

        for sample, clips_of_all in zip(samples, clips, strict=True):
            indices = sample.index.tolist()
            generators = [
                None if index == STANDS_IN else seeded_generator(self.seed, epoch, index, FOR_DROPOUT)
                for index in indices
            ]
            results = self._lockstep.each(learned, single_clips(sample), generators, clips_of_all)
            for index, (part, found) in zip(indices, results, strict=True):
                _add(sums, found, counts=index != STANDS_IN)
                parts.append(part)
        self._exchange(sums)
        return parts

    def _exchange(self, sums: Sequence[Tensor | None]) -> None:
        reached = [(parameter, each) for parameter, each in zip(self.parameters, sums, strict=True) if each is not None]
        if not reached:
            return
        over_all = distributed.all_reduce_sum(torch.cat([each.flatten() for _, each in reached]))
        for (parameter, _), each in zip(reached, over_all.split([p.numel() for p, _ in reached]), strict=True):
            parameter.grad = each.view(parameter.shape).to(parameter.dtype)


def counted(sample: Sample) -> int:
    """How many clips of a sample are not stand-ins."""
    return int((sample.index != STANDS_IN).sum())


def single_clips(sample: Sample) -> list[Sample]:
    return [Sample(*fields) for fields in zip(*(field.split(1) for field in sample), strict=True)]


def _add(sums: list[Tensor | None], found: Sequence[Tensor | None], counts: bool) -> None:
    """Adds a clip's gradients to the sums; zeros where it does not count."""
    for number, each in enumerate(found):
        if each is not None:
            own = each.double() if counts else torch.zeros_like(each, dtype=torch.float64)
            sums[number] = own if sums[number] is None else sums[number].add_(own)
