"""Published weight files: read, written again, refused."""

import copy
import math
import pickle

import pytest
import torch

from models import build_lmanet, describe, export_weights, load_weights
from models.weights.export import published_state_dict
from tests.networks import LMANetConfig
from utils.errors import WeightsError

FILES = {
    "erfnet": ("ERFNet", LMANetConfig(baseline=True)),
    "lmanet_erf": ("LMANet-ERFNet", LMANetConfig()),
    "pspnet101": ("PSPNet-101", LMANetConfig(backbone="psp101", baseline=True)),
    "lmanet_psp101": ("LMANet-PSPNet-101", LMANetConfig(backbone="psp101")),
    "resnet101": ("ResNet-101", LMANetConfig(backbone="psp101", baseline=True)),
}
VARIANTS = {
    "--fusion-strategy sigmoid-do2": {"fusion": "sigmoid-do2"},
    "--fusion-strategy sigmoid-do3": {"fusion": "sigmoid-do3"},
    "--fusion-strategy sigmoid": {"fusion": "sigmoid"},
    "--fusion-strategy linear": {"fusion": "linear"},
    "--fusion-strategy concat": {"fusion": "concat"},
    "--fusion-strategy simple-sigmoid": {"fusion": "simple-sigmoid"},
    "--model-struct mem_only": {"structure": "mem_only"},
    "--model-struct aux_mem_loss": {"structure": "aux_mem_loss"},
    "--model-struct original_kv_fusion": {"structure": "original_kv_fusion"},
    "--learnable-constant": {"learnable_constant": True},
    "--learnable-constant --no-local-correlation": {"learnable_constant": True, "local": False},
    "--no-local-correlation": {"local": False},
    "--shallow-dec": {"shallow_decoder": True},
    "--backbone-nobn": {"batch_norm": False},
}
MEMORY = ("memory_head.", "query_head.", "fusion.")


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(found[name], expected[name])] == []


def total(keys) -> int:
    return sum(math.prod(shape) for shape in keys.values())


@pytest.fixture(scope="module")
def erfnet(published):
    return published("erfnet")


@pytest.fixture(scope="module")
def lmanet_erf(published):
    return published("lmanet_erf")


@pytest.fixture(scope="module")
def variant_keys(key_list):
    def keys(option):
        variant, base = key_list("lmanet_erf_variants")[option], key_list("lmanet_erf")
        return {name: shape for name, shape in base.items() if name not in variant["less"]} | variant["more"]

    return keys


@pytest.mark.parametrize("name", FILES)
def test_published_file_is_written_as_it_was_read(simple_file, unset_model, key_list, name):
    label, config = FILES[name]
    file = simple_file(key_list(name))
    model = unset_model(config)
    report = load_weights(model, {"state_dict": file} if name == "pspnet101" else file)
    assert report.kind == label
    assert_same(published_state_dict(model, trained=False), file)
    if name != "resnet101":  # after training a psp101 is a PSPNet, and more than its encoder
        assert_same(published_state_dict(model), file)
        assert f"its file ({label}): {len(file)} tensors, {total(key_list(name)):,} numbers" in describe(model)


@pytest.mark.parametrize("option", VARIANTS)
def test_variant_is_written_as_it_was_read(made_file, unset_model, variant_keys, tmp_path, option):
    keys = variant_keys(option)
    model = unset_model(LMANetConfig(**VARIANTS[option]))
    text = describe(model)
    assert f"its file (LMANet-ERFNet): {len(keys)} tensors, {total(keys):,} numbers" in text
    file = made_file(keys)
    torch.save(file, tmp_path / "in.pth")
    report = load_weights(model, tmp_path / "in.pth")
    assert (report.unused, report.fresh) == ((), ())
    assert export_weights(model, tmp_path / "out.pth") == "LMANet-ERFNet"
    assert_same(torch.load(tmp_path / "out.pth", weights_only=True), file)


