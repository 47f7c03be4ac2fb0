"""What runs leave to be looked at: the colored table, plots, report.html and the memory inspector's pictures."""

import json
import re
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import engine.modes.training
from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.reports.memory_view import memory_view, telling_cells
from engine.reports.page import InspectedClip, ReportPage
from engine.reports.picks import BestAndWorst, PickedClip
from engine.reports.scores import confusion_shares, iou_table
from main import main
from models import build_lmanet
from tests.cityscapes import CLASSES
from tests.networks import LMANetConfig
from utils.class_set import ClassSet

CPU = torch.device("cpu")


@pytest.fixture
def confusion():
    """Road: 3 of 4 right (IoU 0.75), car: 1 right, 1 wrong (0.5)."""
    matrix = ConfusionMatrix(20)
    matrix.update(torch.tensor([0, 0, 0, 13, 13]), torch.tensor([0, 0, 0, 0, 13]))
    return matrix


def test_the_table_is_coloured_on_request_and_otherwise_the_same(confusion):
    baseline = {"iou": {"road": 0.5, "car": 0.9}, "mean_iou": 0.7}
    plain = iou_table(CITYSCAPES_CLASSES.names, confusion, baseline)
    colored = iou_table(CITYSCAPES_CLASSES.names, confusion, baseline, colored=True)
    assert "\x1b" not in plain
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == plain
    assert "\x1b[38;5;74m   75.00\x1b[0m" in colored  # blue: high
    assert "\x1b[38;5;166m  -40.00\x1b[0m" in colored  # orange: a loss
    assert len({len(line) for line in plain.splitlines()[:-1]}) == 1


def test_shares_of_the_confusion_matrix(confusion):
    shares = confusion_shares(confusion.counts.numpy())
    assert shares.shape == (19, 20)
    assert shares[0, [0, 13]].tolist() == [0.75, 0.25]
    assert shares[13, 13] == 1
    assert np.isnan(shares[1]).all()


def test_a_training_leaves_its_plots_even_when_stopped(command, tmp_path, monkeypatch):
    def stop_after_the_training(*arguments):
        real_train(*arguments)
        raise KeyboardInterrupt

    real_train = engine.modes.training.run_epochs
    monkeypatch.setattr(engine.modes.training, "run_epochs", stop_after_the_training)
    base, run = tmp_path / "base", tmp_path / "run"
    base.mkdir()
    (base / "report.json").write_text('{"iou": {"road": 0.9, "car": null}, "mean_iou": 0.9}')
    assert main(command("--training", "--num-epochs", "1", "--baseline-path", str(base))) == 130
    for name in ("curves.png", "iou.png", "confusion.png"):
        picture = np.asarray(Image.open(run / name).convert("RGB"))
        assert min(picture.shape[:2]) > 300
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 20
    colors = {tuple(color) for color in np.asarray(Image.open(run / "iou.png").convert("RGB")).reshape(-1, 3).tolist()}
    assert {(0, 114, 178), (213, 94, 0)} <= colors  # the means of this run and of the baseline


@pytest.fixture
def page(command, tmp_path):
    """report.html of an evaluation of three clips into a folder whose name is awkward, and its report.json."""
    folder = tmp_path / "<b>Straße & Söhne"
    arguments = command("--eval-mode", savedir="SAVEDIR")
    assert main([str(folder) + "/" if argument == "SAVEDIR" else argument for argument in arguments]) == 0
    return (folder / "report.html").read_text(encoding="utf-8"), json.loads((folder / "report.json").read_text())


def test_the_page_holds_all_it_shows(page):
    html, report = page
    assert "<title>&lt;b&gt;Straße &amp; Söhne</title>" in html
    sources = re.findall(r'(?:src|href|url)\s*[=(]\s*"?([^">)]*)', html)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert not re.search(r"https?:|<script", html)
    assert f"{100 * report['mean_iou']:.2f} %" in html
    for c in CLASSES:
        assert f"</i>{c.name}</td>" in html
    names = re.findall(r"<h3>(toytown_\d+_\d+) <span>mean IoU ([\d.]+) %", html)
    assert names == [(name, f"{100 * score:.2f}") for name, score in ranked(report)]
    assert html.count("memory frame −1: ") == html.count("current frame: the pixel") > 0


def ranked(report):
    """Clips by their own mean IoU: three are all among the best."""
    return sorted(report["clip_mean_iou"].items(), key=lambda item: -item[1])


