"""Evaluation from the command line: figures, files, and agreement with the benchmark's own scripts."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

from engine.reports.baseline import read_report
from main import main
from utils.errors import OptionError

REAL_WEIGHTS = "real/weights/erfnet_pretrained.pth"


def report_of(run):
    return json.loads((run / "report.json").read_text())


def test_report_and_table(command, tmp_path, capsys):
    assert main(command("--eval-mode", "--loss", "--use-orig-res")) == 0
    report = report_of(tmp_path / "run")
    assert report["clips"] == 3
    assert report["frames_per_clip"] == 4
    assert 0 <= report["mean_iou"] <= 1
    assert report["iou"]["train"] is None or report["iou"]["train"] == 0
    assert report["loss"] > 0
    assert report["network_seconds_per_frame"] > 0
    assert set(report["original_size"]) == {"mean_iou", "accuracy", "iou"}
    output = capsys.readouterr().out
    assert f"mean          {100 * report['mean_iou']:>8.2f}" in output
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *("args.txt", "lmanet.py", "model.txt", "report.json", "report.html")
    }


def test_gain_over_an_earlier_evaluation(command, tmp_path, capsys):
    assert main(command("--eval-mode", "--baseline-mode", savedir=tmp_path / "base")) == 0
    capsys.readouterr()
    assert main(command("--eval-mode", "--baseline-path", str(tmp_path / "base"))) == 0
    gain = report_of(tmp_path / "run")["mean_iou"] - report_of(tmp_path / "base")["mean_iou"]
    mean = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("mean"))
    assert mean.split()[-1] == f"{100 * gain:+.2f}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"mean_iou": "y", "iou": {"road": 0.5}}', "mean_iou is 'y', expected a number"),
        ('{"mean_iou": 0.5, "iou": {"road": [0.5]}}', "iou of road is '[0.5]', expected a number"),
        ('{"mean_iou": 0.5, "iou": {"road": true}}', "iou of road is 'True', expected a number"),
        ('{"mean_iou": 0.5, "iou": "road"}', ""),
        ('{"mean_iou": NaN, "iou": {}}', "NaN is no JSON"),
        ('{"mean_iou": 1e999, "iou": {}}', "mean_iou is 'inf', expected a number"),
        ('{"iou": {}}', "it lacks 'mean_iou'"),
        ('{"iou":' * 100_000, "it is nested too deeply"),
        ("[" * 100_000, "it is nested too deeply"),
    ],
)
def test_a_baseline_that_is_no_report_is_refused(tmp_path, text, reason):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(
        OptionError, match=re.escape(f"--baseline-path {tmp_path}: its report.json cannot be read (")
    ) as e:
        read_report(tmp_path)
    assert reason in str(e.value) and "\n" not in str(e.value)


def test_scores_that_are_no_numbers_end_an_evaluation(command, erfnet_file, tmp_path, capsys):
    weights = torch.load(erfnet_file, weights_only=True)
    for name in [name for name in weights if ".decoder." in name and name.endswith("weight")]:
        weights[name] = weights[name] / weights[name].abs().max() * 3e38
    torch.save(weights, tmp_path / "huge.pth")
    assert main(command("--eval-mode", "--loss", "--baseline-mode", weights=tmp_path / "huge.pth")) == 2
    said = "000003: the network's scores are not finite (NaN or infinity): expected finite numbers; try other --weights"
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run" / "report.json").exists()


def test_figures_over_no_labeled_pixel_are_null(command, own_toytown, tmp_path):
    for path in own_toytown.glob("gtFine/val/*/*.png"):
        Image.fromarray(np.zeros((64, 128), np.uint8)).save(path)
    assert main(command("--eval-mode", "--loss", "--baseline-mode", data=own_toytown)) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text(), parse_constant=pytest.fail)
    assert (report["mean_iou"], report["accuracy"], set(report["iou"].values())) == (None, None, {None})


def test_pictures_of_each_clip(command, tmp_path):
    assert main(command("--eval-mode", "--save-images")) == 0
    names = {path.name for path in (tmp_path / "run" / "images").iterdir()}
    kinds = ("frame", "label", "prediction", "overlay", "errors")
    assert names == {"legend.png"} | {f"toytown_{n:06d}_000003_{kind}.png" for n in (100, 101, 102) for kind in kinds}
    assert Image.open(tmp_path / "run" / "images" / "toytown_000100_000003_label.png").size == (64, 32)


def benchmark_mean_iou(predictions, labels, monkeypatch) -> float:
    """What cityscapesScripts says of predictions on disk."""
    evaluation = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    arguments = evaluation.args
    monkeypatch.setattr(arguments, "predictionWalk", None)
    monkeypatch.setattr(arguments, "predictionPath", str(predictions))
    monkeypatch.setattr(arguments, "JSONOutput", False)
    monkeypatch.setattr(arguments, "quiet", True)
    monkeypatch.setattr(arguments, "evalInstLevelScore", False)
    truths = sorted(str(path) for path in labels.rglob("*_gtFine_labelIds.png"))
    found = [evaluation.getPrediction(arguments, truth) for truth in truths]
    with contextlib.redirect_stdout(io.StringIO()):
        return evaluation.evaluateImgLists(found, truths, arguments)["averageScoreClasses"]


def test_iou_agrees_with_the_benchmarks_own_scripts(command, tmp_path, toytown, monkeypatch):
    assert main(command("--eval-mode", "--save-all-vals", "--use-orig-res")) == 0
    predictions = tmp_path / "run" / "predictions"
    assert np.asarray(Image.open(next(predictions.rglob("*_labelIds.png")))).shape == (64, 128)
    theirs = benchmark_mean_iou(predictions, toytown / "gtFine" / "val", monkeypatch)
    assert report_of(tmp_path / "run")["original_size"]["mean_iou"] == pytest.approx(theirs, abs=1e-6)


def test_real_clip_gives_the_known_figures(shared, tmp_path, monkeypatch):
    real = shared / "real" / "cityscapes"
    options = f"--eval-mode --baseline-mode --weights {shared / REAL_WEIGHTS} --backbone erf --data-root {real}"
    assert main([*options.split(), "--savedir", str(tmp_path), "--save-all-vals", "--use-orig-res"]) == 0
    report = report_of(tmp_path)
    assert 100 * report["mean_iou"] == pytest.approx(65.71, abs=0.15)
    assert 100 * report["accuracy"] == pytest.approx(97.67, abs=0.15)
    theirs = benchmark_mean_iou(tmp_path / "predictions", real / "gtFine" / "val", monkeypatch)
    assert report["original_size"]["mean_iou"] == pytest.approx(theirs, abs=1e-6)


def test_evaluation_is_the_same_every_time(command, tmp_path):
    for run in ("a", "b"):
        assert main(command("--eval-mode", savedir=tmp_path / run)) == 0
    first, second = report_of(tmp_path / "a"), report_of(tmp_path / "b")
    assert first["iou"] == second["iou"]


def test_memory_strategy_random_is_the_same_for_the_same_seed(command, tmp_path):
    for run in ("a", "b"):
        options = ("--eval-mode", "--memory-strategy", "random", "--stm-queue-size", "2", "--win-size", "4")
        assert main(command(*options, savedir=tmp_path / run)) == 0
    assert report_of(tmp_path / "a")["iou"] == report_of(tmp_path / "b")["iou"]


def test_normalisation_is_for_images_alone():
    from models.backbone import BackboneTraits
    from models.normalize import network_input
    from tests.networks import BACKBONES

    frames = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 3, 1, 1)
    cpu = torch.device("cpu")
    assert network_input(frames, BACKBONES["erf"], cpu).flatten().tolist() == pytest.approx([0, 1, 0.2])
    fields = {**BACKBONES["erf"].__dict__, "mean": (0.5, 0.5, 0.1), "std": (0.5, 0.25, 0.1)}
    assert network_input(frames, BackboneTraits(**fields), cpu).flatten().tolist() == pytest.approx([-1, 2, 1])
