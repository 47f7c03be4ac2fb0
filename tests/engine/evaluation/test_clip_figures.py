"""Figures of sets of clips: how long errors last along the flow, the averages, the table and its command."""

import cv2
import numpy as np
import pytest
import torch

from datasets.cityscapes import CITYSCAPES_CLASSES
from datasets.registry import dataset_named
from datasets.synthetic.disk import ensure_dataset
from datasets.synthetic.options import StreetOptions
from engine.clip_figures import main
from engine.evaluation.clip_figures import AVERAGES, SINGLE, ErrorsLater, Followed, figures_of, table
from engine.evaluation.consistency import measure_consistency
from models import VideoSegmenter, build_lmanet
from models.weights.export import export_weights
from tests.networks import LMANetConfig


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    options = StreetOptions(height=64, width=128, length=3, difficulty=0.3, persistence=3)
    return ensure_dataset(tmp_path_factory.mktemp("streets") / "s", 1, 2, options)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "single.pth"
    export_weights(build_lmanet(LMANetConfig(baseline=True), CITYSCAPES_CLASSES, (64, 128)).eval(), path)
    return path


def test_errors_later_by_hand():
    errors = ErrorsLater()
    assert errors.again is None and errors.correlation is None
    first, later = np.array([1, 1, 0, 0, 0, 0, 0, 0], bool), np.array([1, 0, 1, 0, 0, 0, 0, 0], bool)
    errors.add(first[:3], later[:3])
    errors.add(first[3:], later[3:])
    assert errors.again == 0.5
    assert errors.correlation == pytest.approx(np.corrcoef(first, later)[0, 1])


def test_pixels_are_followed_from_frame_to_frame():
    texture = cv2.GaussianBlur(np.random.RandomState(0).randint(0, 256, (110, 160)).astype(np.uint8), (0, 0), 1.5)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    followed = Followed(2)
    for time in range(4):  # the picture moves by three pixels to the left and one up a frame
        followed.update(texture[time : time + 96, 3 * time : 3 * time + 128].copy())
    assert followed.since(3) is None  # no farther than was asked for
    row, column, seen = followed.since(2)
    inner = np.zeros(seen.shape, bool)
    inner[16:-16, 16:-16] = True
    rows, columns = np.mgrid[:96, :128]
    assert seen[inner].mean() > 0.95
    assert (row == rows - 2)[inner & seen].mean() > 0.95 and (column == columns - 6)[inner & seen].mean() > 0.95
    assert not seen[:, :4].any()  # has left the frame
    assert followed.steps == pytest.approx([10**0.5] * 3, abs=0.1)


def test_its_predictions_are_those_of_an_evaluation(streets, weights):
    dataset = dataset_named("Cityscapes")
    videos = dataset.videos(dataset.root(str(streets)), "val")
    figures = figures_of(VideoSegmenter(weights, baseline=True, smooth="flow"), dataset, videos)
    assert (figures.frames, figures.labeled, len(figures.motion)) == (6, 6, 2)
    labels = {label for video in videos for label in video.labels}
    for kind, name in (("average", "averaged, 0.5"), ("flow", "along the flow, 0.7")):
        segmenter = VideoSegmenter(weights, baseline=True, smooth=kind, smooth_weight=float(name.split()[-1]))
        report = measure_consistency(segmenter, dataset, videos, labels)
        for ours, theirs in ((SINGLE, "single_frame"), (name, "single_frame_smoothed")):
            assert figures.confusions[ours].accuracy() == report["scores"][theirs]["accuracy"]
            assert figures.tc[ours] == report["tc"][theirs]
    # Pixels of two labeled frames in a row, seen in both; the same errors as the accuracy counts.
    assert 0 < figures.errors[1].pixels < 4 * 64 * 128 and figures.errors[4].pixels == 0
    rows = table({"drawn": figures}).splitlines()
    assert rows[0] == "|  | drawn |" and len(rows) == 2 + 3 + 1 + len(AVERAGES) + 8
    assert "| correlation of errors, 4 frames | – |" in rows


def test_the_command_prints_a_column_for_each_set(streets, weights, capsys):
    assert main([f"a={streets},{weights}", f"b={streets},{weights}", "--most", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "|  | a | b |"


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["{streets}"], "expected NAME=DIR,FILE"),
        (["a={streets},none.pth"], "none.pth: no such file"),
        (["a={streets},{weights}", "a={streets},{weights}"], "names that differ"),
        (["a=nowhere,{weights}"], "nowhere"),
    ],
)
def test_wrong_sets_end_with_status_2(streets, weights, capsys, sets, said):
    assert main([each.format(streets=streets, weights=weights) for each in sets]) == 2
    assert said in capsys.readouterr().err
