"""--visualize with a real visdom server: every window with the right data, after a resume too, and what it costs."""

import json
import logging
import re
import threading
import time

import numpy as np
import pytest
import torch

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine import processes
from engine.dashboard.run import RunDashboard
from engine.dashboard.windows import top_in_pane
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.evaluate import Evaluation
from engine.reports.memory_view import memory_view
from engine.run_folder import EpochRow, RunFolder
from main import main
from models import build_lmanet
from tests.networks import LMANetConfig
from tests.visdom_server import VisdomServer, eventually, free_port
from utils import tensor_files
from utils.errors import CheckpointError

GRAPHS = {"loss", "mean IoU", "learning rate", "loss by step", "IoU per class", "confusion matrix", "time"}
PICTURES = {"inputs", "frame", "memory 1", "memory 2", "memory 3", "target", "prediction", "errors", "legend"}


@pytest.fixture
def server(tmp_path):
    server = VisdomServer(tmp_path / "server")
    yield server
    server.kill()


def traces(window):
    return {trace["name"]: trace for trace in window["content"]["data"]}


def logged(run):
    """The columns of automated_log.txt."""
    rows = [line.split() for line in (run / "automated_log.txt").read_text().splitlines()[1:]]
    return [[float(value) for value in column] for column in zip(*rows, strict=True)]


def test_every_window_is_right_after_two_epochs_and_a_resume(command, tmp_path, server):
    run = tmp_path / "Straße 1"
    options = ("--training", "--iouTrain", "--visualize", "--port", str(server.start().port), "--steps-plot", "2")
    arguments = [*command(*options, savedir="SAVEDIR"), "--num-epochs"]
    arguments[arguments.index("SAVEDIR")] = f"{run}/"
    assert main([*arguments, "2"]) == 0
    assert server.environments() == {"Straße 1_graphs", "Straße 1_pictures"}
    server.kill()  # what was shown before must come from the run's own folder
    server.start()
    assert main([*arguments, "3", "--resume"]) == 0
    graphs, pictures = server.windows("Straße 1_graphs"), server.windows("Straße 1_pictures")
    assert set(graphs) == GRAPHS
    assert set(pictures) == PICTURES

    epochs, train_loss, val_loss, train_iou, val_iou, rate = logged(run)
    for window, name, column in (
        ("loss", "training", train_loss),
        ("loss", "validation", val_loss),
        ("mean IoU", "training", [100 * value for value in train_iou]),
        ("mean IoU", "validation", [100 * value for value in val_iou]),
        ("learning rate", "of Adam", rate),
    ):
        trace = traces(graphs[window])[name]
        assert trace["x"] == epochs == [1, 2, 3]
        assert trace["y"] == pytest.approx(column, abs=6e-3)
    assert traces(graphs["time"])["validation"]["x"] == [1, 2, 3]
    # Three steps an epoch, a point every two steps and at the end of the epoch: the mean of two, and of one.
    steps = traces(graphs["loss by step"])["training"]
    assert steps["x"] == pytest.approx([2 / 3, 1, 5 / 3, 2, 8 / 3, 3])
    means = [(2 * a + b) / 3 for a, b in zip(steps["y"][::2], steps["y"][1::2], strict=True)]
    assert means == pytest.approx(train_loss, abs=1e-4)
    bars = [value for value in traces(graphs["IoU per class"])["IoU"]["y"] if value is not None]
    assert sum(bars) / len(bars) == pytest.approx(100 * val_iou[-1], abs=6e-3)
    shares = graphs["confusion matrix"]["content"]["data"][0]["z"]
    assert [sum(row) for row in shares if row[0] is not None] == pytest.approx([100] * 6, abs=0.2)

    captions = [content["caption"] for content in pictures["prediction"]["content"]]
    assert captions == [f"epoch {n}, mean IoU {100 * iou:.2f} %" for n, iou in zip((1, 2, 3), val_iou, strict=True)]
    assert len(pictures["errors"]["content"]) == 3
    assert [content["caption"] for content in pictures["inputs"]["content"]] == [
        *(f"memory frame −{age}" for age in (3, 2, 1)),
        "current frame",
    ]
    saved = json.loads((run / "visdom" / "Straße 1_graphs.json").read_text(encoding="utf-8"))["jsons"]
    for name in GRAPHS:
        # visdom 0.3 says of a plot without a caption that it has none, visdom 0.2 says nothing.
        assert {"caption": None, **saved[name]["content"]} == {"caption": None, **graphs[name]["content"]}


def test_an_evaluation_is_shown(command, tmp_path, server):
    assert main(command("--eval-mode", "--visualize", "--port", str(server.start().port), "--steps-plot", "1")) == 0
    graphs, pictures = server.windows("run_graphs"), server.windows("run_pictures")
    assert set(graphs) == {"IoU per class", "confusion matrix", "time"}
    assert set(pictures) == PICTURES
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert graphs["IoU per class"]["title"] == f"IoU per class: 3 clips, mean {100 * report['mean_iou']:.2f} %"
    assert len(traces(graphs["time"])["validation"]["y"]) == 2  # the first clip warms up


