"""The attention's benchmark: its sums by hand, and a small run of it."""

import json
import time

import pytest
import torch

from engine.benchmarks import attention as benchmark_attention
from engine.benchmarks.attention import ERFNET, PSPNET, Shape, Spread
from engine.version import machine_caption


def test_work_and_bytes_of_the_published_sizes():
    # 8192 queries x 4 frames x 441 neighbors x (16 + 64) channels, 2 operations each; 4 bytes a number.
    assert ERFNET.flop == 2_312_110_080
    assert ERFNET.io_bytes == 4 * 8192 * (16 + 64 + 4 * 16 + 4 * 64)
    assert PSPNET.flop == 2 * 129 * 257 * 3 * 441 * (128 + 2048)


def test_line_through_points_by_hand():
    # Through (1, 3), (2, 5), (3, 7): y = 2 x + 1.
    line = benchmark_attention._line([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    assert (line["slope"], line["intercept"], line["r2"]) == pytest.approx((2, 1, 1))


def test_spread_by_hand():
    assert Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == (1, 2, 3, 4, 5, 5)
    assert Spread.of([2.0]) == (2, 2, 2, 2, 2, 1)


def test_slow_work_is_timed_once_and_quick_work_in_every_round(monkeypatch):
    monkeypatch.setattr(benchmark_attention, "_MOST_SECONDS", 0.05)
    work = {"slow": lambda: time.sleep(0.03), "quick": lambda: None}
    found = benchmark_attention._in_turns(work, 3, torch.device("cpu"))
    assert (found["slow"].rounds, found["quick"].rounds) == (1, 3)
    assert found["slow"].best >= 0.03 > found["quick"].worst


def test_small_run_prints_and_writes(monkeypatch, tmp_path, capsys):
    small = Shape("small", 1, 2, 3, 1, 5, 6, 3)
    monkeypatch.setattr(benchmark_attention, "_PRODUCT", 32)
    monkeypatch.setattr(benchmark_attention, "ERFNET", small)
    monkeypatch.setattr(benchmark_attention, "PSPNET", small._replace(name="wide", d=300))
    monkeypatch.setattr(benchmark_attention, "_extra_memory", lambda *_: {"forward": 1.5, "backward": 2.5})
    monkeypatch.setattr(benchmark_attention, "_training_steps", lambda device: {})
    line = {"x": [1.0, 2.0], "seconds": [0.001, 0.002], "slope": 0.001, "intercept": 0.0, "r2": 1.0}
    monkeypatch.setattr(benchmark_attention, "_scaling", lambda device: {"T": line})
    benchmark_attention.run(tmp_path / "new", torch.device("cpu"))
    report = json.loads((tmp_path / "new" / "attention_benchmark.json").read_text())
    assert set(report["shapes"][0]["of_product_rate"]) >= {"portable", "reference"}
    assert "reference" in report["shapes"][1]["refused"]
    printed = capsys.readouterr().out
    rows = [line.split(" | ")[:2] for line in printed.splitlines() if line.startswith("| small")]
    assert rows == [["| small", name] for name in report["shapes"][0]["seconds"]]
    assert printed.splitlines()[1].startswith("instructions: ")
    assert printed.splitlines()[-1] == machine_caption(torch.device("cpu"))
    assert "small: b=1 c=2 d=3 t=1 h=5 w=6 n=3" in printed
    assert "ms over T: 1: 1.00, 2: 2.00; R² of the line 1.0000" in printed