def test_a_page_without_iou_still_says_the_loss(command, tmp_path):
    assert main(command("--eval-mode", "--no-iouVal", "--loss", "--baseline-mode")) == 0
    html = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<dt>loss</dt>" in html
    assert "<table>" not in html
    assert "<h2>Attention</h2>" not in html


def test_best_and_worst_clips():
    names = [type("Clip", (), {"name": f"clip{number}"}) for number in range(5)]
    picks = BestAndWorst(names, 20, count=2)
    frame, label = torch.zeros(3, 2, 4, dtype=torch.uint8), torch.zeros(2, 4, dtype=torch.uint8)
    for number, right in enumerate([8, 0, 4, 6, 2]):
        prediction = torch.full((8,), 1, dtype=torch.uint8)
        prediction[:right] = 0
        picks(number, frame, prediction.view(2, 4), label)
    # Road: right / 8; sidewalk is predicted without being labeled: 0, where any of it is predicted.
    assert picks.scores == pytest.approx({"clip0": 1, "clip1": 0, "clip2": 0.25, "clip3": 0.375, "clip4": 0.125})
    assert [clip.name for clip in picks.best] == ["clip0", "clip3"]
    assert [clip.name for clip in picks.worst_that_are_not_best()] == ["clip1", "clip4"]


def view_of(frames=4, **choices):
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(**{"corr_size": 5, "memory_size": 2, **choices})).train()
    clip = torch.randint(0, 256, (frames, 3, 32, 64), dtype=torch.uint8)
    view = memory_view(model, clip, CPU)
    assert model.training
    assert "read" not in vars(model)
    return view, clip


@pytest.mark.parametrize(
    ("choices", "newest"),
    [
        ({}, -2),
        ({"memorize_first": True}, -1),
        ({"structure": "original_kv_fusion"}, -2),
        ({"memory_strategy": "random"}, -2),
        ({"local": False, "learnable_constant": True}, -2),
        ({"always_decode": True}, -2),
    ],
)
def test_the_inspector_shows_the_frames_that_the_memory_holds(choices, newest):
    view, clip = view_of(**choices)
    assert np.array_equal(view.frame, clip[-1].permute(1, 2, 0).numpy())
    for past, frame in zip(view.past, clip[newest - 1 : newest + 1 or None], strict=True):
        assert np.array_equal(past, frame.permute(1, 2, 0).numpy())
    pictures = view.pictures(0, 7)
    assert sum(pictures.shares) + pictures.outside + pictures.sink == pytest.approx(1, abs=1e-5)
    assert pictures.captions[-1].startswith("the current frame" if "memorize_first" in choices else "memory frame −1")
    assert (pictures.outside > 0) == choices.get("local", True)
    assert (pictures.sink > 0) == choices.get("learnable_constant", False)


def test_no_inspector_without_a_memory():
    model = build_lmanet(LMANetConfig(baseline=True))
    assert memory_view(model, torch.zeros(1, 3, 32, 64, dtype=torch.uint8), CPU) is None


def test_a_click_finds_its_feature_pixel():
    view, _ = view_of()  # features of 4 x 8
    assert view.cell_at(0.0, 0.0) == (0, 0)
    assert view.cell_at(0.49, 0.51) == (1, 4)
    assert view.cell_at(1.0, 1.0) == (3, 7)


