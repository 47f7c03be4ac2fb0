"""Gradients of a step over the clips of all processes: clip by clip on the CPU, in batches elsewhere."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from datasets.clip_dataset import Sample
from datasets.sampling import FOR_DROPOUT, seeded_generator
from engine.loading import PADDING, clip_indices
from engine.training.lockstep import Lockstep, prepare
from utils import distributed


class Part(NamedTuple):
    """Results for B clips: their share of the step's loss, and the class indices of their last frame ``B H W``."""

    loss: Tensor
    prediction: Tensor | None
    label: Tensor


# Called with a network and a batch of B clips.
PartOf = Callable[[nn.Module, Sample], Part]


class Learner(Protocol):
    """Computes the gradient of a step's loss, summed over the batches of all processes, into ``parameter.grad``."""

    def gradients(self, samples: Sequence[Sample], part_of: PartOf, epoch: int) -> list[Part]:
        """Returns the results of this process's batches, with detached losses; ``epoch`` seeds dropout."""
        ...


class BatchLearner:
    """Runs whole batches through the network; in several processes that is a ``DistributedDataParallel``, which
    overlaps the all-reduce with the backward."""

    def __init__(self, network: nn.Module, scaler: torch.amp.GradScaler):
        self.network, self.scaler = network, scaler

    def gradients(self, samples: Sequence[Sample], part_of: PartOf, epoch: int) -> list[Part]:
        parts, network = [], self.network
        for number, sample in enumerate(samples, start=1):
            # Gradients are all-reduced once, with those of the last batch.
            last = number == len(samples)
            with network.no_sync() if isinstance(network, DistributedDataParallel) and not last else nullcontext():
                part = part_of(network, sample)
                # The all-reduce averages over the processes.
                self.scaler.scale(part.loss * distributed.world_size()).backward()
            parts.append(part._replace(loss=part.loss.detach()))
        return parts


class ClipLearner:
    """Runs each clip by itself, with batch norms synchronized over all clips, and sums the gradients in float64.

    The trained weights are the same for any number of processes that split the clips of a step.
    """

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
            indices = clip_indices(sample).tolist()
            generators = [
                None if index == PADDING else seeded_generator(self.seed, epoch, index, FOR_DROPOUT)
                for index in indices
            ]
            results = self._lockstep.each(learned, single_clips(sample), generators, clips_of_all)
            for index, (part, found) in zip(indices, results, strict=True):
                _add(sums, found, counts=index != PADDING)
                parts.append(part)
        self._set_gradients(sums)
        return parts

    def _set_gradients(self, sums: Sequence[Tensor | None]) -> None:
        """All-reduces the sums into ``parameter.grad``; parameters that no loss depends on keep ``None``."""
        reached = [(parameter, each) for parameter, each in zip(self.parameters, sums, strict=True) if each is not None]
        if not reached:
            return
        over_all = distributed.all_reduce_sum(torch.cat([each.flatten() for _, each in reached]))
        for (parameter, _), each in zip(reached, over_all.split([p.numel() for p, _ in reached]), strict=True):
            parameter.grad = each.view(parameter.shape).to(parameter.dtype)


def counted(sample: Sample) -> int:
    """Number of clips in a batch that are not padding."""
    return int((clip_indices(sample) != PADDING).sum())


def single_clips(sample: Sample) -> list[Sample]:
    """The clips of a batch, each as a batch of one."""
    return [Sample(*fields) for fields in zip(*(torch.as_tensor(field).split(1) for field in sample), strict=True)]


def _add(sums: list[Tensor | None], found: Sequence[Tensor | None], counts: bool) -> None:
    """Adds a clip's gradients ``found`` to ``sums``, in float64; zeros where it does not count, as for padding."""
    for number, each in enumerate(found):
        if each is not None:
            own = each.double() if counts else torch.zeros_like(each, dtype=torch.float64)
            total = sums[number]
            sums[number] = own if total is None else total.add_(own)
