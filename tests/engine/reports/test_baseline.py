"""A gain is only shown over an evaluation of the same: other clips, sizes, classes and labels are refused or said."""

import json
import logging
from pathlib import Path

import pytest
import torch

from datasets.clips import Clip
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.options.parser import parse_options
from engine.reports.baseline import check_comparable, labeled_pixels, on_same_labels, read_report
from main import main
from utils.class_set import ClassSet
from utils.errors import OptionError

CLASSES = ClassSet(("road", "car"), ((1, 2, 3), (4, 5, 6)))
CLIPS = [Clip(name, "city", (Path("frame.png"),), Path("label.png")) for name in ("a_1", "a_2", "b_1")]
REPORT = {
    "clips": 3,
    "clip_mean_iou": {"a_1": 0.5, "b_1": 0.25},  # in a_2 no pixel has a class
    "frames_per_clip": 4,
    "work_size": [64, 128],
    "control": None,
    "iou": {"road": 0.5, "car": None},
    "mean_iou": 0.5,
    "labeled_pixels": {"road": 3, "car": 0},
}
ABSENT = object()


@pytest.fixture
def compared(tmp_path, erfnet_file):
    """Compares a report with such values to the evaluation of the clips and options above."""

    def compare(*options, **values):
        report = {name: value for name, value in {**REPORT, **values}.items() if value is not ABSENT}
        (tmp_path / "report.json").write_text(json.dumps(report))
        words = f"--eval-mode --weights {erfnet_file} --work-size 64x128 --win-size 4 --savedir {tmp_path}"
        data = parse_options([*words.split(), *options]).data
        check_comparable(read_report(tmp_path), CLIPS, CLASSES, data)

    return compare


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"clips": 1, "clip_mean_iou": {"a_1": 0.5}}, r"is of 1 clip, this evaluation of 3: .* with --win-size 4"),
        ({"clips": 4}, "is of 4 clips, this evaluation of 3"),
        ({"clip_mean_iou": {"a_1": 0.5, "c_1": 0.1}}, r"is of 3 clips, among them c_1, .* this evaluation of 3"),
        ({"work_size": [128, 64]}, r"is of frames of 128x64, .* of 64x128: .* with --work-size 64x128"),
        ({"work_size": "large"}, "is of frames of large"),
        ({"iou": {"road": 0.5}}, r"is of 1 classes \(road\), this evaluation of 2 classes \(road, car\)"),
        ({"iou": {"road": 0.5, "bus": 0.5}}, r"2 classes \(road, bus\)"),
        ({"iou": {"bus": 0.5}, "clips": ABSENT}, r"1 classes \(bus\)"),
    ],
)
def test_other_things_are_refused(compared, values, said):
    with pytest.raises(OptionError, match=f"^--baseline-path .*{said}"):
        compared(**values)


@pytest.mark.parametrize(
    ("options", "values", "said"),
    [
        ((), {"frames_per_clip": 3}, "its clips had 3 frames, these have 4"),
        (("--control", "other-clip"), {}, "measured with --control none, this with other-clip"),
        ((), {"control": "repeated-frame"}, "measured with --control repeated-frame, this with none"),
        ((), {"clips": ABSENT}, "does not say which clips it was measured on"),
    ],
)
def test_other_circumstances_are_said(compared, caplog, options, values, said):
    compared(*options, **values)
    assert said in caplog.text


@pytest.mark.parametrize("values", [{}, {"frames_per_clip": 1}, {"clip_mean_iou": ABSENT}, {"labeled_pixels": ABSENT}])
def test_the_same_is_compared_without_a_word(compared, caplog, values):
    compared(**values)
    assert caplog.text == ""


def test_other_labels_of_the_same_names_show_no_gain(caplog):
    confusion = ConfusionMatrix(3)
    # Of three labeled pixels one is predicted to have no class; the fourth is ignored.
    confusion.update(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 0, 2]))
    pixels = labeled_pixels(confusion, CLASSES)
    assert pixels == {"road": 3, "car": 0}
    assert on_same_labels(None, pixels) is None
    for report in (REPORT, {"iou": {}}):
        assert on_same_labels(report, pixels) is report
    with caplog.at_level(logging.WARNING):
        assert on_same_labels({"folder": "b", "labeled_pixels": {"road": 3, "car": 1}}, pixels) is None
    assert "no gain is shown, as it was measured on other labels: they had 1 pixels of car, these 0" in caplog.text


def test_an_evaluation_and_a_training_refuse_other_clips(command, six_clips, tmp_path, capsys):
    base = tmp_path / "base"
    base.mkdir()
    (base / "report.json").write_text(json.dumps(REPORT | {"clips": 3}))
    for mode in ("--eval-mode", "--training"):
        assert main(command(mode, "--baseline-path", str(base), data=six_clips)) == 2
        assert "main.py: error: --baseline-path" in capsys.readouterr().err.splitlines()[-1]
