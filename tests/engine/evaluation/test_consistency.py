"""Consistency over a labeled data set from the command line."""

import json
from pathlib import Path

import pytest
from PIL import Image

from main import main
from tests.engine.conftest import write_snippet

FRAMES = 10


@pytest.fixture
def labelled_throughout(tmp_path) -> Path:
    """Two still snippets of ten frames, all of them labeled."""
    root = tmp_path / "town"
    for number in (1, 2):
        write_snippet(root, "val", number)
        (label,) = root.glob(f"gtFine/val/toytown/toytown_{number:06d}_*")
        image, ids = (
            Image.open(next(root.glob(f"leftImg8bit_sequence/val/toytown/toytown_{number:06d}_*"))),
            Image.open(label),
        )
        ids.load(), image.load()
        for t in range(FRAMES):
            name = f"toytown_{number:06d}_{t:06d}"
            image.save(root / "leftImg8bit_sequence/val/toytown" / f"{name}_leftImg8bit.png")
            ids.save(label.parent / f"{name}_gtFine_labelIds.png")
    return root


def test_an_evaluation_reports_both_measures(command, labelled_throughout, tmp_path, capsys):
    options = ["--eval-mode", "--baseline-mode", "--consistency"]
    assert main(command(*options, data=labelled_throughout)) == 0
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    found = report["consistency"]
    assert (found["pairs"], found["sequences"]) == (2 * (FRAMES - 1), 2)
    # Every frame is the same one: its labels never change, and are right as often as in a single frame.
    assert found["tc"]["single_frame"] == 1
    assert found["mvc"]["single_frame"]["mVC16"] is None
    per_image = found["mvc"]["single_frame"]["mVC8"]
    assert 0 <= per_image <= 1
    assert f"single_frame: TC 100.00 %, mVC8 {100 * per_image:.2f} %, mVC16 nan %" in capsys.readouterr().out
