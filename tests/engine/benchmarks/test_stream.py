"""The benchmark of a stream from the command line, small."""

import json

import pytest
import torch

from engine.benchmarks import pipeline as benchmark_pipeline
from engine.benchmarks import stream as benchmark_stream
from engine.version import machine_caption
from main import main


def test_every_part_is_measured_in_one_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(benchmark_stream, "ROUNDS", 4)
    words = f"--benchmark stream --savedir {tmp_path} --work-size 64x128 --corr-size 5 --device cpu"
    assert main(words.split()) == 0
    report = json.loads((tmp_path / "benchmark_stream.json").read_text())
    smoothing = {"smoothing, average", "smoothing, flow"}
    assert set(report["stages"]) == {"encoder", "heads", "attention", "fusion", "decoder", "push"} | smoothing
    times = {name: each["median"] for name, each in report["milliseconds"].items()}
    assert set(times) == {
        "LMANet", "single frame", "single frame, plain eager NCHW", "single frame, ONNX Runtime"
    }  # fmt: skip
    assert all(each > 0 for each in times.values())
    parts = sum(each["least"] for name, each in report["stages"].items() if name not in smoothing)
    assert 0.5 * report["milliseconds"]["LMANet"]["least"] < parts <= report["milliseconds"]["LMANet"]["quartile_3"]
    ratio = report["ratios"]["LMANet / single frame"]
    assert 1 < ratio < 10
    assert (
        0 < report["ratios"]["smoothing, average / single frame"] < report["ratios"]["smoothing, flow / single frame"]
    )
    pipeline = report["pipeline"]
    assert len(pipeline["shares"]) == pipeline["rounds"] == benchmark_pipeline.ROUNDS
    assert pipeline["frames_per_second"] > 0 and 0 < pipeline["share_of_network_alone"] < 3
    printed = capsys.readouterr().out
    assert printed.startswith("processor: ") and report["machine"]["instructions"] in printed
    lines = printed.splitlines()
    start = lines.index("| a frame | ms, median | quartiles | least | times the single frame |")
    rows = [line.split(" | ") for line in lines[start + 2 : start + 2 + 12]]
    assert [row[0][2:] for row in rows] == [*times, *(f"– {name}" for name in report["stages"])]
    assert rows[0][1] == f"{times['LMANet']:.1f}" and rows[1][-1] == "1.00 |"
    assert lines[-1].startswith("`erf`, 64x128, T = 3, n = 5, 4 rounds; a whole stream ")
    assert lines[-1].endswith(machine_caption(torch.device("cpu")))
    assert f"LMANet / single frame: {ratio:.3f}" in printed
    assert f"{pipeline['share_of_network_alone']:.3f} of the network alone" in printed


def test_spread_and_ratios_by_hand():
    assert benchmark_stream.spread([0.004, 0.001, 0.002, 0.003]) == {
        "median": 2.5, "quartile_1": 1.25, "quartile_3": 3.75, "least": 1.0
    }  # fmt: skip
    # A slow round is slow for both: 2, 3 and 2 times as long.
    found = benchmark_stream.ratios({"LMANet": [2.0, 30.0, 4.0], "single frame": [1.0, 10.0, 2.0]})
    assert found == {"LMANet / single frame": 2.0}


def test_onnx_export_from_the_command_line(tmp_path, erfnet_file, capsys):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file = tmp_path / "single.onnx"
    words = f"--export-onnx {file} --baseline-mode --weights {erfnet_file} --work-size 32x64 --savedir {tmp_path}"
    assert main(words.split()) == 0
    assert "written for frames of 32 x 64" in capsys.readouterr().out
    assert runtime.InferenceSession(str(file)).get_inputs()[0].shape == [1, 3, 32, 64]
    words = f"--export-onnx {file} --weights {erfnet_file} --work-size 32x64 --savedir {tmp_path}"
    assert main(words.split()) == 2
    assert "the memory would be untrained" in capsys.readouterr().err
