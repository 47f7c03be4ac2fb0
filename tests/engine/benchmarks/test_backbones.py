"""``--benchmark backbones``: a row a network, as table, CSV and plot."""

import csv
from pathlib import Path

import cv2
import pytest
import torch

from engine.benchmarks import backbones
from engine.launch import run_modes
from engine.options.parser import parse_options
from engine.run_folder import RunFolder
from models import LMANetConfig, build_lmanet
from tests.plugins import registries_restored

PLUGIN = """
from models import register_network
from tests.models.cut import zoo

register_network("bench_unet", zoo.UNet, work_size=(64, 96))
"""


def test_floating_point_operations_of_a_convolution():
    single = build_lmanet(LMANetConfig(backbone="erf", baseline=True, num_classes=3)).eval()
    single.encoder, single.decoder = torch.nn.Conv2d(3, 8, 3, padding=1), Ends()
    # 2 for each of 27 products of 8 channels at 16 x 24 pixels.
    assert backbones.floating_point_operations(single, torch.rand(1, 3, 16, 24)) == 2 * 27 * 8 * 16 * 24


class Ends(torch.nn.Module):
    def forward(self, features, size):
        return features


def test_table_and_csv_have_a_row_a_network():
    rows = [{"network": "erf", "size": "64x96", "parameters": 2.06, "single": 1.5}, {"network": "a,b"}]
    lines = backbones.markdown(rows, 2).splitlines()
    assert lines[2].startswith("| `erf` | 64x96 | 2.06 | – | 1.5 | – |") and lines[-1].startswith("2 threads of ")
    table = list(csv.DictReader(backbones.comma_separated(rows).splitlines()))
    assert [row["network"] for row in table] == ["erf", "a,b"] and table[0]["single"] == "1.5"
    assert list(table[0]) == list(backbones.COLUMNS)


@pytest.mark.slow
def test_command_measures_each_network(tmp_path, capsys, monkeypatch):
    pytest.importorskip("onnxscript")
    (tmp_path / "bench.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[3]))
    names = ["erf", "bench_unet", "no_such_network"]
    command = ["--benchmark", "backbones", "--work-size", "64x96", "--corr-size", "3", "--device", "cpu"]
    command += ["--plugin", str(tmp_path / "bench.py"), "--savedir", str(tmp_path / "out"), "--backbones", *names]
    folder = RunFolder(tmp_path / "out", shallow=False)
    with registries_restored():
        run_modes(parse_options(command), torch.device("cpu"), folder)
    rows = list(csv.DictReader((folder.path / "benchmark_backbones.csv").read_text().splitlines()))
    assert [row["network"] for row in rows] == names[:2]
    for row in rows:
        assert all(float(row[name]) > 0 for name in (*backbones.TIMES, "gflop", "parameters", "memory", "pipeline"))
    assert "| `bench_unet` | 64x96 |" in (folder.path / "benchmark_backbones.md").read_text()
    assert cv2.imread(str(folder.path / "benchmark_backbones.png")).shape[1] == 900
    assert "| `erf` |" in capsys.readouterr().out
