"""A memory that starts as good as the single-frame network: weights of its parts from the features of some clips.

Fresh heads and a fresh fusion hide what a trained encoder says from a trained decoder: the network starts at nothing
and spends its first epochs on becoming a single-frame network again. Here the first weights are computed from data
(as in Krähenbühl et al., *Data-dependent Initializations of Convolutional Neural Networks*, ICLR 2016):

- keys and values are the principal components of the features, scaled to unit variance: a query finds what is like it;
- the fusion adds up what it knows of query and read and turns it back into features, which the decoder knows.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from models.config import LMANetConfig
from models.fusion import GatedFusion, ReducedGateFusion
from models.lmanet import LMANet
from models.memory import KeyValueHead
from utils.errors import OptionError

READ_SHARE = 0.25  # of the fused features; the query has the rest
CLEARANCE = 4.0  # deviations by which prepared inputs stay clear of their ReLU, which would cut a component in half
GATE_SCALE = 0.1  # of a fresh gate's weights: gates start nearly the same everywhere
LEAST_VARIANCE = 1e-6  # of all: components below it are noise that scaling must not blow up


class Moments:
    """Mean and covariance of the channels of what it is shown, ``B C h w``, in float64; or the variance alone."""

    def __init__(self, covariance: bool = False):
        self.count, self.total, self.products, self.covariance_wanted = 0, 0.0, 0.0, covariance

    def add(self, x: Tensor) -> None:
        rows = x.detach().transpose(0, 1).flatten(1).double()  # C N
        self.count += rows.shape[1]
        self.total = self.total + rows.sum(1)
        self.products = self.products + (rows @ rows.T if self.covariance_wanted else (rows * rows).sum(1))

    @property
    def mean(self) -> Tensor:
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        return self.products / self.count - torch.outer(self.mean, self.mean)

    @property
    def variance(self) -> Tensor:
        return (self.products / self.count - self.mean**2).clamp(min=0)


@torch.no_grad()
def warm_start(model: LMANet, clips: Callable[[], Iterable[Tensor]], read_share: float = READ_SHARE) -> None:
    """Gives the memory's parts their first weights, in place; encoder and decoder must be trained ones.

    ``clips`` gives the same few clips, each ``B S 3 H W`` with S of 2 or more, whenever it is called: three times.
    ``read_share`` is the read's part in the fused features. Raises ``OptionError`` for a network whose decoder does not
    read the encoder's features: the structure ``mem_only`` and the fusion ``concat``.
    """
    _refuse_what_ends_elsewhere(model.config)
    was_training = model.training
    model.eval()
    features = Moments(covariance=True)
    _watch(model, clips, [(model.encoder, "out", lambda x: features.add(model.parted(x)[0]))])
    components = _components(features)
    for head in (model.query_head, model.memory_head, *([model.init_head] if hasattr(model, "init_head") else [])):
        _set_head(head, features, components)
    set_fusion = _set_reduced if isinstance(model.fusion, ReducedGateFusion) else _set_gated
    set_fusion(model, clips, features, components, read_share)
    _set_last_norm(model, clips)
    model.train(was_training)


def _refuse_what_ends_elsewhere(config: LMANetConfig) -> None:
    for found, option in (
        (config.baseline, "--baseline-mode"),
        (config.structure == "mem_only", f"--model-struct {config.structure}"),
        (config.fusion == "concat", f"--fusion-strategy {config.fusion}"),
    ):
        if found:
            raise OptionError(
                f"--warm-start with {option}: no memory ends in the single frame's features; leave it out"
            )


def _watch(
    model: LMANet, clips: Callable[[], Iterable[Tensor]], watched: Sequence[tuple[nn.Module, str, Callable]]
) -> None:
    """Runs the clips and shows what goes into (``in``) or comes out of (``out``) some modules to a function each."""
    hooks = [
        module.register_forward_pre_hook(lambda _, arguments, show=show: show(arguments[0]))
        if side == "in"
        else module.register_forward_hook(lambda _, arguments, output, show=show: show(output))
        for module, side, show in watched
    ]
    try:
        for clip in clips():
            model(clip, selected=True)
    finally:
        for hook in hooks:
            hook.remove()


def _components(features: Moments) -> Tensor:
    """Principal directions times their deviations, ``F F``, largest first: features are mean + components @ code."""
    values, directions = torch.linalg.eigh(features.covariance)
    values = values.clamp(min=LEAST_VARIANCE * values.sum())
    return (directions * values.sqrt()).flip(1)


def _set_head(head: KeyValueHead, features: Moments, components: Tensor) -> None:
    """Each convolution of a head gives as many codes as it has channels."""
    for conv in (head.key, head.value):
        if isinstance(conv, nn.Conv2d):
            basis = components[:, : conv.out_channels]
            encode = (basis / (basis**2).sum(0)).T  # of orthogonal columns: the transposed inverse
            _set_center(conv, encode, -encode @ features.mean)


def _set_center(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """The convolution looks at its own pixel alone; ``weight`` is ``C_out C_in``."""
    conv.weight.zero_()
    conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = weight.to(conv.weight)
    conv.bias.copy_(bias)


def _set_gated(
    model: LMANet, clips: Callable[[], Iterable[Tensor]], features: Moments, components: Tensor, read_share: float
) -> None:
    fusion: GatedFusion = model.fusion
    norms = [side[0] for side in (fusion.prepare_query, fusion.prepare_read) if isinstance(side, nn.Sequential)]
    seen = [Moments() for _ in norms]
    if norms:
        _watch(model, clips, [(norm, "in", moments.add) for norm, moments in zip(norms, seen, strict=True)])
    for norm, moments in zip(norms, seen, strict=True):
        _set_norm(norm, moments, slope=torch.ones_like(moments.mean), bias=moments.mean + CLEARANCE)
    decode = components[:, : model.config.value_channels]
    offset = features.mean - (CLEARANCE * decode.sum(1) if norms else 0.0)
    for conv, share in ((fusion.features_query, 1 - read_share), (fusion.features_read, read_share)):
        _set_center(conv, 2 * share * decode, 2 * share * offset)
    for gate in [fusion.gate_query] if fusion.one_gate else [fusion.gate_query, fusion.gate_read]:
        gate.weight.mul_(GATE_SCALE)
        gate.bias.fill_(0.0 if fusion.gate_activation is torch.sigmoid else 0.5)


def _set_reduced(
    model: LMANet, clips: Callable[[], Iterable[Tensor]], features: Moments, components: Tensor, read_share: float
) -> None:
    """Values are the features themselves: only the gates have to be set."""
    for gate, share in ((model.fusion.gate_query, 1 - read_share), (model.fusion.gate_read, read_share)):
        gate.weight.mul_(GATE_SCALE)
        gate.bias.fill_(torch.logit(torch.tensor(share)).item())


def _set_norm(norm: nn.BatchNorm2d, moments: Moments, slope: Tensor, bias: Tensor) -> None:
    """The norm becomes ``slope * (x - mean) + bias`` a channel, in evaluation and, for such batches, in training."""
    norm.running_mean.copy_(moments.mean)
    norm.running_var.copy_(moments.variance)
    norm.weight.copy_(slope * (moments.variance + norm.eps).sqrt())
    norm.bias.copy_(bias)


def _set_last_norm(model: LMANet, clips: Callable[[], Iterable[Tensor]]) -> None:
    """What comes out is, channel by channel, the straight line through what goes in that is nearest to the features."""
    fused, wanted, products, encoded = Moments(), Moments(), Moments(), []

    def note(x: Tensor) -> None:
        features = encoded[-1]
        fused.add(x)
        wanted.add(features)
        products.add(x.double() * features)

    def keep(x: Tensor) -> None:
        encoded[:] = [model.parted(x)[0]]

    _watch(model, clips, [(model.encoder, "out", keep), (model.fusion.norm, "in", note)])
    covariance = products.mean - fused.mean * wanted.mean
    slope = covariance / fused.variance.clamp(min=torch.finfo(torch.float32).tiny)
    _set_norm(model.fusion.norm, fused, slope, wanted.mean)
