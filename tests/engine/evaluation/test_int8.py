"""``--int8`` from the command line, small: it streams, evaluates and is measured, and says what is wrong."""

import json

import numpy as np
import pytest
from PIL import Image

from engine.benchmarks import stream as benchmark_stream
from engine.streaming.sources import open_source, spread_frames
from main import main
from utils.errors import DataError


@pytest.fixture
def numbered(tmp_path):
    """A folder of 40 frames, each of one gray that is its number."""
    folder = tmp_path / "numbered"
    folder.mkdir()
    for number in range(40):
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(folder / f"{number}.png")
    return folder


def test_frames_are_spread_over_the_source(numbered):
    assert [frame[0, 0, 0] for frame in spread_frames(open_source(str(numbered)), 4)] == [0, 10, 20, 30]
    assert len(spread_frames(open_source(str(numbered / "7.png")), 4)) == 1


def test_a_source_that_is_none_is_said_under_its_option(tmp_path, numbered, erfnet_file, capsys):
    pytest.importorskip("onnxruntime")
    words = (
        f"--stream {numbered} --baseline-mode --weights {erfnet_file} --work-size 32x64 --savedir {tmp_path / 'run'}"
    )
    assert main([*words.split(), "--int8", str(tmp_path / "absent.mp4")]) == 2
    assert f"--int8 {tmp_path / 'absent.mp4'}: there is no such file" in capsys.readouterr().err.splitlines()[-1]
    with pytest.raises(DataError, match=r"--int8: folder .* holds no image"):
        (tmp_path / "empty").mkdir()
        open_source(str(tmp_path / "empty"), "--int8")


def test_an_evaluation_is_one_of_the_quantised_network(command, toytown, tmp_path, capsys):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    frames = toytown / "leftImg8bit_sequence" / "train" / "toytown"
    for name, options in (("exact", []), ("coarse", ["--int8", str(frames)])):
        assert main([*command("--eval-mode", "--baseline-mode", "--loss", savedir=tmp_path / name), *options]) == 0
    losses = [json.loads((tmp_path / name / "report.json").read_text())["loss"] for name in ("exact", "coarse")]
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert "decoder, encoder in int8, from 16 frames" in capsys.readouterr().err


@pytest.mark.slow
def test_the_benchmark_measures_it(tmp_path, monkeypatch):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    monkeypatch.setattr(benchmark_stream, "ROUNDS", 2)
    words = f"--benchmark stream --int8 --savedir {tmp_path} --work-size 64x128 --corr-size 5"
    assert main(words.split()) == 0
    report = json.loads((tmp_path / "benchmark_stream.json").read_text())
    assert {"LMANet, int8", "single frame, int8"} <= set(report["milliseconds"])
    assert "LMANet, int8 / single frame, ONNX Runtime" in report["ratios"]
