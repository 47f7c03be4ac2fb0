"""Which image files are opened: pictures of moderate size and work, and nothing that hides behind their names."""

import io
import os
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.image_files import ENDINGS
from datasets.images import image_size, read_frame, read_picture
from engine.streaming.sources import open_source
from tests.cityscapes import read_label
from tests.engine.videos import moving_blocks
from utils.errors import DataError, UnreachableError

READERS = pytest.mark.parametrize(
    "read",
    [image_size, read_picture, lambda path: read_frame(path, (4, 8)), lambda path: read_label(path, None)],
    ids=["size", "picture", "frame", "label"],
)
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 48\n%%EndComments\n(any program) print\n%%EOF\n"


def saved(path: Path, kind: str) -> None:
    content = io.BytesIO()
    Image.fromarray(moving_blocks(1)[0]).convert("P" if kind == "PCX" else "RGB").save(content, kind)
    path.write_bytes(content.getvalue())


@READERS
@pytest.mark.parametrize("kind", ["EPS", "PDF", "PCX", "ICNS"])
def test_other_formats_behind_an_image_s_name_are_not_opened(tmp_path, monkeypatch, kind, read):
    called = tmp_path / "bin" / "gs"  # stands for an installed Ghostscript
    called.parent.mkdir()
    called.write_text(f"#!/bin/sh\ntouch {tmp_path}/called\nexit 1\n")
    called.chmod(0o755)
    monkeypatch.setenv("PATH", f"{called.parent}:{os.environ['PATH']}")
    path = tmp_path / "a_gtFine_labelIds.png"
    if kind == "EPS":
        path.write_bytes(EPS)
    else:
        saved(path, kind)
    with pytest.raises(DataError, match="cannot be read: none of PNG, JPEG"):
        read(path)
    assert not (tmp_path / "called").exists()


@READERS
def test_a_pipe_or_a_device_is_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "a_labelIds.png")
    (tmp_path / "b_labelIds.png").symlink_to("/dev/zero")
    for name in "ab":
        with pytest.raises(DataError, match="it is a pipe or a device: expected a file"):
            read(tmp_path / f"{name}_labelIds.png")
    with pytest.raises(UnreachableError, match="no file"):
        read(tmp_path / "c_labelIds.png")


def with_scans(path: Path, side: int, scans: int) -> Path:
    """A small file: a gray progressive JPEG whose last scan is there many times."""
    content = io.BytesIO()
    Image.new("L", (side, side)).save(content, "JPEG", progressive=True, quality=1)
    data = content.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    path.write_bytes(data[:-2] + last * scans + data[-2:])
    return path


@pytest.mark.parametrize(("side", "scans"), [(4000, 400), (2000, 1500)])
def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(tmp_path, side, scans):
    start = time.process_time()
    path = with_scans(tmp_path / "a.jpg", side, scans)
    with pytest.raises(DataError, match=rf"a\.jpg has 1?\d\d\d scans of {side}x{side} pixels"):
        read_picture(path)
    assert time.process_time() - start < 10


def test_a_small_jpeg_may_have_many_scans(tmp_path):
    assert read_picture(with_scans(tmp_path / "a.jpg", 64, 300)).shape == (3, 64, 64)


@pytest.mark.parametrize("channels", [1, 3])
def test_floating_point_pixels_are_said_to_be_that(tmp_path, channels):
    pixels = np.zeros((8, 16, channels), np.float32)
    cv2.imwrite(str(tmp_path / "a.tif"), pixels if channels == 3 else pixels[..., 0])
    with pytest.raises(DataError, match=r"floating-point numbers of 32 bits.*expected whole numbers of 8 or 16 bits"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_ending_that_is_listed_is_read(tmp_path, ending):
    image = moving_blocks(1)[0]
    kind = {".jp2": "JPEG2000", ".apng": "PNG", ".jfif": "JPEG", ".jpe": "JPEG", ".pnm": "PPM"}.get(ending)
    Image.fromarray(image).convert("1" if ending == ".pbm" else "L" if ending == ".pgm" else "RGB").save(
        tmp_path / f"a{ending}", kind
    )
    found = next(iter(open_source(str(tmp_path)))).image
    assert found.shape == image.shape
    shutil.copy(tmp_path / f"a{ending}", tmp_path / f"b{ending.upper()}")
    assert len(list(open_source(str(tmp_path)))) == 2