def test_without_a_server_a_training_is_what_it_is_without_a_dashboard(command, tmp_path, caplog):
    plain = command("--training", "--num-epochs", "2", savedir=tmp_path / "plain")
    shown = command(
        "--training", "--num-epochs", "2", "--visualize", "--port", str(free_port()), savedir=tmp_path / "a"
    )
    assert main(plain) == 0
    assert main(shown) == 0
    first, second = (
        tensor_files.read(tmp_path / run / "checkpoint.pth.tar", CheckpointError)["state_dict"]
        for run in ("plain", "a")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = json.loads((tmp_path / "a" / "visdom" / "a_graphs.json").read_text())["jsons"]
    assert traces(saved["loss"])["training"]["x"] == [1, 2]


def test_the_warning_is_one_line(command, tmp_path, capsys):
    assert main(command("--training", "--num-epochs", "1", "--visualize", "--port", str(free_port()))) == 0
    error = capsys.readouterr().err
    assert len(re.findall("no visdom server answers", error)) == 1
    assert "Traceback" not in error


def test_a_server_killed_in_the_middle_of_a_training_gets_all_of_it(command, server, monkeypatch):
    from engine.training.saver import Saver

    real_save = Saver.save_epoch

    def killed_in_the_second_epoch(self, content, rows, *more, **named):
        real_save(self, content, rows, *more, **named)
        if len(rows) == 2:
            server.kill()
            server.start()

    monkeypatch.setattr(Saver, "save_epoch", killed_in_the_second_epoch)
    assert main(command("--training", "--num-epochs", "3", "--visualize", "--port", str(server.start().port))) == 0
    assert set(server.windows("run_graphs")) == GRAPHS
    assert traces(server.windows("run_graphs")["loss"])["training"]["x"] == [1, 2, 3]
    assert len(server.windows("run_pictures")["prediction"]["content"]) == 3


def dashboard_with_a_clip(port, folder, frames):
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(corr_size=5))
    run, cpu = RunFolder(folder, False), torch.device("cpu")
    dashboard = RunDashboard(port, run, CITYSCAPES_CLASSES, 1, lambda: memory_view(model, frames, cpu))
    label = torch.zeros(frames.shape[-2:], dtype=torch.uint8)
    dashboard.see_clip(0, frames[-1], label, label)
    result = Evaluation(ConfusionMatrix(20), ConfusionMatrix(20), network_seconds=[0.01])
    result.confusion.update(label, label)
    return dashboard, result


def test_a_click_changes_the_pictures_of_the_memory(tmp_path, server):
    frames = torch.randint(0, 256, (4, 3, 64, 128), dtype=torch.uint8)
    dashboard, result = dashboard_with_a_clip(server.start().port, tmp_path / "run", frames)
    dashboard.evaluation(result)
    assert eventually(lambda: set(server.windows("run_pictures")) == PICTURES)
    before = server.windows("run_pictures")
    dashboard._clicked(60.0 + top_in_pane(64), 3.0)  # features are 8 x 16
    assert eventually(lambda: "pixel 7, 0 " in server.windows("run_pictures")["frame"]["title"])
    assert eventually(
        lambda: all(
            server.windows("run_pictures")[f"memory {n}"]["content"] != before[f"memory {n}"]["content"]
            for n in (1, 2, 3)
        )
    )
    dashboard.close()


def test_calls_cost_a_training_next_to_nothing(tmp_path):
    """What a training pays itself: microseconds a step, milliseconds an epoch, of which most is one forward pass."""
    frames = torch.randint(0, 256, (4, 3, 64, 128), dtype=torch.uint8)
    dashboard, result = dashboard_with_a_clip(free_port(), tmp_path / "run", frames)
    start = time.thread_time()
    for step in range(1, 1001):
        dashboard.step(1, step, 1000, 1.0)
    assert time.thread_time() - start < 0.5
    dashboard.look = lambda: None
    start = time.thread_time()
    dashboard.epoch([EpochRow(1, 1.0, 1.0, 0.0, 0.5, 1e-4)], result)
    assert time.thread_time() - start < 0.05
    dashboard.close()


def test_only_the_first_of_several_processes_shows_anything(command, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    for name, value in {"RANK": "1", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "end_with_parent", lambda: None)  # which is not for the process of the tests
    assert main(command("--eval-mode", "--visualize", "--port", str(free_port()))) == 0
    assert not [thread for thread in threading.enumerate() if thread.name == "dashboard"]


def test_points_of_a_long_training_stay_bounded(tmp_path):
    dashboard = RunDashboard(free_port(), RunFolder(tmp_path / "run", False), CITYSCAPES_CLASSES, 1, lambda: None)
    for step in range(1, 9002):
        dashboard.step(1, step, 9001, float(step))
    x, y = dashboard._step_points
    assert len(x) == len(y) <= 4000
    assert (x[-1], y[-1]) == (1.0, 9001.0)
    assert np.all(np.diff(x) > 0)
    dashboard.close()