def test_names_mean_the_same_in_all_files_of_a_backbone(simple_file, unset_model, key_list):
    """One PSPNet's weights under three tables of names, written down here, end in the same tensors."""
    lmanet = simple_file(key_list("lmanet_psp101"))
    pspnet, resnet = {}, {}
    stem = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
    for name, tensor in lmanet.items():
        name = name.removeprefix("module.")
        if name.startswith("encoder.layer0."):
            _, _, place, ending = name.split(".")
            resnet[f"{stem[place]}.{ending}"] = tensor
        elif name.startswith("encoder."):
            resnet[name.removeprefix("encoder.")] = tensor
        if name.startswith(("encoder.", "decoder.")):
            pspnet[name.partition(".")[2]] = tensor
        elif name.startswith("ppm."):
            pspnet[name] = tensor
    model = unset_model(LMANetConfig(backbone="psp101", baseline=True))
    load_weights(model, lmanet)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model = unset_model(LMANetConfig(backbone="psp101", baseline=True))
    report = load_weights(model, resnet)
    assert len(report.fresh) == len([name for name in expected if name.startswith("decoder.")])
    assert_same(model.encoder.state_dict(), {n[8:]: t for n, t in expected.items() if n.startswith("encoder.")})
    assert load_weights(model, pspnet).fresh == ()
    assert_same(model.state_dict(), expected)


def test_memory_starts_fresh_from_a_single_frame_file(erfnet):
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(learnable_constant=True))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_weights(model, erfnet)
    memory = [name for name in before if name.startswith((*MEMORY, "attention_constant"))]
    assert list(report.fresh) == memory
    assert report.unused == ("encoder.output_conv.bias", "encoder.output_conv.weight")
    assert_same({n: model.state_dict()[n] for n in memory}, {n: before[n] for n in memory})
    assert torch.equal(model.encoder.initial_block.conv.weight, erfnet["module.encoder.initial_block.conv.weight"])
    # Nothing was trained: it is written as the ERFNet that it still is. Trained, it is an LMANet.
    assert_same(published_state_dict(model, trained=False), erfnet)
    assert "module.encoder.output_conv.weight" not in published_state_dict(model)
    assert "module.kv_M_r4.Key.weight" in published_state_dict(model)


def test_a_copied_model_still_carries_what_has_no_use(erfnet):
    model = build_lmanet(LMANetConfig(baseline=True))
    load_weights(model, erfnet)
    assert_same(published_state_dict(copy.deepcopy(model)), erfnet)
    assert_same(published_state_dict(pickle.loads(pickle.dumps(model))), erfnet)


def test_baseline_takes_its_parts_of_an_lmanet(lmanet_erf):
    model = build_lmanet(LMANetConfig(baseline=True))
    report = load_weights(model, lmanet_erf)
    assert report.fresh == ()
    assert len(report.unused) == 31 and all(name.startswith(("kv_", "memory_fusion.")) for name in report.unused)
    assert len(published_state_dict(model)) == 374 - 31


@pytest.mark.parametrize("backbone", ["erf", "psp101"])
@pytest.mark.parametrize("baseline", [True, False])
def test_own_names_are_read(simple_file, unset_model, backbone, baseline):
    model = unset_model(LMANetConfig(backbone=backbone, baseline=baseline))
    saved = simple_file({name: list(tensor.shape) for name, tensor in model.state_dict().items()})
    report = load_weights(model, saved)
    assert (report.unused, report.fresh) == ((), ())
    assert_same(model.state_dict(), saved)


def test_full_decoder_starts_fresh_after_a_shallow_run(lmanet_erf):
    torch.manual_seed(2)
    shallow = build_lmanet(LMANetConfig(shallow_decoder=True))
    report = load_weights(shallow, lmanet_erf)
    assert report.fresh == ("decoder.classifier.weight", "decoder.classifier.bias")
    saved = published_state_dict(shallow)
    assert "module.decoder.output_conv.weight" not in saved

    full = build_lmanet(LMANetConfig())
    fresh = {name: tensor.clone() for name, tensor in full.decoder.state_dict().items()}
    report = load_weights(full, saved)
    assert all(name.startswith("decoder.") for name in report.fresh) and len(report.fresh) == len(fresh)
    assert report.unused == ("decoder.output_conv_stm_shallow.bias", "decoder.output_conv_stm_shallow.weight")
    assert_same(full.decoder.state_dict(), fresh)
    assert_same(full.encoder.state_dict(), shallow.encoder.state_dict())
    assert_same(full.fusion.state_dict(), shallow.fusion.state_dict())