def test_texts_from_files_are_texts_of_the_page_and_classes_are_those_it_is_told():
    """Two classes with names as nobody would choose them; only the second one is labeled, and all is predicted so."""
    script = "<script>alert('\"1\"')</script>"
    classes = ClassSet(names=(f"a{script}", f"b{script}"), colors=((1, 2, 3), (250, 128, 0)))
    view, clip = view_of()
    ones = np.ones(clip.shape[-2:], dtype=np.uint8)
    ones[0, 0] = classes.ignored
    shown = PickedClip(0, f"clip{script}", 0.5, clip[-1].permute(1, 2, 0).numpy(), np.ones_like(ones), ones)
    report = {
        "mean_iou": 0.75,
        "accuracy": 0.8,
        "iou": {classes.names[0]: None, classes.names[1]: 0.75},
        "network_seconds_per_frame": 0.01,
        "device": f"cpu{script}",
        "work_size": [32, 64],
        "clips": 1,
        "frames_per_clip": 4,
    }
    baseline = {"iou": {classes.names[1]: 0.5}, "mean_iou": 0.8}
    page = ReportPage(f"run{script}", classes, report, baseline, [shown], [], InspectedClip(shown, view), b"PNG")
    html = page.html()
    assert "<script" not in html
    assert "alert('" not in html
    safe = "&lt;script&gt;alert(&#39;&#34;1&#34;&#39;)&lt;/script&gt;"
    assert f"<title>run{safe}</title>" in html
    assert f"<h3>clip{safe} <span>mean IoU 50.00 %</span></h3>" in html
    assert f"<h3>b{safe}, row " in html
    assert f'<td><i style="background:#010203"></i>a{safe}</td>\n<td class="n">nan</td>' in html
    assert f'<td><i style="background:#fa8000"></i>b{safe}</td>\n<td class="n">75.00</td>' in html
    assert '<td class="n">50.00</td>\n<td class="n up">+25.00</td>' in html
    assert '<td class="n">80.00</td>\n<td class="n down">-5.00</td>' in html
    legend = re.search(r'<ul class="legend" aria-label="classes">(.*?)</ul>', html, re.DOTALL)[1]
    assert re.findall(r'background:(#\w+)"></i>(.)', legend) == [("#fa8000", "b"), ("#000000", "w")]
    assert '<img class="wide" alt="confusion matrix" src="data:image/png;base64,UE5H">' in html


def test_telling_pixels_lie_in_their_class_and_moving_things_come_first():
    prediction = np.zeros((32, 64), dtype=np.uint8)
    prediction[:16, :16] = 11  # a person: features 0..1, 0..1
    prediction[16:, 48:] = 13  # a car: 2..3, 6..7
    prediction[31, 0] = 17  # a single pixel is not looked at
    cells = telling_cells(prediction, (4, 8), 3, CITYSCAPES_CLASSES)
    assert [train_id for train_id, _, _ in cells] == [11, 13, 0]
    for train_id, row, column in cells:
        assert prediction[8 * row + 4, 8 * column + 4] == train_id


def test_telling_pixels_come_in_the_order_that_the_classes_are_told_in():
    prediction = np.zeros((4, 8), dtype=np.uint8)
    prediction[:2, :4] = 1
    prediction[2:, 4:] = 2  # what is ignored
    classes = ClassSet(names=("low", "high"), colors=((0, 0, 1), (0, 0, 2)), shown_first=("high", "low"))
    assert [index for index, _, _ in telling_cells(prediction, (4, 8), 3, classes)] == [1, 0]


def test_picks_of_several_processes_are_those_of_one(monkeypatch):
    """Eleven clips, some of them equally good, in one process and dealt out to three, here threads."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (11, 4, 4), generator=generator)
    predictions = torch.where(torch.rand(11, 4, 4, generator=generator) < 0.5, labels, 1)
    predictions[7], labels[7] = predictions[2], labels[2]
    clips = [SimpleNamespace(name=f"clip_{number}") for number in range(11)]

    def seen(numbers) -> BestAndWorst:
        picks = BestAndWorst(clips, 20)
        for number in numbers:
            picks(number, torch.full((3, 4, 4), number), predictions[number].byte(), labels[number].byte())
        return picks

    one, several, slots = seen(range(11)), [seen(range(rank, 11, 3)) for rank in range(3)], {}
    barrier, own = threading.Barrier(3), threading.local()

    def gathered(value):
        slots[own.rank] = value
        barrier.wait(10)
        values = [slots[rank] for rank in range(3)]
        barrier.wait(10)
        return values

    def gather(rank: int) -> None:
        own.rank = rank
        several[rank].gather()

    one.gather()
    monkeypatch.setattr("engine.reports.picks.distributed.all_gather", gathered)
    threads = [threading.Thread(target=gather, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(one.best) == len(one.worst) == 3
    for picks in several:
        assert list(picks.scores.items()) == list(one.scores.items())
        for found, expected in ((picks.best, one.best), (picks.worst, one.worst)):
            assert [(clip.number, clip.mean_iou) for clip in found] == [(c.number, c.mean_iou) for c in expected]
            assert all((clip.frame == clip.number).all() for clip in found)


def test_names_of_classes_are_no_formulas():
    from engine.reports.plots import confusion_png, iou_png

    assert confusion_png(np.eye(3), ["$a_$", "b", "ignored"], "t").startswith(b"\x89PNG")
    assert iou_png({"$a_$": 0.5}, 0.5, [(1, 2, 3)], "t").startswith(b"\x89PNG")
