"""Consistency over a labeled data set from the command line."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from engine.evaluation.consistency import Comparison
from engine.evaluation.smoothing_weight import best_weight
from engine.reports.scores import percent
from main import main
from models import VideoSegmenter, build_lmanet
from models.weights.export import published_state_dict
from tests.engine.conftest import write_snippet
from tests.engine.videos import moving_blocks
from tests.networks import LMANetConfig

FRAMES = 10


@pytest.fixture
def labelled_throughout(tmp_path) -> Path:
    """Two still snippets of ten frames, all of them labeled."""
    root = tmp_path / "town"
    for number in (1, 2):
        write_snippet(root, "val", number)
        (label,) = root.glob(f"gtFine/val/toytown/toytown_{number:06d}_*")
        image, ids = (
            Image.open(next(root.glob(f"leftImg8bit_sequence/val/toytown/toytown_{number:06d}_*"))),
            Image.open(label),
        )
        ids.load(), image.load()
        for t in range(FRAMES):
            name = f"toytown_{number:06d}_{t:06d}"
            image.save(root / "leftImg8bit_sequence/val/toytown" / f"{name}_leftImg8bit.png")
            ids.save(label.parent / f"{name}_gtFine_labelIds.png")
    return root


def test_an_evaluation_reports_both_measures(command, labelled_throughout, tmp_path, capsys):
    options = ["--eval-mode", "--baseline-mode", "--consistency"]
    assert main(command(*options, data=labelled_throughout)) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = report["consistency"]
    assert (found["pairs"], found["sequences"]) == (2 * (FRAMES - 1), 2)
    # Every frame is the same one: its labels never change, and are right as often as in a single frame.
    assert found["tc"]["single_frame"] == 1
    assert found["mvc"]["single_frame"]["mVC16"] is None
    per_image = found["mvc"]["single_frame"]["mVC8"]
    of_videos = [found["videos"][name]["single_frame"] for name in ("toytown_000001", "toytown_000002")]
    assert sum(video["mVC8"] for video in of_videos) / 2 == pytest.approx(per_image)
    assert all(video["TC"] == 1 and video["mVC8"] == pytest.approx(video["accuracy"]) for video in of_videos)
    assert 0 <= per_image <= 1
    assert f"single_frame: TC 100.00 %, mVC8 {100 * per_image:.2f} %, mVC16 nan %" in capsys.readouterr().out


def test_a_window_of_one_frame_is_no_limit_and_what_is_missing_is_said(command, toytown, tmp_path, capsys):
    assert main(command("--eval-mode", "--baseline-mode", "--consistency")) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = report["consistency"]
    assert (report["frames_per_clip"], found["pairs"], found["sequences"]) == (1, 3 * 3, 3)
    assert 0 <= found["tc"]["single_frame"] <= 1
    # The labels are those of the evaluation itself, seen once more as part of their videos.
    for figure in ("mean_iou", "accuracy", "boundary_iou"):
        assert found["scores"]["single_frame"][figure] == pytest.approx(report[figure], abs=1e-3)
    assert len(found["videos"]) == 3
    assert "mVC8 is not defined here: no video has 8 labeled frames in a row" in capsys.readouterr().out


def test_single_frames_have_no_temporal_consistency_which_is_said(command, own_toytown, capsys):
    (own_toytown / "leftImg8bit_sequence").rename(own_toytown / "leftImg8bit")
    for frame in own_toytown.glob("leftImg8bit/*/toytown/*"):
        if not frame.name.endswith("000003_leftImg8bit.png"):
            frame.unlink()
    assert main(command("--eval-mode", "--baseline-mode", "--consistency", data=own_toytown)) == 0
    out = capsys.readouterr().out
    assert "single_frame: TC nan %" in out
    assert "TC is not defined here: no video has two frames in a row" in out


@pytest.mark.parametrize(("kind", "weight"), [("average", 0.0), ("flow", 0.9)])
def test_smoothed_and_plain_predictions_stand_side_by_side(command, toytown, tmp_path, kind, weight, capsys):
    torch.manual_seed(0)
    file = tmp_path / "lmanet.pth"
    torch.save(published_state_dict(build_lmanet(LMANetConfig(corr_size=3))), file)
    words = ["--eval-mode", "--consistency", "--smooth", kind, "--smooth-weight", str(weight)]
    assert main(command(*words, weights=file)) == 0
    found = json.loads((tmp_path / "run" / "report.json").read_text())["consistency"]
    names = ["single_frame", "single_frame_smoothed", "lmanet", "lmanet_smoothed"]
    assert list(found["tc"]) == list(found["scores"]) == list(found["mvc"]) == names
    assert found["smoothing"] == {"kind": kind, "weight": weight}
    for name in ("single_frame", "lmanet"):  # without a weight the past does not count
        assert (found["tc"][name] == found["tc"][f"{name}_smoothed"]) == (weight == 0)
    page = (tmp_path / "run" / "report.html").read_text()
    for name in names:
        keys = "boundary_iou", "mean_iou", "accuracy"
        cells = [found["tc"][name], None, None, *(found["scores"][name][key] for key in keys)]
        shown = "".join(f'<td class="n">{percent(cell)}</td>' for cell in cells)
        assert f"<tr><td>{name.replace('_', ' ')}</td>{shown}" in page
    out = capsys.readouterr().out
    assert [out.index(f"{name}: TC") for name in names] == sorted(out.index(f"{name}: TC") for name in names)


@torch.inference_mode()
def test_the_smoothed_single_frame_is_that_of_the_network_without_its_memory():
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(corr_size=3)).eval()
    single = build_lmanet(LMANetConfig(baseline=True)).eval()
    single.load_state_dict({name: each for name, each in model.state_dict().items() if name in single.state_dict()})
    both, alone = (VideoSegmenter(each, work_size=(32, 64), smooth="flow") for each in (model, single))
    comparison, expected = Comparison(both), Comparison(alone)
    for frame in moving_blocks(4, 32, 64):
        found, wanted = (
            comparison.labels(image, segmenter.step(image))
            for comparison, segmenter in ((comparison, both), (expected, alone))
            for image in (segmenter.prepare(frame),)
        )
        for name in ("single_frame", "single_frame_smoothed"):
            assert (found[name] == wanted[name]).mean() > 0.999


def test_the_weight_is_chosen_on_training_clips(command, toytown, tmp_path, capsys):
    words = ["--eval-mode", "--baseline-mode", "--consistency", "--smooth", "average", "--smooth-weight", "auto"]
    assert main(command(*words)) == 0
    smoothing = json.loads((tmp_path / "run" / "report.json").read_text())["consistency"]["smoothing"]
    by_weight = smoothing["mean_iou_on_training_clips"]
    assert list(by_weight) == ["0.1", "0.3", "0.5", "0.7", "0.9", "0.95"]
    assert by_weight[f"{smoothing['weight']:g}"] == max(by_weight.values())
    assert f"smoothing with weight {smoothing['weight']:g}, the best one on training clips" in capsys.readouterr().out


def test_the_best_weight_is_the_least_of_equal_ones():
    assert best_weight({0.5: 0.7, 0.1: 0.6, 0.3: 0.7}) == 0.3
