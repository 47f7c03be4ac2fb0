"""Data-dependent initialization of the memory: training starts at the accuracy of the single-frame network.

Randomly initialized heads and fusion cut a trained decoder off from its trained encoder: the network spends its first
epochs on becoming a single-frame network again. Here the initial weights are computed from data (as in Krähenbühl et
al., *Data-dependent Initializations of Convolutional Neural Networks*, ICLR 2016):

- keys and values are the principal components of the features, scaled to unit variance: a query matches similar keys;
- the fusion sums query and read and maps them back to features, which the decoder was trained on. (The residual one
  starts as the single frame by itself: there only the keys are set.)
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from models.config import LMANetConfig
from models.fusion import GatedFusion, ReducedGateFusion
from models.lmanet import LMANet
from models.memory import KeyValueHead
from utils.errors import OptionError

READ_SHARE = 0.25  # of the fused features; the rest is the query's
CLEARANCE = 4.0  # standard deviations from prepared inputs to their ReLU, which would cut off half of a component
GATE_SCALE = 0.1  # of a fresh gate's weights: gates start nearly constant over the frame
LEAST_VARIANCE = 1e-6  # share of the total: components below it are noise that scaling must not amplify

Clips = Callable[[], Iterable[Tensor]]


class Moments:
    """Mean and covariance of the channels of tensors ``B C h w``, in float64; or the variance alone."""

    def __init__(self, covariance: bool = False):
        self.count, self.covariance_wanted = 0, covariance
        self.total = self.products = torch.zeros((), dtype=torch.float64)

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
def warm_start(model: LMANet, clips: Clips, read_share: float = READ_SHARE) -> None:
    """Initializes the memory's parts, in place; encoder and decoder must be trained.

    ``clips`` returns the same few clips, each ``B S 3 H W`` with S of 2 or more, at each of its three calls.
    ``read_share`` is the read's share of the fused features. Raises ``OptionError`` for a network whose decoder does
    not read the encoder's features: the structure ``mem_only`` and the fusion ``concat``.
    """
    _check_decoder_reads_features(model.config)
    was_training = model.training
    model.eval()
    features = Moments(covariance=True)
    _watch(model, clips, [(model.encoder, "out", lambda x: features.add(model.split_skip(x)[0]))])
    components = _components(features)
    for head in (model.query_head, model.memory_head, *([model.init_head] if hasattr(model, "init_head") else [])):
        _set_head(head, features, components)
    if model.config.is_residual:
        model.train(was_training)
        return  # its fusion starts as the single frame, whatever the keys
    set_fusion = _set_reduced if isinstance(model.fusion, ReducedGateFusion) else _set_gated
    set_fusion(model, clips, features, components, read_share)
    _set_last_norm(model, clips)
    model.train(was_training)


def _check_decoder_reads_features(config: LMANetConfig) -> None:
    for found, option in (
        (config.baseline, "--baseline-mode"),
        (config.structure == "mem_only", f"--model-struct {config.structure}"),
        (config.fusion == "concat", f"--fusion-strategy {config.fusion}"),
    ):
        if found:
            raise OptionError(
                f"--warm-start with {option}: no memory ends in the single frame's features; leave it out"
            )


def _watch(model: LMANet, clips: Clips, watched: Sequence[tuple[nn.Module, str, Callable[[Tensor], None]]]) -> None:
    """Runs the clips and calls a function with the input (``in``) or output (``out``) of each module."""
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
    """Principal directions times their standard deviations, ``F F``, largest first: x = mean + components @ code."""
    values, directions = torch.linalg.eigh(features.covariance)
    values = values.clamp(min=LEAST_VARIANCE * values.sum())
    return (directions * values.sqrt()).flip(1)


def _set_head(head: nn.Module, features: Moments, components: Tensor) -> None:
    """Each convolution of a head returns the first principal components, as many as it has channels."""
    assert isinstance(head, KeyValueHead)
    for conv in (head.key, head.value):
        if isinstance(conv, nn.Conv2d):
            basis = components[:, : conv.out_channels]
            encode = (basis / (basis**2).sum(0)).T  # of orthogonal columns: the transposed inverse
            _set_center(conv, encode, -encode @ features.mean)


def _set_center(conv: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    """The kernel is 0 but for its center, which is ``weight``, ``C_out C_in``."""
    assert conv.bias is not None
    conv.weight.zero_()
    conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] = weight.to(conv.weight)
    conv.bias.copy_(bias)


def _set_gated(model: LMANet, clips: Clips, features: Moments, components: Tensor, read_share: float) -> None:
    fusion = model.fusion
    assert isinstance(fusion, GatedFusion)
    layers = [*fusion.prepare_query.children(), *fusion.prepare_read.children()]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm2d)]
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
        _set_gate(gate, 0.0 if fusion.gate_activation is torch.sigmoid else 0.5)


def _set_reduced(model: LMANet, clips: Clips, features: Moments, components: Tensor, read_share: float) -> None:
    """Values are the features themselves: only the gates are set."""
    fusion = model.fusion
    assert isinstance(fusion, ReducedGateFusion)
    for gate, share in ((fusion.gate_query, 1 - read_share), (fusion.gate_read, read_share)):
        _set_gate(gate, torch.logit(torch.tensor(share)).item())


def _set_gate(gate: nn.Conv2d, bias: float) -> None:
    assert gate.bias is not None
    gate.weight.mul_(GATE_SCALE)
    gate.bias.fill_(bias)


def _set_norm(norm: nn.BatchNorm2d, moments: Moments, slope: Tensor, bias: Tensor) -> None:
    """The norm becomes ``slope * (x - mean) + bias`` by channel, in evaluation and, for such batches, in training."""
    assert norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.copy_(moments.mean)
    norm.running_var.copy_(moments.variance)
    norm.weight.copy_(slope * (moments.variance + norm.eps).sqrt())
    norm.bias.copy_(bias)


def _set_last_norm(model: LMANet, clips: Clips) -> None:
    """Output of the fusion's norm: by channel, the least-squares linear fit of the features to the norm's input."""
    fusion = model.fusion
    assert isinstance(fusion, GatedFusion | ReducedGateFusion)
    fused, wanted, products = Moments(), Moments(), Moments()
    encoded: list[Tensor] = []

    def note(x: Tensor) -> None:
        features = encoded[-1]
        fused.add(x)
        wanted.add(features)
        products.add(x.double() * features)

    def keep(x: Tensor) -> None:
        encoded[:] = [model.split_skip(x)[0]]

    _watch(model, clips, [(model.encoder, "out", keep), (fusion.norm, "in", note)])
    covariance = products.mean - fused.mean * wanted.mean
    slope = covariance / fused.variance.clamp(min=torch.finfo(torch.float32).tiny)
    _set_norm(fusion.norm, fused, slope, wanted.mean)