def test_shallow_baseline_shares_the_encoders_output_with_erfnets_file(erfnet):
    shallow = build_lmanet(LMANetConfig(shallow_decoder=True, baseline=True))
    load_weights(shallow, erfnet)
    assert torch.equal(shallow.decoder.classifier.weight, erfnet["module.encoder.output_conv.weight"])
    full = build_lmanet(LMANetConfig(baseline=True))
    report = load_weights(full, published_state_dict(shallow))
    assert report.fresh and all(name.startswith("decoder.") for name in report.fresh)


def test_part_counts_of_an_erfnet(key_list):
    model = build_lmanet(LMANetConfig(baseline=True))
    keys = {name.removeprefix("module."): shape for name, shape in key_list("erfnet").items()}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for part in ("encoder", "decoder"):
        held = {n: s for n, s in keys.items() if n.startswith(part) and not n.startswith("encoder.output_conv")}
        learned = total({n: s for n, s in held.items() if not n.endswith(statistics)})
        assert f"{part:<16}{learned:>14,}{learned:>14,}{total(held):>14,}" in describe(model)


def with_renamed(file):
    file["module.encoder.layers.0.conv.wieght"] = file.pop("module.encoder.layers.0.conv.weight")


def without_one(file):
    del file["module.kv_Q_r4.Value.bias"]


def with_another_shape(file):
    file["module.kv_M_r4.Key.weight"] = torch.zeros(32, 128, 3, 3)


def with_nan(file):
    file["module.memory_fusion.bn.weight"][7] = math.nan


def with_infinity(file):
    file["module.encoder.initial_block.bn.running_var"][0] = math.inf


def too_large_for_float32(file):
    file["module.decoder.output_conv.bias"] = torch.full((20,), 1e300, dtype=torch.float64)


def as_integers(file):
    file["module.decoder.output_conv.bias"] = torch.zeros(20, dtype=torch.int8)


def as_sparse(file):
    file["module.decoder.output_conv.bias"] = torch.zeros(20).to_sparse()


def with_one_more(file):
    file["module.memory_module_local.const"] = torch.zeros(1)


def with_a_number(file):
    file["module.epoch"] = 3


def twice(file):
    file["decoder.output_conv.bias"] = file["module.decoder.output_conv.bias"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (with_renamed, ["1 tensor missing", "encoder.layers.0.conv.weight", "without a place", "conv.wieght"]),
        (without_one, ["1 tensor missing", "LMANet-ERFNet (original, sigmoid-do1): kv_Q_r4.Value.bias"]),
        (with_another_shape, ["kv_M_r4.Key.weight has shape [32, 128, 3, 3]: expected [16, 128, 3, 3]"]),
        (with_nan, ["memory_fusion.bn.weight holds numbers that are not finite"]),
        (with_infinity, ["encoder.initial_block.bn.running_var holds numbers that are not finite"]),
        (too_large_for_float32, ["decoder.output_conv.bias holds numbers that are not finite"]),
        (as_integers, ["decoder.output_conv.bias is of torch.int8: expected torch.float32"]),
        (as_sparse, ["decoder.output_conv.bias is no plain tensor"]),
        (with_one_more, ["memory_module_local.const", "the options it was trained with"]),
        (with_a_number, ["'module.epoch' is no tensor"]),
        (twice, ["decoder.output_conv.bias with and without 'module.'"]),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_spoiled_file_is_refused_and_the_model_stays(lmanet_erf, spoil, words):
    model = build_lmanet(LMANetConfig())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    file = {name: tensor.clone() for name, tensor in lmanet_erf.items()}
    spoil(file)
    with pytest.raises(WeightsError) as error:
        load_weights(model, file)
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)
    assert_same(model.state_dict(), before)


