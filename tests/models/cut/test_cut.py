"""Networks of all sorts, cut: the halves return the whole network's logits, bit by bit; or the reason why not."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.cut.halves import Decoder, Encoder
from models.cut.plan import plan_cut
from models.cut.structure import logits_of
from tests.models.cut import zoo
from utils.errors import OptionError


@pytest.fixture(autouse=True)
def small(one_thread):
    """These networks are computed fastest by one thread."""


def randomized(network):
    """The network in evaluation mode, with batch norms that are not those of the first moment."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


def cut_of(network, *arguments, **options):
    plan, found = plan_cut(network, *arguments, **options)
    return Encoder(network, plan).eval(), Decoder(network, plan).eval(), found


# Network, cut, stride, features, the sizes of what the encoder returns for frames of 64 x 96, and the side multiple.
CUTS = {
    "levels": (zoo.UNet, None, None, 24, [(24, 4, 6), (12, 16, 24), (16, 8, 12), (32, 2, 3)], 1),
    "another level": (zoo.UNet, "encoder", 8, 16, [(16, 8, 12), (12, 16, 24), (24, 4, 6), (32, 2, 3)], 1),
    "indices of poolings": (
        zoo.SegNet,
        None,
        None,
        16,
        [(16, 8, 12), (8, 32, 48), (12, 16, 24), (16, 8, 12)],
        8,
    ),
    "without an encoder": (
        zoo.HandMadeUNet,
        "bottom",
        None,
        32,
        [(32, 8, 12), (8, 64, 96), (16, 32, 48), (24, 16, 24)],
        8,
    ),
    "stem before": (zoo.Normalizing, "backbone", None, 16, [(16, 8, 12)], 1),
    "frame once more": (zoo.Detail, "trunk", None, 16, [(16, 8, 12), (3, 64, 96)], 1),
    "sequence": (zoo.sequence, "2", None, 16, [(16, 8, 12)], 1),
    "sizes among tokens": (zoo.Tokens, "stage2", None, 16, [(16, 8, 12), (384, 8), (8, 16, 24), (96, 16)], 8),
    "traced": (zoo.extracted, "body", None, 16, [(16, 8, 12)], 1),
    "inside of the cut": (zoo.Detail, "trunk.1", None, 16, [(16, 8, 12), (3, 64, 96)], 1),
}


@pytest.mark.parametrize("name", CUTS)
def test_cut_network_is_the_whole_network_bit_by_bit(name):
    make, cut, stride, features, shapes, multiple = CUTS[name]
    torch.manual_seed(0)
    network = randomized(make())
    encoder, decoder, found = cut_of(network, cut, stride)
    assert (found.features, found.side_multiple, found.side_offset) == (features, multiple, 0)
    assert found.stride == 64 // shapes[0][1]
    tensors = [name.removeprefix("network.") for half in (encoder, decoder) for name in half.state_dict()]
    assert sorted(tensors) == sorted(network.state_dict())  # each is in one half
    for size in ((64, 96), (56 + multiple, 88 - multiple)):
        frame = torch.rand(2, 3, *size)
        expected = network(frame)
        expected = (
            expected["out"] if isinstance(expected, dict) else expected[0] if isinstance(expected, tuple) else expected
        )
        expected = F.interpolate(expected, size, mode="bilinear") if expected.shape[-2:] != size else expected
        encoded = encoder(frame)
        assert torch.equal(decoder(encoded, size), expected)
        assert torch.equal(decoder(encoded, size), expected)  # nothing of the first call is left in the levels
        if size == (64, 96):
            levels = encoded if isinstance(encoded, tuple) else (encoded,)
            assert [tuple(level.shape[1:]) for level in levels] == shapes


def test_a_stride_that_small_frames_do_not_show():
    torch.manual_seed(0)
    network = randomized(zoo.OddStrides())
    encoder, decoder, found = cut_of(network, "third", 18)
    assert (found.features, found.stride, found.side_multiple) == (16, 18, 1)
    frame = torch.rand(1, 3, 72, 145)
    whole = F.interpolate(network(frame), (72, 145), mode="bilinear")
    assert torch.equal(decoder(encoder(frame), (72, 145)), whole)
    with pytest.raises(OptionError, match="stride 5 is no level of third: expected one of 3, 6, 16"):
        plan_cut(network, "third", 5)


def test_sides_follow_from_patches_and_positions():
    found = plan_cut(zoo.Patches().eval(), "neck")[1]
    assert (found.features, found.stride, found.side_multiple, found.side_offset) == (8, 7, 14, 0)
    assert plan_cut(zoo.OneSize().eval(), "neck", size=(56, 56))[1].one_size == (56, 56)


def test_modules_of_both_halves_are_of_the_name_of_their_kind():
    network = zoo.Normalizing()
    encoder, decoder, _ = cut_of(network, "backbone")
    for name, module in network.named_modules():
        for half in (encoder, decoder):
            kinds = {name: type(part) for name, part in half.network.named_modules()}
            if name in kinds and not isinstance(module, nn.BatchNorm2d):
                assert str(kinds[name]) == str(type(module)) and issubclass(kinds[name], type(module))


