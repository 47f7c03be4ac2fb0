"""The table of engines, small."""

import importlib.util

import pytest

from engine.benchmarks.engines import main


@pytest.mark.slow
def test_the_table_has_a_column_for_each_variant(capsys):
    for name in ("onnx", "onnxscript", "onnxruntime", "openvino"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
    assert main(["erf", "--work-size", "32x64", "--rounds", "2"]) == 0
    head, _, row, *_ = capsys.readouterr().out.splitlines()
    variants = "torch float32 | onnxruntime float32 | openvino float32 | torch bfloat16 | openvino bfloat16"
    assert head == f"| network | {variants} | single, onnxruntime float32 |"
    assert row.startswith("| `erf` | ") and row.count("(") == 6