def test_nan_is_refused_also_where_it_would_not_be_used(erfnet):
    file = erfnet | {"module.encoder.output_conv.bias": torch.full((20,), math.nan)}
    with pytest.raises(WeightsError, match=r"encoder.output_conv.bias holds numbers that are not finite"):
        load_weights(build_lmanet(LMANetConfig()), file)


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("lmanet_psp101", LMANetConfig(), "looks like LMANet-PSPNet-101: expected a file of --backbone erf, or"),
        (
            "pspnet101",
            LMANetConfig(),
            "looks like PSPNet-101: expected a file of --backbone erf, or give --backbone psp1",
        ),
        ("resnet101", LMANetConfig(), "looks like ResNet-101: expected"),
        (
            "lmanet_erf",
            LMANetConfig(backbone="psp101"),
            "looks like LMANet-ERFNet: expected a file of --backbone psp101",
        ),
        ("erfnet", LMANetConfig(backbone="psp101"), "looks like ERFNet: expected a file of --backbone psp101"),
    ],
)
def test_file_of_another_backbone_is_named(key_list, name, config, words):
    file = {key: torch.empty(shape, device="meta") for key, shape in key_list(name).items()}
    with torch.device("meta"):
        model = build_lmanet(config)
    with pytest.raises(WeightsError, match=words):
        load_weights(model, file)


def test_unknown_network_is_named_so():
    model = build_lmanet(LMANetConfig())
    with pytest.raises(WeightsError, match=r"looks like no network that is known here \(it holds a.weight, a.bias\)"):
        load_weights(model, torch.nn.Sequential().state_dict() | {"a.weight": torch.zeros(1), "a.bias": torch.zeros(1)})


class RunsCode:
    def __reduce__(self):
        return print, ("code ran",)


def test_files_that_are_no_weights_are_refused(lmanet_erf, tmp_path, capsys):
    torch.save(lmanet_erf, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    files = {
        "cut.pth": (whole[: len(whole) // 2], "damaged or cut short"),
        "text.pth": (b"these are no weights\n", "damaged or cut short"),
        "empty.pth": (b"", "damaged or cut short"),
        "pickle.pth": (pickle.dumps({"state_dict": RunsCode()}), "expected"),
    }
    model = build_lmanet(LMANetConfig())
    for name, (content, words) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name}: .*{words}"):
            load_weights(model, tmp_path / name)
    for zipped in (True, False):
        torch.save({"state_dict": RunsCode()}, tmp_path / "code.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match=r"code.pth: .*could run code"):
            load_weights(model, tmp_path / "code.pth")
    for content in ([], {}, {"state_dict": {}}, torch.zeros(3)):
        torch.save(content, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match=r"other.pth: (holds no weights|.* is no tensor)"):
            load_weights(model, tmp_path / "other.pth")
    assert "code ran" not in capsys.readouterr().out


def test_export_is_whole_or_not_at_all(tmp_path, monkeypatch):
    model = build_lmanet(LMANetConfig(baseline=True))
    with pytest.raises(WeightsError, match="its folder is not there"):
        export_weights(model, tmp_path / "absent" / "out.pth")
    with pytest.raises(WeightsError, match="is a folder"):
        export_weights(model, tmp_path)

    def fails_half_way(content, file):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "out.pth").write_text("what was there")
    monkeypatch.setattr(torch, "save", fails_half_way)
    with pytest.raises(WeightsError, match=r"out.pth: cannot be written \(No space left on device\)"):
        export_weights(model, tmp_path / "out.pth")
    assert [file.name for file in tmp_path.iterdir()] == ["out.pth"]
    assert (tmp_path / "out.pth").read_text() == "what was there"


def test_export_needs_nothing_of_the_model_but_its_weights(tmp_path):
    model = build_lmanet(LMANetConfig(baseline=True)).to(memory_format=torch.channels_last)
    export_weights(model, tmp_path / "out.pth")
    again = build_lmanet(LMANetConfig(baseline=True))
    assert load_weights(again, tmp_path / "out.pth").fresh == ()
    assert_same(again.state_dict(), model.state_dict())
