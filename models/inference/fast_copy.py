"""A network made fast for inference: the same computation with less work a frame.

Batch norms become part of the convolutions before them, the convolutions of a head and of both heads run as one where
they read the same features, convolutions of three taps take half the products on a CPU, tensors are channels-last, the
memory is filled in place. ``LMANet.step`` itself stays.
"""

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.cut.halves import Decoder, Encoder
from models.fusion import GatedFusion, PreparedInput, ResidualFusion
from models.line_convolution import LineConvolution, filters_of, takes
from models.lmanet import LMANet
from models.local_attention import cpu
from models.memory import KeyValueHead, PushInPlace
from models.norms import after_norm

log = logging.getLogger(__name__)

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@torch.no_grad()
def fast_copy(model: LMANet, compiled: bool = False, for_clips: bool = False) -> LMANet:
    """A copy of ``model`` whose ``step`` returns the same logits in less time; for inference only.

    Its memories are filled in place: a memory that was passed to ``step`` must not be used again. With ``compiled``,
    encoder, fusion and decoder go through torch.compile with their weights frozen in, which takes a minute at the first
    frames. ``for_clips`` makes keys and values of each head alone, where it is called: in a clip only the last frame
    reads the memory, and only the others are remembered; in a stream each frame does both, and one convolution makes
    all four.
    """
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    parts = [fast.encoder, fast.decoder]
    if not fast.config.baseline:
        fast.push = PushInPlace(fast.config.memory_size)
        parts += [fast.fusion, *([fast.memory_decoder] if hasattr(fast, "memory_decoder") else [])]
    for part in parts:
        fold_batch_norms(part)
    if not fast.config.baseline:
        _fold_query_norm(fast)
        _join_heads(fast, for_clips)
        if isinstance(fast.fusion, GatedFusion):
            fast.fusion = JoinedGatedFusion(fast.fusion)
        elif isinstance(fast.fusion, ResidualFusion):
            fast.fusion = FastResidualFusion(fast.fusion)
        for part in (fast.fusion, fast.query_head, fast.memory_head):
            _use_lines(part)
    fast.to(memory_format=torch.channels_last)
    if compiled:
        _compile_parts(fast)
    return fast


def _use_lines(part: nn.Module) -> None:
    """Replaces 3x3 convolutions by such with fewer products."""
    for name, conv in [(name, each) for name, each in part.named_modules() if takes(each)]:
        assert isinstance(conv, nn.Conv2d)
        if not isinstance(part.get_submodule(name.rpartition(".")[0]), LineConvolution):  # of heads that share it
            part.set_submodule(name, LineConvolution(conv))


def fold_batch_norms(part: nn.Module) -> int:
    """Makes batch norms part of the convolutions that feed them alone, in place; returns how many were folded.

    Blocks with a method ``folded`` are replaced by what it returns: they know how.
    """
    for name, block in [(name, block) for name, block in part.named_modules() if hasattr(block, "folded")]:
        part.set_submodule(name, block.folded())
    names = list(_convolutions_with_norms(part))
    for conv_name, norm_name in names:
        conv, norm = part.get_submodule(conv_name), part.get_submodule(norm_name)
        assert isinstance(conv, CONVOLUTIONS) and isinstance(norm, nn.BatchNorm2d)
        rest = after_norm(norm)
        assert rest is not None
        folded = fuse_conv_bn_eval(conv, norm, transpose=isinstance(conv, nn.ConvTranspose2d))
        part.set_submodule(conv_name, folded)
        part.set_submodule(norm_name, rest)
    return len(names)


class _LayerTracer(fx.Tracer):
    """Traces convolutions and batch norms, those of this project included, as leaf modules."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (*CONVOLUTIONS, LineConvolution, nn.BatchNorm2d)) or super().is_leaf_module(
            module, name
        )


def _convolutions_with_norms(part: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of each convolution whose output goes into one batch norm and nowhere else, and of that batch norm.

    A part whose code cannot be traced may know them: the halves of a network that was cut do.
    """
    if isinstance(part, Encoder | Decoder):
        yield from (pair for pair in part.convolutions_with_norms if _folds(part.get_submodule(pair[1])))
        return
    try:
        calls = [node for node in _LayerTracer().trace(part).nodes if node.op == "call_module"]
    except (fx.proxy.TraceError, TypeError) as error:  # what a registered backbone computes may depend on its input
        log.info("batch norms of %s stay as they are: %s", type(part).__name__, str(error).splitlines()[0])
        return
    times = {name: sum(call.target == name for call in calls) for name in {call.target for call in calls}}
    for call in calls:
        norm, feeds = part.get_submodule(call.target), call.args[0]
        if not _folds(norm):
            continue
        if feeds.op != "call_module" or len(feeds.users) > 1 or times[call.target] > 1 or times[feeds.target] > 1:
            continue
        if isinstance(part.get_submodule(feeds.target), CONVOLUTIONS):
            yield feeds.target, call.target


