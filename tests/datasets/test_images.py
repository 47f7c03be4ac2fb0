"""Decoding and resizing against Pillow, and what damaged files look like."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.images import image_size, read_frame
from datasets.labels import check_label_fits_frame
from tests.cityscapes import read_label
from utils.errors import DataError

LABEL = "a_000000_000000_gtFine_labelIds.png"
TRAIN_LABEL = "a_000000_000000_gtFine_labelTrainIds.png"


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pillow_frame(path, size) -> np.ndarray:
    image = Image.open(path).convert("RGB").resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1).astype(int)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("size", [(64, 128), (32, 64), (65, 129), (17, 23), (64, 100), (200, 50), (1, 1)])
def test_frames_are_resized_as_pillow_does(saved, size, ending):
    path = saved(noise(64, 128), f"a_000000_000000_leftImg8bit{ending}")
    frame = read_frame(path, size)
    assert (frame.dtype, tuple(frame.shape), frame.is_contiguous()) == (torch.uint8, (3, *size), True)
    assert np.abs(frame.numpy() - pillow_frame(path, size)).max() <= 1


def test_halving_by_hand(saved):
    # A triangle of two pixels' half width around the middle of columns 2 and 3: weights 1 3 3 1 of 8.
    row = np.array([0, 0, 80, 160, 240, 0, 0, 0], np.uint8)
    path = saved(np.repeat(np.repeat(row[None, :, None], 2, 0), 3, 2))
    assert read_frame(path, (2, 4))[0, 0, 1].item() == (1 * 0 + 3 * 80 + 3 * 160 + 1 * 240) // 8


def test_frame_is_rgb_in_this_order(saved):
    pixels = np.full((4, 4, 3), (10, 20, 30), np.uint8)
    assert read_frame(saved(pixels), (4, 4))[:, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA"])
def test_other_kinds_of_png_become_rgb(tmp_path, mode):
    path = tmp_path / "frame.png"
    Image.fromarray(noise(16, 32)).convert(mode).save(path)
    assert np.array_equal(read_frame(path, (16, 32)), pillow_frame(path, (16, 32)))


def test_orientation_is_ignored(tmp_path):
    tags = Image.Exif()
    tags[274] = 6  # "rotate by 90 degrees"
    Image.fromarray(noise(16, 32)).save(tmp_path / "a.jpg", exif=tags)
    assert tuple(read_frame(tmp_path / "a.jpg", (16, 32)).shape) == (3, 16, 32)
    assert np.array_equal(read_frame(tmp_path / "a.jpg", (16, 32)), pillow_frame(tmp_path / "a.jpg", (16, 32)))


def test_real_frame_as_pillow_reads_it(shared):
    folder = shared / "real" / "cityscapes" / "leftImg8bit_sequence" / "val" / "aachen"
    path = folder / "aachen_000002_000019_leftImg8bit.jpg"
    for size in ((512, 1024), (1025, 2049)):
        assert np.abs(read_frame(path, size).numpy() - pillow_frame(path, size)).max() <= 1


def test_label_by_hand(saved):
    # Halving by nearest neighbor takes the later pixel of each pair: 1, 3, 5, 7.
    row = np.array([0, 7, 0, 8, 0, 33, 0, 255], np.uint8)
    path = saved(np.repeat(row[None], 2, 0), LABEL)
    assert read_label(path, (1, 4)).tolist() == [[0, 1, 18, 19]]
    assert read_label(path, None)[0].tolist() == [19, 0, 19, 1, 19, 18, 19, 19]


def test_train_ids_stay_and_the_rest_is_ignored(saved):
    row = np.array([[0, 7, 18, 19, 33, 255]], np.uint8)
    label = read_label(saved(row, TRAIN_LABEL), None)
    assert (label.dtype, label.tolist()) == (torch.uint8, [[0, 7, 18, 19, 19, 19]])


def test_palette_labels_give_their_indices(tmp_path):
    image = Image.fromarray(np.array([[7, 8, 26]], np.uint8))
    image.putpalette([value for value in range(256) for _ in range(3)])
    image.save(tmp_path / LABEL)
    assert Image.open(tmp_path / LABEL).mode == "P"
    assert read_label(tmp_path / LABEL, None).tolist() == [[0, 1, 13]]


@pytest.mark.parametrize("name", [LABEL, TRAIN_LABEL])
@pytest.mark.parametrize("wrong", [34, 254])
def test_ids_above_33_are_refused(saved, name, wrong):
    path = saved(np.array([[7, wrong]], np.uint8), name)
    with pytest.raises(
        DataError, match=rf"{name} holds the id {wrong} \(1 pixel, first in row 0, column 1\); expected class ids 0..33"
    ):
        read_label(path, (1, 1))


@pytest.mark.parametrize("pixels", [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint16)])
def test_labels_of_several_channels_or_16_bits_are_refused(saved, pixels):
    with pytest.raises(DataError, match=rf"{LABEL}: .* expected one channel of 8 bits"):
        read_label(saved(pixels, LABEL), None)


def test_label_of_unknown_kind_is_refused(saved):
    path = saved(np.zeros((2, 2), np.uint8), "a_000000_000000_gtFine_instanceIds.png")
    with pytest.raises(DataError, match=r"instanceIds.png: the name must end in _labelTrainIds.png or _labelIds.png"):
        read_label(path, None)


def test_label_and_frame_of_different_size(saved):
    frame, label = saved(noise(16, 32)), saved(np.zeros((16, 31), np.uint8), LABEL)
    with pytest.raises(DataError, match=rf"{LABEL} has 31x16 pixels, its frame a_000000_000000_leftImg8bit.png 32x16"):
        check_label_fits_frame(label, frame)


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(64, 128)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.99, 0.999])
def test_truncated_frame(tmp_path, capfd, kind, share):
    content = encoded(kind)
    path = tmp_path / f"cut.{kind.lower()}"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=rf"{path.name} cannot be read: .*; copy or download this file again") as error:
        read_frame(path, (32, 64))
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("position", [60, 5000, 20000])
def test_png_with_a_wrong_byte(tmp_path, position):
    content = bytearray(encoded("PNG"))
    content[position] ^= 0x55
    (tmp_path / "wrong.png").write_bytes(content)
    with pytest.raises(DataError, match=r"wrong.png cannot be read"):
        read_frame(tmp_path / "wrong.png", (32, 64))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_truncated_label(tmp_path, share):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 34, (64, 128), dtype=np.uint8)).save(buffer, "PNG")
    path = tmp_path / LABEL
    path.write_bytes(buffer.getvalue()[: int(len(buffer.getvalue()) * share)])
    with pytest.raises(DataError, match=rf"{LABEL} cannot be read"):
        read_label(path, None)


@pytest.mark.parametrize("content", [b"not an image at all", b"\x89PNG\r\n\x1a\n" + bytes(100)])
def test_file_that_is_no_image(tmp_path, content):
    (tmp_path / "text.png").write_bytes(content)
    with pytest.raises(DataError, match=r"text.png cannot be read"):
        read_frame(tmp_path / "text.png", (4, 4))


@pytest.mark.parametrize(
    "read", [image_size, lambda path: read_frame(path, (4, 4)), lambda path: read_label(path, None)]
)
def test_missing_file_and_folder(tmp_path, read):
    with pytest.raises(DataError, match=LABEL):
        read(tmp_path / LABEL)
    (tmp_path / LABEL).mkdir()
    with pytest.raises(DataError, match=LABEL):
        read(tmp_path / LABEL)


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG that says how large it is, without any pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + end + struct.pack(">I4sI", 0, b"IDAT", 0x35AF061E)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")  # pytest undoes the module's own filter
@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (60_000, 60_000)])
def test_huge_image_is_refused_from_its_header(tmp_path, width, height):
    (tmp_path / "huge.png").write_bytes(png_header(width, height))
    with pytest.raises(DataError, match=r"huge.png.* pixels; at most 50 million are read"):
        read_frame(tmp_path / "huge.png", (4, 4))


def test_image_size_is_height_and_width(saved):
    assert image_size(saved(noise(16, 32))) == (16, 32)
