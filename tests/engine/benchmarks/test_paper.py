"""The attention's floor on paper, its sums by hand, and the table in the documents."""

from pathlib import Path

import pytest

from engine.benchmarks import paper
from engine.benchmarks.attention import ERFNET, PSPNET, Shape
from models.local_attention import flex

CARD = paper.Card("card", float32=10.0, half=40.0, gigabytes_per_second=1000.0, gigabytes=16)


def test_the_kernel_computes_scores_once_for_each_256_value_channels():
    # PSPNet's 2048 channels in 8 groups: 8 x 128 + 2048 channels a pair, 2 operations each, at 10 TFLOP/s.
    found = paper.floor_of_kernel(PSPNET, CARD)
    assert found.compute == pytest.approx(2 * 129 * 257 * 3 * 441 * (8 * 128 + 2048) / 10e12 * 1e3)
    assert found.memory == pytest.approx(PSPNET.io_bytes / 1e12 * 1e3)
    assert found.milliseconds == max(found.compute, found.memory) and found.launches == 1
    assert paper.floor_of_kernel(ERFNET, CARD).compute == pytest.approx(ERFNET.flop / 10e12 * 1e3)


def test_flex_computes_whole_tiles():
    # 16 x 32 pixels are 2 x 2 tiles of 8 x 16, all within a window of 3 of each other: 16 pairs of 128 x 128 a frame.
    assert flex.tile_pairs(flex.Grid(16, 32, 2, 3)) == 32
    # 24 x 16: three rows of tiles, of which the first and the last are 8 pixels apart, more than a reach of 5.
    assert flex.tile_pairs(flex.Grid(24, 16, 1, 11)) == 7
    found = paper.floor_of_flex(Shape("x", 1, 10, 300, 1, 8, 16, 3), CARD)  # two heads of 160, channels up to 16
    assert found.compute == pytest.approx(2 * 128 * 128 * 2 * (16 + 160) / 40e12 * 1e3)


def test_the_table_stands_in_the_documents():
    text = (Path(__file__).resolve().parents[3] / "docs" / "speed.md").read_text()
    assert "\n".join(paper.table()) in text
