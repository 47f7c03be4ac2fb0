"""Every fusion, structure and memory strategy in float64 against its rule, stated again here in the plainest way."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from models import build_lmanet
from models.fusion import FUSIONS
from models.losses import WeightedCrossEntropy
from tests.networks import LMANetConfig
from utils.errors import OptionError

GATED = ("sigmoid-do1", "sigmoid-do2", "sigmoid-do3", "sigmoid", "linear", "simple-sigmoid")
PREPARED = ("sigmoid-do1", "sigmoid-do2", "sigmoid-do3", "concat")
ONE_GATE = ("sigmoid-do3", "simple-sigmoid")
STRUCTURES = ("original", "mem_only", "aux_mem_loss", "original_kv_fusion")
TOLERANCE = 1e-9


def randomized(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module in float64 with weights, and statistics of batch norms, that are nowhere special."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double().eval()
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point():
            fan_in = math.prod(tensor.shape[1:]) if tensor.dim() > 1 else 4
            tensor.normal_(0, (1 / fan_in) ** 0.5, generator=generator)
    return module


def model_of(**options):
    return randomized(build_lmanet(LMANetConfig(**{"memory_size": 2, "corr_size": 3} | options)))


def clip_of(frames: int, size=(24, 32)) -> torch.Tensor:
    return torch.rand(2, frames, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(5))


def conv(x, layer):
    return F.conv2d(x, layer.weight, layer.bias, padding=layer.weight.shape[-1] // 2)


def normed(x, norm):
    centred = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-3).sqrt()
    return centred * norm.weight[:, None, None] + norm.bias[:, None, None]


def fused(name, fusion, a, b):
    """The rules of the fusions, for evaluation, where dropout does nothing."""
    if name == "sigmoid-down1":
        both = normed(conv(a, fusion.reduce) + conv(b, fusion.reduce), fusion.reduced_norm).clamp(min=0)
        gate1, gate2 = 1 / (1 + (-conv(both, fusion.gate_query)).exp()), 1 / (1 + (-conv(both, fusion.gate_read)).exp())
        return normed(a * gate1 + b * gate2, fusion.norm).clamp(min=0)
    if name in PREPARED:
        a = normed(a, fusion.prepare_query[0]).clamp(min=0)
        b = normed(b, fusion.prepare_read[0]).clamp(min=0)
    both = torch.cat([a, b], 1)
    if name == "concat":
        return both
    gate1 = conv(both, fusion.gate_query)
    gate2 = gate1 if name in ONE_GATE else conv(both, fusion.gate_read)
    if name != "linear":
        gate1, gate2 = 1 / (1 + (-gate1).exp()), 1 / (1 + (-gate2).exp())
    total = gate1 * conv(a, fusion.features_query) + gate2 * conv(b, fusion.features_read)
    return normed(total, fusion.norm).clamp(min=0)


def locally_read(query, keys, values, window, constant, masked=False):
    """One query pixel after the other; neighbors outside of the frame count with score 0 and value 0, or do not."""
    batch, _, h, w = query.shape
    q, memory = query.numpy(), [(key.numpy(), value.numpy()) for key, value in zip(keys, values, strict=True)]
    out = torch.empty(batch, values[0].shape[1], h, w, dtype=torch.float64)
    near = range(-(window // 2), window // 2 + 1)
    for n, y, x in itertools.product(range(batch), range(h), range(w)):
        weighted, total = 0.0, 0.0 if constant is None else math.exp(constant.item())
        for (key, value), dy, dx in itertools.product(memory, near, near):
            if 0 <= y + dy < h and 0 <= x + dx < w:
                e = math.exp(q[n, :, y, x] @ key[n, :, y + dy, x + dx])
                weighted, total = weighted + e * value[n, :, y + dy, x + dx], total + e
            elif not masked:
                total += 1.0
        out[n, :, y, x] = torch.from_numpy(weighted / total)
    return out


def globally_read(query, keys, values, constant):
    channels = query.shape[1]
    k = torch.cat([key.flatten(2) for key in keys], 2)
    v = torch.cat([value.flatten(2) for value in values], 2)
    e = (torch.einsum("bcq,bck->bqk", query.flatten(2), k) / channels**0.5).exp()
    total = e.sum(2) + (0 if constant is None else constant.exp())
    return (torch.einsum("bqk,bdk->bdq", e, v) / total[:, None]).view(query.shape[0], -1, *query.shape[2:])


@torch.no_grad()
def rule(model, frames):
    """Logits of every frame, and the auxiliary ones: encode, read, fuse, decode, remember, as in the specification."""
    config, size = model.config, frames[0].shape[-2:]
    constant = model.attention_constant if config.learnable_constant else None
    keys, values, all_logits, all_aux = [], [], [], []

    def memorize(features, head):
        keys.append(conv(features, head.key))
        values.append(conv(features, head.value))
        del keys[: -config.memory_size], values[: -config.memory_size]

    for frame in frames:
        f = model.encoder(frame)
        if config.memorize_first:
            memorize(f, model.memory_head)
        remembered, aux = f, None
        if not keys:
            logits = model.decoder(f, size)
        else:
            query, a = conv(f, model.query_head.key), conv(f, model.query_head.value)
            if config.local:
                b = locally_read(query, keys, values, config.corr_size, constant, config.mask_border)
            else:
                b = globally_read(query, keys, values, constant)
            remembered = fused(config.fusion, model.fusion, a, b)
            if config.structure == "mem_only":
                logits = model.memory_decoder(b, size)
            else:
                logits = model.decoder(remembered, size)
            if config.structure == "aux_mem_loss":
                aux = model.memory_decoder(b, size)
        if config.structure == "original_kv_fusion":
            memorize(remembered, model.memory_head if keys else model.init_head)
        elif not config.memorize_first:
            memorize(f, model.memory_head)
        all_logits.append(logits)
        all_aux.append(aux)
    return torch.stack(all_logits, 1), all_aux


def assert_equal(found, expected):
    assert found.shape == expected.shape and found.dtype == torch.float64
    assert (found - expected).abs().max() <= TOLERANCE * expected.abs().max()


@pytest.mark.parametrize("name", FUSIONS)
@torch.inference_mode()
def test_fusion(name):
    fusion = randomized(FUSIONS[name](6))
    a, b = torch.randn(2, 2, 6, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = fusion(a, b)
    assert found.shape == (2, 6 if name == "sigmoid-down1" else 12, 5, 7)
    assert_equal(found, fused(name, fusion, a, b))


@pytest.mark.parametrize("name", PREPARED)
def test_dropout_of_whole_channels_in_training(name):
    fusion = FUSIONS[name](40)
    torch.manual_seed(0)
    prepared = fusion.prepare_query(torch.randn(8, 40, 6, 6)).detach()  # freshly normalized: about half is above 0
    dropped = (prepared == 0).flatten(2).all(2)
    share = dropped.float().mean().item()
    if name == "sigmoid-do2":
        assert share == 0.0
    else:
        assert abs(share - 0.3) < 0.08  # 320 draws: three standard deviations
        assert prepared.flatten(2)[~dropped].max() > prepared.new_tensor(2 / 0.7)


@pytest.mark.parametrize("fusion", [name for name in FUSIONS if name != "sigmoid-down1"])
@torch.inference_mode()
def test_network_with_each_fusion(fusion):
    model, clip = model_of(fusion=fusion), clip_of(2)
    assert_equal(model(clip), rule(model, clip.unbind(1))[0][:, -1:])


@pytest.mark.parametrize("always_decode", [False, True])
@pytest.mark.parametrize("structure", STRUCTURES)
@torch.inference_mode()
def test_structure(structure, always_decode):
    model, clip = model_of(structure=structure, always_decode=always_decode), clip_of(4)  # the queue of two overflows
    expected, _ = rule(model, clip.unbind(1))
    assert_equal(model(clip), expected if always_decode else expected[:, -1:])


@pytest.mark.parametrize("structure", STRUCTURES)
@torch.inference_mode()
def test_stepping_gives_every_frames_logits(structure):
    model, clip, memory = model_of(structure=structure), clip_of(4), None
    expected, _ = rule(model, clip.unbind(1))
    for position, frame in enumerate(clip.unbind(1)):
        logits, memory = model.step(frame, memory)
        assert_equal(logits, expected[:, position])
    assert memory.keys.shape == (2, 16, 2, 3, 4)


@pytest.mark.parametrize("structure", ["original", "mem_only", "aux_mem_loss"])
@torch.inference_mode()
def test_memorize_first(structure):
    # With a queue of two, a frame that is pushed twice would push nothing out that the next one reads.
    model, clip = model_of(structure=structure, memorize_first=True, always_decode=True, memory_size=3), clip_of(5)
    assert_equal(model(clip), rule(model, clip.unbind(1))[0])


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("learnable_constant", [True, False])
@torch.inference_mode()
def test_attention_options(local, learnable_constant):
    model, clip = model_of(local=local, learnable_constant=learnable_constant, always_decode=True), clip_of(3)
    assert_equal(model(clip), rule(model, clip.unbind(1))[0])


@torch.inference_mode()
def test_a_masked_border_takes_no_part():
    model, clip = model_of(mask_border=True, always_decode=True, corr_size=5), clip_of(3)
    assert_equal(model(clip), rule(model, clip.unbind(1))[0])


def test_the_learned_constant_is_learned():
    for local in (True, False):
        model = model_of(local=local, learnable_constant=True)
        model(clip_of(2)).square().mean().backward()
        assert model.attention_constant.grad.abs().item() > 0


@pytest.mark.parametrize(
    ("strategy", "window", "positions"),
    [
        ("all", 3, [0, 1, 2]),
        ("skip_01", 6, [1, 3, 5]),
        ("skip_02", 6, [2, 5]),
        ("skip_03", 6, [1, 5]),
        ("skip_04", 6, [0, 5]),
        ("skip_05", 7, [0, 6]),
    ],
)
@torch.inference_mode()
def test_memory_strategy(strategy, window, positions):
    model, clip = model_of(memory_strategy=strategy, always_decode=True), clip_of(window)
    assert_equal(model(clip), rule(model, [clip[:, position] for position in positions])[0])


@torch.inference_mode()
def test_random_strategy_takes_any_past_frames_and_the_last():
    model, clip = model_of(memory_strategy="random", always_decode=True), clip_of(5, (16, 24))
    single = [model.decoder(model.encoder(frame), frame.shape[-2:]) for frame in clip.unbind(1)]
    seen = set()
    for seed in range(8):
        torch.manual_seed(seed)
        logits = model(clip)
        assert logits.shape[1] == 3
        first = next(position for position in range(5) if torch.equal(logits[:, 0], single[position]))
        second = [s for s in range(first + 1, 4) if is_the_rule(model, clip, [first, s, 4], logits)]
        assert len(second) == 1
        seen.add((first, second[0]))
    assert len(seen) > 3


def is_the_rule(model, clip, positions, logits):
    expected = rule(model, [clip[:, position] for position in positions])[0]
    return torch.allclose(logits, expected, rtol=0, atol=1e-9)


def test_auxiliary_loss_is_averaged_in():
    model, clip = model_of(structure="aux_mem_loss"), clip_of(3)
    expected, aux = rule(model, clip.unbind(1))
    model.training = True  # its parts stay in evaluation mode, so that no chance is in it
    logits = model(clip)
    assert_equal(logits[0], expected[:, -1:])
    assert_equal(logits[1][:, 0], aux[-1])
    label = torch.randint(0, 20, (2, 24, 32), generator=torch.Generator().manual_seed(1))
    weights = torch.linspace(1, 3, 20)
    weights[19] = 0
    loss = WeightedCrossEntropy(weights.tolist(), ignored=19)(logits, label)
    losses = []
    for each in (expected[:, -1], aux[-1]):
        picked = each.log_softmax(1).gather(1, label[:, None])[:, 0]
        weight = weights.double()[label] * (label != 19)
        losses.append(-(weight * picked).sum() / weight.sum())
    assert abs(loss.item() - sum(losses).item() / 2) < 1e-5  # the loss is computed in float32


@torch.inference_mode()
def test_shallow_decoder():
    for structure in STRUCTURES:
        model, clip = model_of(shallow_decoder=True, structure=structure), clip_of(2)
        classifier = (model.memory_decoder if structure == "mem_only" else model.decoder).classifier
        assert classifier.weight.shape == (20, 64 if structure == "mem_only" else 128, 1, 1)
        seen = []
        hook = classifier.register_forward_pre_hook(lambda module, inputs, seen=seen: seen.append(inputs[0]))
        logits = model(clip)
        hook.remove()
        by_hand = torch.einsum("bchw,kc->bkhw", seen[-1], classifier.weight[:, :, 0, 0])
        assert_equal(logits[:, 0], by_hand + classifier.bias[:, None, None])
        assert_equal(logits, rule(model, clip.unbind(1))[0][:, -1:])
        assert logits.shape == (2, 1, 20, 3, 4)


@torch.inference_mode()
def test_backbone_without_batch_norms():
    """The same as batch norms that do nothing: mean 0, bias 0, and a weight that undoes the deviation."""
    bare, full = model_of(batch_norm=False), model_of()
    for half in (full.encoder, full.decoder):
        for norm in half.modules():
            if isinstance(norm, torch.nn.BatchNorm2d):
                norm.running_mean.zero_()
                norm.bias.zero_()
                norm.weight.copy_((norm.running_var + norm.eps).sqrt())
    clip = clip_of(2)
    assert_equal(bare(clip), full(clip))
    norms = {id(p) for m in bare.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()}
    frozen = {name for name, p in bare.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, p in bare.named_parameters() if id(p) in norms and not n.startswith("fusion.")}


@torch.inference_mode()
def test_baseline_is_encoder_and_decoder():
    model, clip = model_of(baseline=True, always_decode=True), clip_of(3)
    singles = [model.decoder(model.encoder(frame), (24, 32)) for frame in clip.unbind(1)]
    assert_equal(model(clip), torch.stack(singles, 1))
    logits, memory = model.step(clip[:, 0])
    assert memory is None and torch.equal(logits, singles[0])
    assert torch.equal(model_of(baseline=True)(clip)[:, 0], singles[-1])


def test_aligned_keys_start_equal_and_do_not_share():
    model = build_lmanet(LMANetConfig())
    mine, theirs = model.query_head.key, model.memory_head.key
    assert torch.equal(mine.weight, theirs.weight) and torch.equal(mine.bias, theirs.bias)
    assert mine.weight.data_ptr() != theirs.weight.data_ptr()
    assert not torch.equal(model.query_head.value.weight, model.memory_head.value.weight)
    model = build_lmanet(LMANetConfig(align_weights=False))
    assert not torch.equal(model.query_head.key.weight, model.memory_head.key.weight)


CHOICES = {
    "fusion": [name for name in FUSIONS if name != "sigmoid-down1"],
    "structure": ["mem_only", "aux_mem_loss", "original_kv_fusion"],
    "memory_strategy": ["skip_01", "random"],
    "memorize_first": [True],
    "learnable_constant": [True],
    "local": [False],
    "shallow_decoder": [True],
    "batch_norm": [False],
    "always_decode": [True],
    "align_weights": [False],
    "baseline": [True],
}
NEED_A_MEMORY = ("structure", "memory_strategy", "memorize_first", "learnable_constant", "local")


def refused(options) -> bool:
    if options.get("baseline"):
        return any(name in options for name in NEED_A_MEMORY)
    return options.get("structure") == "original_kv_fusion" and "memorize_first" in options


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(CHOICES, 2)))
@torch.inference_mode()
def test_every_pair_of_choices_does_what_both_say_or_is_refused(one, other):
    for values in itertools.product(CHOICES[one], CHOICES[other]):
        options = dict(zip((one, other), values, strict=True))
        if refused(options):
            with pytest.raises(OptionError, match="leave one of them out"):
                LMANetConfig(**options)
            continue
        model, frames = model_of(**options), list(clip_of(3, (16, 24)).unbind(1))
        logits = model(torch.stack(frames, 1))
        picked = frames[::2] if options.get("memory_strategy") == "skip_01" else frames
        if options.get("baseline"):
            expected = torch.stack([model.decoder(model.encoder(frame), (16, 24)) for frame in picked], 1)
        else:
            expected = rule(model, picked)[0]  # "random" has no choice: the queue takes all past frames
        assert_equal(logits, expected if options.get("always_decode") else expected[:, -1:])


def test_choices_that_contradict_each_other():
    with pytest.raises(OptionError, match="--memorize-first does not go with --model-struct original_kv_fusion"):
        LMANetConfig(structure="original_kv_fusion", memorize_first=True)
    with pytest.raises(OptionError, match="--baseline-mode has no memory, which --model-struct mem_only shapes"):
        LMANetConfig(structure="mem_only", baseline=True)
    with pytest.raises(OptionError, match="--backbone-nobn does not go with --backbone torchvision/fcn_resnet50"):
        LMANetConfig(backbone="torchvision/fcn_resnet50", batch_norm=False)