def _folds(norm: nn.Module) -> bool:
    return isinstance(norm, nn.BatchNorm2d) and getattr(norm, "applied", True) and after_norm(norm) is not None


class JoinedHeads(nn.Module):
    """Several heads that read the same features, as one convolution: B F h w -> a key and a value for each."""

    def __init__(self, heads: list[KeyValueHead]):
        super().__init__()
        convolutions = [conv for head in heads for conv in (head.key, head.value) if isinstance(conv, nn.Conv2d)]
        self.sizes = [conv.out_channels for conv in convolutions]
        self.passes_features = len(convolutions) == len(heads)
        self.conv: nn.Conv2d | LineConvolution = joined_convolution(convolutions)

    @property
    def in_bfloat16(self) -> bool:
        """Whether products are those of bfloat16 numbers."""
        return isinstance(self.conv, LineConvolution) and self.conv.in_bfloat16

    def forward(self, features: Tensor) -> list[tuple[Tensor, Tensor]]:
        return self.pairs(self.conv(features).split(self.sizes, dim=1), features)

    def pairs(self, outputs: Sequence[Tensor], features: Tensor) -> list[tuple[Tensor, Tensor]]:
        """A key and a value for each head, of what the single convolutions return."""
        if self.passes_features:
            return [(key, features) for key in outputs]
        return list(zip(outputs[::2], outputs[1::2], strict=True))

    def single_convolutions(self) -> list[nn.Conv2d]:
        """The convolutions that were joined: key, value, key, value."""
        found = []
        joined = self.conv.conv if isinstance(self.conv, LineConvolution) else self.conv
        for weight, bias in zip(joined.weight.split(self.sizes), _bias_of(joined).split(self.sizes), strict=True):
            conv = copy.deepcopy(joined)
            conv.out_channels, conv.weight, conv.bias = len(weight), nn.Parameter(weight), nn.Parameter(bias)
            found.append(conv.requires_grad_(False))
        return found


@dataclass
class _LastOutputs:
    """What ``JoinedHeads`` returned last, and for which features; not an attribute of a module, as exporting refuses
    modules that change."""

    features: Tensor | None = None
    pairs: list[tuple[Tensor, Tensor]] = field(default_factory=list)


class SharedHead(nn.Module):
    """One of several heads that are computed together: by the first that is called, once for the same features."""

    def __init__(self, joined: JoinedHeads, position: int, last: _LastOutputs):
        super().__init__()
        self.joined, self.position, self.last = joined, position, last

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:  # B F h w -> B C h w, B D h w
        if self.last.features is not features:
            self.last.features, self.last.pairs = features, self.joined(features)
        return self.last.pairs[self.position]


