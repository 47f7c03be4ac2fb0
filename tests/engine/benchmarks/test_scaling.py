"""``--benchmark scaling``: points, operations by hand, what grows, and a small run of it."""

import csv
import json

import pytest
import torch

from engine.benchmarks import growth, scaling
from engine.benchmarks.scaling import Point, Step, points_of
from engine.launch import run_modes
from engine.options.parser import parse_options
from engine.run_folder import RunFolder
from main import main
from tests.networks import LMANetConfig

CPU = torch.device("cpu")
BASE = Point(frames=4, window=21, height=512, width=1024, batch=1, threads=2)


def labels(axis: str, **options) -> list[str]:
    return list(points_of(axis, BASE, LMANetConfig(**options), options.pop("device", CPU)))


def test_points_go_through_the_base():
    assert labels("T") == ["1", "2", "4", "6", "8"]
    assert labels("n") == ["5", "11", "21", "31", "41"]
    assert labels("size") == ["256x512", "384x768", "512x1024", "768x1536", "1024x2048"]
    assert labels("batch") == ["1", "2", "3", "4"]
    assert labels("threads") == ["1", "2"]
    assert all(BASE in points_of(axis, BASE, LMANetConfig(), CPU).values() for axis in ("T", "n", "size", "threads"))
    assert labels("n", local=False) == []
    assert points_of("threads", BASE, LMANetConfig(), torch.device("cuda")) == {}


@torch.inference_mode()
def test_operations_by_hand():
    step = Step(LMANetConfig(), Point(frames=2, window=3, height=32, width=64, batch=2, threads=1), CPU)
    step.fill()
    found = step.operations()
    # 4 x 8 features in a batch of 2; 2 frames of 3 x 3 neighbors with 16 + 64 channels; 2 operations each.
    assert found["attention"] == 2 * (2 * 32) * 2 * 9 * (16 + 64)
    # Both heads: 3 x 3 convolutions of 128 channels to twice 16 + 64.
    assert found["heads"] == 2 * (2 * 32) * 9 * 128 * 2 * (16 + 64)
    # Features of both inputs, 64 to 128 each, and both gates of both, 128 to 256.
    assert found["fusion"] == 2 * (2 * 32) * 9 * (2 * 64 * 128 + 128 * 256)
    assert found["push"] == 2 * 32 * (16 + 64)
    assert found["whole"] == sum(found[name] for name in ("encoder", "heads", "attention", "fusion", "decoder"))


def point(operations: dict, milliseconds: dict, threads: int = 2, **other) -> dict:
    times = {name: {"median": value, "quartile_1": value, "quartile_3": value} for name, value in milliseconds.items()}
    values = {**BASE.__dict__, "threads": threads, **other}
    return values | {"operations": operations, "milliseconds": times, "mebibytes": 10.0}


def test_what_grows_is_named():
    whole = {"whole": 2e9, "encoder": 1e9, "attention": 1e9}
    twice = {"whole": 3e9, "encoder": 1e9, "attention": 2e9}
    report = {
        "base": BASE.__dict__,
        "axes": {
            "T": {
                "4": point(whole, {"whole": 20.0, "encoder": 10.0, "attention": 10.0}),
                "8": point(twice, {"whole": 40.0, "encoder": 10.0, "attention": 30.0}, frames=8),
            },
            "threads": {
                "1": point(whole, {"whole": 30.0, "encoder": 20.0, "attention": 10.0}, threads=1),
                "2": point(whole, {"whole": 20.0, "encoder": 10.0, "attention": 10.0}),
            },
        },
    }
    assert growth.findings(report) == [
        "whole along T: an operation takes 1.33 times as long at 8 as at 4.",
        "attention along T: an operation takes 1.50 times as long at 8 as at 4.",
        "whole along threads: an operation takes 1.33 times as long at 2 as at 1.",
        "attention along threads: an operation takes 2.00 times as long at 2 as at 1.",
        "2 threads are so many times as fast as 1: whole 1.50, encoder 2.00, attention 1.00.",
    ]
    rows = growth.table_rows(report)
    # 20 ms for 2 GFLOP at the base; 40 ms for 3 at T = 8; 30 ms of one thread instead of two.
    assert [row["cost"] for row in rows] == ["1.00", "1.33", "0.75", "1.00"]


def test_nothing_grows():
    same = {"whole": 1e9, "encoder": 1e9}
    report = {"base": BASE.__dict__, "axes": {"batch": {"1": point(same, {"whole": 10.0, "encoder": 10.0})}}}
    assert growth.findings(report) == ["Nothing grows faster than its operations by more than 15 %."]


def test_peak_counts_what_a_call_takes_for_a_moment():
    found = scaling.peak_of(lambda: torch.ones(16, 2**20).sum(), CPU)
    assert found is None or 60 < found < 100  # 64 MiB


def test_axes_of_two_calls_stand_in_one_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "FRAMES", (1,))
    monkeypatch.setattr(scaling, "WINDOWS", (3,))
    monkeypatch.setattr(scaling, "ROUNDS", 2)
    monkeypatch.setattr(scaling, "in_own_process", lambda function, *arguments: function(*arguments))
    folder = RunFolder(tmp_path / "out", shallow=False)
    words = (
        f"--benchmark scaling --work-size 32x64 --corr-size 5 --stm-queue-size 2 --device cpu --savedir {folder.path}"
    )
    folder.path.mkdir(exist_ok=True)
    for axis in ("T", "n"):
        run_modes(parse_options([*words.split(), "--axes", axis]), CPU, folder)
    rows = list(csv.DictReader((folder.path / "benchmark_scaling.csv").read_text().splitlines()))
    assert [(row["axis"], row["value"]) for row in rows] == [("T", "1"), ("T", "2"), ("n", "3"), ("n", "5")]
    assert all(float(row[name]) > 0 for row in rows for name in ("gflop", "median", "cost", "encoder", "attention"))
    report = json.loads((folder.path / "benchmark_scaling.json").read_text())
    assert report["base"]["frames"] == 2 and report["machine"]["processor"]
    table = (folder.path / "benchmark_scaling.md").read_text()
    assert table.startswith("| axis | value | GFLOP |") and table in capsys.readouterr().out
    assert (folder.path / "benchmark_scaling.png").read_bytes().startswith(b"\x89PNG")
    # Another base point does not go into the same table.
    assert main([*words.replace("--corr-size 5", "--corr-size 7").split(), "--axes", "T"]) == 2
    assert "was measured with base" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--benchmark stream --axes T", "--axes belongs to --benchmark scaling"),
        ("--benchmark scaling --axes X", "invalid choice: 'X'"),
    ],
)
def test_wrong_axes_are_said(options, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        parse_options([*options.split(), "--savedir", str(tmp_path)])
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_memory_grows_with_the_frames_in_it(tmp_path):
    """From T = 1 to 8: 7 frames of 64 x 128 features with 16 + 64 channels, 4 bytes each, are 17.5 MiB; the read packs
    the keys of all frames, 144 columns wide, once more: 3.9 MiB. What is allocated comes in pages of 2 MiB."""
    words = f"--benchmark scaling --axes T --work-size 512x1024 --corr-size 5 --device cpu --savedir {tmp_path}"
    assert main(words.split()) == 0
    points = json.loads((tmp_path / "benchmark_scaling.json").read_text())["axes"]["T"]
    if points["1"]["mebibytes"] is not None:
        assert points["8"]["mebibytes"] - points["1"]["mebibytes"] == pytest.approx(17.5 + 3.9, abs=4)
