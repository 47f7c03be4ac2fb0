"""Evaluation takes the fast copy of the network: figures of the network itself, less work, an honest time."""

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from datasets.streamed_clips import StreamedClips
from engine.data import clips_of, evaluation_loader_of
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.dense import ClipStream, last_logits
from engine.evaluation.evaluate import Evaluation, evaluate
from engine.modes import evaluation as mode
from engine.modes.evaluation import time_text
from engine.training.setup import loss_function
from main import main
from models import build_lmanet
from models.inference.fast_copy import fast_copy
from models.weights.export import published_state_dict
from tests import farm
from tests.engine.evaluation.test_dense import CPU, network, settings_for
from tests.engine.evaluation.test_evaluation import report_of
from tests.models.inference.test_fast_copy import with_lively_norms
from tests.networks import LMANetConfig

TRAINED = Path(__file__).resolve().parents[3] / "trained_models"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Clips of which the last frame is labeled, and of which all frames are."""
    return {
        is_dense: farm.write_folders(tmp_path_factory.mktemp("clips"), dense=is_dense) for is_dense in (False, True)
    }


def lively(**fields) -> nn.Module:
    return with_lively_norms(network(**fields).requires_grad_(False))


def loader_for(model, file, window: int = 4, control: str | None = None):
    settings = replace(settings_for(file, window), control=control)
    return evaluation_loader_of(settings, clips_of(settings, model.config, "val"), model, "val", CPU)


def evaluated(model, loader) -> Evaluation:
    loss = loss_function(farm.CLASSES, model.config.shallow_decoder, CPU)
    return evaluate(model, loader, loss, CPU, memory_format=torch.channels_last)


def assert_same_figures(found: Evaluation, expected: Evaluation) -> None:
    """The same to 0.01 points; the loss to a ten-thousandth."""
    assert found.clips == expected.clips > 0
    assert 100 * found.confusion.mean_iou() == pytest.approx(100 * expected.confusion.mean_iou(), abs=0.01)
    assert 100 * found.confusion.accuracy() == pytest.approx(100 * expected.confusion.accuracy(), abs=0.01)
    assert found.loss == pytest.approx(expected.loss, rel=1e-4)
    assert (found.dense is None) == (expected.dense is None)
    if found.dense is not None and expected.dense is not None:
        mean_ious = [100 * each.dense.report()["mean_iou"] for each in (found, expected)]
        assert mean_ious[0] == pytest.approx(mean_ious[1], abs=0.01)


@pytest.mark.parametrize("is_dense", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"structure": "original_kv_fusion"},
        pytest.param({"baseline": True}, marks=pytest.mark.slow),
        pytest.param({"memorize_first": True, "learnable_constant": True}, marks=pytest.mark.slow),
        pytest.param({"fusion": "residual"}, marks=pytest.mark.slow),
        pytest.param({"structure": "mem_only"}, marks=pytest.mark.slow),
        pytest.param({"memory_strategy": "skip_01"}, marks=pytest.mark.slow),
        pytest.param({"shallow_decoder": True, "mask_border": True}, marks=pytest.mark.slow),
        pytest.param({"local": False, "memory_size": 3}, marks=pytest.mark.slow),
        pytest.param({"backbone": "torchvision/lraspp_mobilenet_v3_large"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_figures_are_those_of_the_network_itself(files, fields, is_dense):
    model = lively(**fields)
    loader = loader_for(model, files[is_dense], 5)
    is_streamed = isinstance(loader.dataset, StreamedClips)
    assert is_streamed == (is_dense and fields.get("structure") != "original_kv_fusion")
    assert_same_figures(evaluated(fast_copy(model, for_clips=not is_streamed), loader), evaluated(model, loader))


def test_clips_that_go_on_from_one_memory_do_not_change_it():
    """Labels of frames 1, 2 and 3: the later two both go on with the memory of the first."""
    model = lively()
    torch.manual_seed(0)
    frames = [torch.rand(1, 3, 32, 64) for _ in range(4)]
    stream = [SimpleNamespace(after=after) for after in (None, 0, 0)]
    for each in (model, fast_copy(model)):
        clips = ClipStream(each, SimpleNamespace(stream=stream))
        clips.logits(frames[:2], 0)
        with torch.no_grad():
            for position, last in ((1, 2), (2, 3)):
                expected = model(torch.stack([*frames[:2], frames[last]], dim=1))
                found = clips.logits([frames[last]], position)
                assert torch.allclose(found, expected, atol=1e-5 * expected.abs().max())


def test_each_part_runs_where_it_is_needed_only(files):
    """Two clips of four frames: all are encoded, three remembered, the last one reads and is decoded."""
    model = fast_copy(lively(always_decode=True), for_clips=True)
    calls: Counter[str] = Counter()
    for name in ("encoder", "memory_head", "query_head", "read", "fusion", "decoder"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: calls.update([name]))
    evaluated(model, loader_for(model, files[False]))
    assert calls == {"encoder": 8, "memory_head": 6, "query_head": 2, "read": 2, "fusion": 2, "decoder": 2}
    assert model.memory_head.joined.conv.out_channels == model.config.traits.key_channels + model.config.value_channels


def test_frames_reach_the_network_channels_last(files):
    model = fast_copy(lively(), for_clips=True)
    seen = []
    model.encoder.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    evaluated(model, loader_for(model, files[False]))
    assert seen and all(seen)


def test_the_last_logits_are_those_of_the_clip():
    model, clip = network(memory_size=3), torch.rand(2, 4, 3, 32, 64)
    with torch.no_grad():
        assert torch.equal(last_logits(model, clip.unbind(1))[0], model(clip))


def test_the_time_of_a_frame_leaves_out_the_warm_up():
    def measured(*batches: tuple[float, int]) -> Evaluation:
        result = Evaluation(ConfusionMatrix(3), ConfusionMatrix(3))
        for seconds, frames in batches:
            result.add_time(seconds, frames)
        return result

    clips = measured((7.5, 5), (1, 5), (2, 5), (1.5, 5))
    assert (clips.network_seconds_per_frame(), clips.timed_batches, clips.warm_up) == (pytest.approx(0.3), 3, 1)
    assert time_text(clips) == "0.3000 s a frame in the network (median of 3 clips after 1 of warm-up)"
    single_frames = measured((9, 1), (5, 1), (2, 1), (1, 1))
    assert (single_frames.network_seconds_per_frame(), single_frames.warm_up) == (1, 3)
    one = measured((7.5, 5))
    assert one.network_seconds_per_frame() is None
    assert time_text(one) == "the time in the network was not measured, as its 5 frames are no more than a warm-up"


def test_an_evaluation_of_one_clip_measures_no_time(command, own_toytown, tmp_path, capsys):
    for number in (101, 102):
        for path in own_toytown.glob(f"gtFine/val/*/*_{number:06d}_*"):
            path.unlink()
    assert main(command("--eval-mode", data=own_toytown)) == 0
    report = report_of(tmp_path / "run")
    assert (report["clips"], report["network_seconds_per_frame"], report["network_seconds_of_clips"]) == (1, None, 0)
    assert "was not measured" in capsys.readouterr().out
    assert "not measured" in (tmp_path / "run" / "report.html").read_text()


def figures_of(arguments: list[str], savedir: Path) -> dict:
    assert main([*arguments, "--savedir", str(savedir)]) == 0
    return report_of(savedir)


def assert_fast_and_plain_agree(arguments: list[str], folder: Path, monkeypatch) -> None:
    """Runs ``--eval-mode`` as it is, and with the network itself in place of its fast copy."""
    copies = []

    def counted(model, **options):
        copies.append(options)
        return fast_copy(model, **options)

    monkeypatch.setattr(mode, "fast_copy", counted)
    fast = figures_of(arguments, folder / "fast")
    assert len(copies) == 1
    monkeypatch.setattr(mode, "fast_copy", lambda model, **_: model)
    plain = figures_of(arguments, folder / "plain")
    close = partial(pytest.approx, abs=0.01, nan_ok=True)
    for name in ("mean_iou", "accuracy"):
        assert 100 * fast[name] == close(100 * plain[name])
    assert fast["iou"].keys() == plain["iou"].keys()
    for name, share in fast["iou"].items():
        assert (share is None) == (plain["iou"][name] is None)
        assert share is None or 100 * share == close(100 * plain["iou"][name])
    assert fast["loss"] == pytest.approx(plain["loss"], rel=1e-4)


def test_every_option_of_an_evaluation_goes_with_it(command, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = with_lively_norms(build_lmanet(LMANetConfig(corr_size=3)).requires_grad_(False))
    torch.save(published_state_dict(model), tmp_path / "lmanet.pth")
    options = ("--eval-mode", "--loss", "--use-orig-res", "--consistency", "--smooth", "average", "--save-images")
    assert_fast_and_plain_agree(command(*options, weights=tmp_path / "lmanet.pth"), tmp_path, monkeypatch)
    names = [{path.name for path in (tmp_path / run / "images").iterdir()} for run in ("fast", "plain")]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["erfnet_street.pth", "lmanet_erf_street.pth"])
def test_figures_on_drawn_clips(weights, tmp_path, monkeypatch):
    alone = ["--baseline-mode"] if weights.startswith("erfnet") else []
    arguments = ["--eval-mode", "--loss", "--dataset", "Synthetic", "--weights", str(TRAINED / weights), *alone]
    arguments += ["--data-root", str(tmp_path / "streets"), "--device", "cpu"]
    assert_fast_and_plain_agree(arguments, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("alone", [["--baseline-mode"], ["--stm-queue-size", "4"]], ids=["single", "memory"])
def test_figures_on_real_clips(shared, alone, tmp_path, monkeypatch):
    real = shared / "real"
    weights = real / "weights" / "erfnet_pretrained.pth"
    arguments = ["--eval-mode", "--loss", "--backbone", "erf", "--weights", str(weights), "--device", "cpu", *alone]
    arguments += ["--data-root", str(real / "cityscapes")]
    assert_fast_and_plain_agree(arguments, tmp_path, monkeypatch)