class JoinedGatedFusion(nn.Module):
    """``GatedFusion`` with both gates as one convolution and its last batch norm in the weights of the features; in one
    pass of the compiled library, where that computes all of its convolutions."""

    shift: Tensor
    read_scale: Tensor | None
    read_shift: Tensor | None

    def __init__(self, fusion: GatedFusion):
        super().__init__()
        self.prepare_query, self.prepare_read = fusion.prepare_query, fusion.prepare_read
        self.activate_gates = Tensor.sigmoid_ if fusion.gate_activation is torch.sigmoid else fusion.gate_activation
        self.one_gate = fusion.one_gate
        scale, shift = _affine(fusion.norm)
        self.features_query, self.features_read = fusion.features_query, fusion.features_read
        for features in (self.features_query, self.features_read):
            features.weight.mul_(scale[:, None, None, None])
            _bias_of(features).mul_(scale)
        self.register_buffer("shift", shift[:, None, None])
        read_scale, read_shift = self._read_affine()
        self.register_buffer("read_scale", read_scale)
        self.register_buffer("read_shift", read_shift)
        self.gates = fusion.gate_query if self.one_gate else joined_convolution([fusion.gate_query, fusion.gate_read])

    def forward(self, query: Tensor, read: Tensor) -> Tensor:  # B D h w twice -> B 2D h w
        query, read = _channels_last(query), _channels_last(read)
        convolutions = self.gates, self.features_query, self.features_read
        filters = filters_of(query, *convolutions) if self.activate_gates is Tensor.sigmoid_ else None
        prepared = None
        if filters is not None and self.read_scale is not None and self.read_shift is not None:
            prepared = self.read_scale, self.read_shift
        else:
            query, read = self.prepare_query(query), self.prepare_read(read)
        if filters is not None:
            return cpu.gated_fusion(query.float(), read.float(), prepared, filters, self.shift)
        gates = self.activate_gates(self.gates(torch.cat([query, read], dim=1)))
        query, read = self.features_query(query), self.features_read(read)
        gate_query, gate_read = (gates, gates) if self.one_gate else gates.chunk(2, dim=1)
        return query.mul_(gate_query).add_(self.shift).addcmul_(gate_read, read).relu_()

    def _read_affine(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """The batch norm of what was read, where that of the query is in its head; a ReLU follows both."""
        query, read = self.prepare_query, self.prepare_read
        if isinstance(query, PreparedInput) and isinstance(read, PreparedInput):
            norm = read[0]
            if isinstance(query[0], nn.Identity) and isinstance(norm, nn.BatchNorm2d):
                return _affine(norm)
        return None, None


class FastResidualFusion(ResidualFusion):
    """``ResidualFusion`` in two passes of the compiled library, where that computes both of its convolutions."""

    def __init__(self, fusion: ResidualFusion):
        nn.Module.__init__(self)
        self.reduce, self.gate = fusion.reduce, fusion.gate

    def forward(self, query: Tensor, read: Tensor) -> Tensor:  # B F h w twice -> B F h w
        query, read = _channels_last(query), _channels_last(read)
        filters = filters_of(query, self.reduce, self.gate)
        if filters is None:
            return super().forward(query, read)
        return cpu.residual_fusion(query.float(), read.float(), *filters)


def _channels_last(x: Tensor) -> Tensor:
    # The attention reads planes; its few channels are put in order before they are joined with others.
    return x.contiguous(memory_format=torch.channels_last)


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Factor and summand of a batch norm in evaluation mode, for each channel."""
    assert norm.running_mean is not None and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return scale, norm.bias - norm.running_mean * scale


def joined_convolution(convolutions: list[nn.Conv2d]) -> nn.Conv2d:
    """One convolution with the output channels of several that read the same input, concatenated."""
    joined = copy.deepcopy(convolutions[0])
    joined.out_channels = sum(conv.out_channels for conv in convolutions)
    joined.weight = nn.Parameter(torch.cat([conv.weight for conv in convolutions]), requires_grad=False)
    joined.bias = nn.Parameter(torch.cat([_bias_of(conv) for conv in convolutions]), requires_grad=False)
    return joined


def _bias_of(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias


def _fold_query_norm(model: LMANet) -> None:
    """The batch norm of a fusion's query becomes part of the convolution that makes the query's value for it alone."""
    prepare, head = getattr(model.fusion, "prepare_query", None), model.query_head
    assert isinstance(head, KeyValueHead)
    if isinstance(prepare, PreparedInput) and isinstance(head.value, nn.Conv2d):
        norm = prepare[0]
        assert isinstance(norm, nn.BatchNorm2d)
        head.value = fuse_conv_bn_eval(head.value, norm)
        prepare[0] = nn.Identity()


def _join_heads(model: LMANet, for_clips: bool) -> None:
    """The heads that read the features of the same frame become one convolution."""
    query_head, memory_head = model.query_head, model.memory_head
    assert isinstance(query_head, KeyValueHead) and isinstance(memory_head, KeyValueHead)
    # The memory of original_kv_fusion is made of what was fused, not of the features.
    if for_clips or model.config.structure == "original_kv_fusion":
        (model.query_head,), (model.memory_head,) = _shared_heads([query_head]), _shared_heads([memory_head])
    else:
        model.query_head, model.memory_head = _shared_heads([query_head, memory_head])


def _shared_heads(heads: list[KeyValueHead]) -> list[SharedHead]:
    joined, last = JoinedHeads(heads), _LastOutputs()
    return [SharedHead(joined, position, last) for position in range(len(heads))]


def _compile_parts(model: LMANet) -> None:
    """Compiles what lies between reads of the memory, in place; shapes are those of the first frame."""
    torch._inductor.config.freezing = True
    model.encoder, model.decoder = _compiled(model.encoder), _compiled(model.decoder)
    if not model.config.baseline:
        model.fusion = _compiled(model.fusion)


def _compiled(part: nn.Module) -> nn.Module:
    compiled = torch.compile(part, dynamic=False)
    assert isinstance(compiled, nn.Module)  # of a module it makes a module, which its annotation does not say
    return compiled