def test_network_and_random_numbers_stay_as_they_are():
    network = zoo.UNet()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    modules, state = dict(network.named_modules()), torch.random.get_rng_state()
    encoder = cut_of(network)[0]
    encoder(torch.rand(1, 3, 64, 64))
    assert network.training and dict(network.named_modules()) == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    plan_cut(network)
    torch.random.set_rng_state(state)
    expected = torch.rand(1)
    torch.random.set_rng_state(state)
    plan_cut(network)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize(
    ("make", "cut", "held"),
    [(zoo.Auxiliary, "encoder", {"", "encoder"}), (zoo.OwnLoss, "trunk", {""}), (zoo.UNet, None, set())],
)
def test_what_returns_something_else_in_training_stays_in_evaluation_mode(make, cut, held):
    torch.manual_seed(0)
    network = randomized(make())
    encoder, decoder, _ = cut_of(network, cut)
    frame = torch.rand(2, 3, 64, 64)
    batch_norms = [each for half in (encoder, decoder) for each in half.modules() if isinstance(each, nn.BatchNorm2d)]
    for half in (encoder, decoder):
        half.train()
        assert half.training and {name for name, each in half.network.named_modules() if not each.training} <= held
    assert batch_norms and all(each.training for each in batch_norms)
    trained = decoder(encoder(frame), (64, 64))
    for name, module in network.named_modules():
        module.training = name not in held
    expected = logits_of(network(frame))
    assert torch.equal(
        trained, F.interpolate(expected, (64, 64), mode="bilinear") if make is zoo.Auxiliary else expected
    )
    assert not any(each.training for half in (encoder.eval(), decoder.eval()) for each in half.modules())


def test_a_wrapper_of_names_is_left_out():
    assert plan_cut(zoo.UNet().eval(), "module.encoder")[0].cut == "encoder"


def test_halves_of_a_traced_encoder_are_copied_and_trained():
    encoder, decoder, _ = cut_of(zoo.extracted(), "body")
    halves = [copy.deepcopy(half).train() for half in (encoder, decoder)]
    halves[1](halves[0](torch.rand(2, 3, 32, 32)), (32, 32)).sum().backward()
    frame = torch.rand(1, 3, 32, 32)
    again = [half.eval() for half in (copy.deepcopy(encoder), copy.deepcopy(decoder))]
    assert torch.equal(again[1](again[0](frame), (32, 32)), decoder(encoder(frame), (32, 32)))


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.encoder = nn.Conv2d(3, 3, 1), zoo.conv(3, 8, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = F.interpolate(self.head(self.encoder(self.stem(x))), x.shape[-2:])
        return self.stem(x)


class Scaled(zoo.Normalizing):
    def forward(self, x):
        return {"out": super().forward(x * self.scale)["out"]}


class Queries(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = zoo.conv(3, 8, 8)

    def forward(self, x):
        features = self.encoder(x)
        return {"class_queries_logits": features.mean((2, 3)), "masks_queries_logits": features}


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.Flatten(2))
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x):
        return self.head(self.encoder(x).unflatten(2, (x.shape[2] // 8, x.shape[3] // 8)))


class Labels(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = zoo.conv(3, 8, 8)

    def forward(self, x):
        return self.encoder(x).argmax(1)


class Noisy(zoo.UNet):
    def forward(self, frame):
        return super().forward(frame + torch.rand_like(frame))


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.head, self.kept = zoo.conv(3, 8, 8), nn.Conv2d(8, 5, 1), {}
        self.encoder[1].register_forward_hook(lambda module, inputs, output: self.kept.update(output=output))

    def forward(self, x):
        self.encoder(x)
        return self.head(self.kept["output"])


class Keeping(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk, self.head = self.Trunk(), nn.Conv2d(11, 5, 1)

    class Trunk(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = zoo.conv(3, 8, 8)

        def forward(self, x):
            self.small = F.avg_pool2d(x, 8)
            return self.conv(x)

    def forward(self, x):
        x = self.trunk(x)
        return self.head(torch.cat([x, self.trunk.small], dim=1))


def grey(channels):
    return nn.Sequential(nn.Conv2d(channels, 4, 8, stride=8), nn.Conv2d(4, 5, 1))


REFUSED = {
    "unknown": (zoo.UNet, "encodr", None, "cut='encodr' is no module of UNet: expected one such as encoder"),
    "not called": (zoo.UNet, "encoder.stages", None, "encoder.stages of UNet is not called for a frame"),
    "often called": (zoo.HandMadeUNet, "pool", None, "pool of HandMadeUNet is called 3 times for a frame"),
    "both sides": (Shared, None, None, "stem of Shared is called before and behind the cut at encoder"),
    "parameter": (Scaled, None, None, "scale is used before and behind the cut at backbone"),
    "queries": (Queries, None, None, "predicts masks by queries"),
    "tokens": (Tokens, None, None, r"encoder returns no map of features .* it returns 1 8 64; .* such as encoder.0"),
    "labels": (Labels, None, None, r"the network returns \(1, 8, 8\) of torch.int64: expected logits B K h w"),
    "no level": (zoo.UNet, None, 64, "stride 64 is no level of encoder: expected one of 4, 8, 16, 32"),
    "noise": (Noisy, None, None, "Noisy returns other logits for the same frame"),
    "hooks": (Hooked, None, None, "KeyError: 'output'; a copy of it has no forward hooks of its own"),
    "kept": (Keeping, "trunk", None, "trunk .*something passes by it|for another frame.*keeps nothing of a frame"),
    "scripted": (lambda: torch.jit.script(zoo.sequence()), "2", None, "is a scripted or traced module"),
    "lazy": (lambda: nn.Sequential(nn.LazyConv2d(4, 8, 8), nn.LazyConv2d(5, 1)), "0", None, "0.weight of Sequential"),
    "one channel": (lambda: grey(1), "0", None, "takes frames of 1 channel, .* expected 3, RGB"),
    "four channels": (lambda: grey(4), "0", None, "takes frames of 4 channels, .* expected 3, RGB"),
    "nothing to go by": (zoo.HandMadeUNet, None, None, "no cut is given, .* expected one of down1, down2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name):
    make, cut, stride, reason = REFUSED[name]
    with pytest.raises(OptionError, match=reason) as error:
        plan_cut(make().eval(), cut, stride)
    assert "\n" not in str(error.value)
