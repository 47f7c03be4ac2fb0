"""Weights in the checkpoints of other programs: the same tensors, whatever they are wrapped in."""

import logging
import sys
from collections import OrderedDict

import pytest
import torch

from models import build_lmanet, load_weights
from models.weights.export import published_state_dict
from models.weights.load import read_weights
from tests.networks import LMANetConfig
from utils.errors import WeightsError

CONFIG = {"memory_size": 1, "corr_size": 3}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(5)
    return build_lmanet(LMANetConfig(**CONFIG))


@pytest.fixture(scope="module")
def bare(model):
    """The published names without ``module.``."""
    return {name.removeprefix("module."): tensor for name, tensor in published_state_dict(model).items()}


def renamed(tensors, prefix: str, middle: str = ""):
    def name(old: str) -> str:
        first, dot, rest = old.partition(".")
        return f"{prefix}{first}{dot}{middle}{rest}"

    return {name(old): tensor for old, tensor in tensors.items()}


def assert_loads(content, model, tmp_path):
    torch.save(content, tmp_path / "weights.pth")
    other = build_lmanet(LMANetConfig(**CONFIG))
    report = load_weights(other, tmp_path / "weights.pth")
    assert not report.unused and not report.fresh
    found = other.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    "keys",
    [
        ("model",),
        ("model_state_dict",),
        ("ema",),
        ("ema", "module"),
        ("network",),
        ("module",),
        ("model", "state_dict"),
    ],
)
def test_checkpoints_hold_weights_under_many_keys(model, bare, tmp_path, caplog, keys):
    content = bare
    for key in reversed(keys):
        content = {"epoch": 7, "arch": "erfnet", "optimizer": {"lr": 0.1, "state": {}}, key: content}
    with caplog.at_level(logging.INFO):
        assert_loads(content, model, tmp_path)
    assert f"weights under {' in '.join(map(repr, reversed(keys)))}" in caplog.text


@pytest.mark.parametrize(
    "prefix", ["module.module.", "_orig_mod.", "module._orig_mod.", "model.module.", "net.", "model._orig_mod.module."]
)
def test_wrappers_of_the_network_are_taken_off(model, bare, tmp_path, caplog, prefix):
    with caplog.at_level(logging.INFO):
        assert_loads(renamed(bare, prefix), model, tmp_path)
    first = next(iter(bare))
    assert f"weights called {prefix}{first} for {first}" in caplog.text


@pytest.mark.parametrize(
    "middle",
    ["_orig_mod.", "module.", "module._orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module._orig_mod."],
)
def test_wrappers_of_its_parts_are_taken_off(model, bare, tmp_path, middle):
    parts = {name: tensor for name, tensor in bare.items() if "." in name}
    content = renamed(parts, "", middle) | {name: tensor for name, tensor in bare.items() if name not in parts}
    assert_loads(content, model, tmp_path)
    assert read_weights(content).num_classes("erf") == 20


def test_the_average_of_weights_in_training_is_read(model, tmp_path):
    average = torch.optim.swa_utils.AveragedModel(model)
    assert "n_averaged" in average.state_dict()
    assert_loads({"model_ema": average.state_dict(), "step": 3}, model, tmp_path)


def test_plain_weights_go_before_their_average(model, bare, tmp_path):
    other = {name: torch.zeros_like(tensor) for name, tensor in bare.items()}
    assert_loads({"ema": other, "model": bare}, model, tmp_path)


def test_published_files_are_not_remarked_on(bare, caplog):
    with caplog.at_level(logging.INFO):
        read_weights(renamed(bare, "module."))
        read_weights(bare)
    assert caplog.text == ""


@pytest.mark.parametrize("part", ["", "encoder."])
def test_norms_of_old_files_have_no_counters(bare, caplog, part):
    """All of them, or those of an encoder that was trained by an older PyTorch."""
    old = {n: t for n, t in bare.items() if not (n.startswith(part) and n.endswith("num_batches_tracked"))}
    lacking = len(bare) - len(old)
    assert lacking > 20
    model = build_lmanet(LMANetConfig(**CONFIG))
    for name, buffer in model.named_buffers():
        if name.endswith("num_batches_tracked"):
            buffer.fill_(9)
    with caplog.at_level(logging.INFO):
        report = load_weights(model, old)
    assert not report.fresh and f"{lacking} x num_batches_tracked is not in it" in caplog.text
    counters = [int(b) for n, b in model.named_buffers() if n.startswith(part) and n.endswith("num_batches_tracked")]
    assert set(counters) == {0}


@pytest.mark.slow  # networks of all backbones are made, to say whose file it may be
def test_counters_alone_are_never_invented(bare):
    (name,) = [n for n in bare if n.endswith("running_mean")][:1]
    left = {n: t for n, t in bare.items() if n not in (name, name.replace("running_mean", "num_batches_tracked"))}
    with pytest.raises(WeightsError, match=r"2 tensors missing .*running_mean"):
        load_weights(build_lmanet(LMANetConfig(**CONFIG)), left)


def test_safetensors_files_are_read(model, bare, tmp_path):
    save_file = pytest.importorskip("safetensors.torch").save_file
    for content in (bare, renamed(bare, "_orig_mod.")):
        save_file({name: tensor.contiguous() for name, tensor in content.items()}, tmp_path / "net.safetensors")
        other = build_lmanet(LMANetConfig(**CONFIG))
        load_weights(other, tmp_path / "net.safetensors")
        assert all(torch.equal(other.state_dict()[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kept", [9, 40, -1])
def test_a_damaged_safetensors_file_is_said(tmp_path, kept):
    save = pytest.importorskip("safetensors.torch").save
    (tmp_path / "net.safetensors").write_bytes(save({"a.weight": torch.ones(30)})[:kept])
    with pytest.raises(WeightsError, match=r"net.safetensors: is damaged or cut short \(.*: copy it again"):
        read_weights(tmp_path / "net.safetensors")


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    (tmp_path / "net.bin").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(WeightsError, match=r"is a safetensors file, .* pip install safetensors"):
        read_weights(tmp_path / "net.bin")


def nested(depth: int):
    content: dict = {"a.weight": torch.ones(1)}
    for _ in range(depth):
        content = {"model": content, "epoch": 1}
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": "erfnet", "epoch": 3}, "'model' is no tensor: expected a state dict, bare or under 'state_dict'"),
        ({"model": {}, "epoch": 3}, "'model' is no tensor"),
        ({"ema": {"decay": 0.9, "shadow_params": [torch.ones(1)]}}, "'ema' is no tensor"),
        (nested(9), "'model' is no tensor"),
        (OrderedDict(), "holds no weights"),
    ],
)
def test_what_holds_no_weights_is_said(content, said):
    with pytest.raises(WeightsError, match=said):
        read_weights(content)


def test_a_prefix_that_a_backbones_own_files_have_is_no_wrapper(monkeypatch):
    from models import BackboneTraits, register_backbone
    from models.backbone import _CARDS

    monkeypatch.setattr("models.backbone._CARDS", dict(_CARDS))
    traits = BackboneTraits(features=32, stride=4, work_size=(64, 128))
    register_backbone(
        "wrapped", traits, lambda config: None, (("encoder.", "model.body."),), (("decoder.", "model.head."),)
    )
    assert set(read_weights({"model.body.a": torch.ones(1), "model.head.b": torch.ones(1)}).tensors) == {
        "model.body.a",
        "model.head.b",
    }
