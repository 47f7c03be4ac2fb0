"""PNG files: the same pixels, read by another program."""

import numpy as np
import pytest
from PIL import Image

from utils.png import write_png


@pytest.mark.parametrize(("shape", "mode"), [((20, 30), "L"), ((20, 30, 3), "RGB"), ((1, 1), "L")])
def test_pixels_are_read_as_they_were_written(tmp_path, shape, mode):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    for number, view in enumerate((pixels, pixels[::-1], np.swapaxes(pixels, 0, 1))):
        write_png(tmp_path / f"{number}.png", view)
        image = Image.open(tmp_path / f"{number}.png")
        assert image.mode == mode and np.array_equal(np.asarray(image), view)
    assert len(list(tmp_path.iterdir())) == 3  # no parts of files are left


def test_colors_are_red_green_and_blue(tmp_path):
    write_png(tmp_path / "a.png", np.full((2, 2, 3), (200, 30, 10), np.uint8))
    assert Image.open(tmp_path / "a.png").getpixel((0, 0)) == (200, 30, 10)
