"""Images of several frames: all of them are read, each with its duration."""

import numpy as np
import pytest
from PIL import Image

from engine.streaming.sources import open_source
from tests.engine.videos import moving_blocks

DURATIONS = [100, 250, 30, 400, 100]
LOSSY = {".gif": 25, ".avif": 25}  # mean difference of gray levels


@pytest.mark.parametrize("ending", [".png", ".webp", ".gif", ".avif", ".tif"])
def test_all_frames_are_read_with_their_durations(tmp_path, ending):
    images = moving_blocks(5)
    first, *rest = map(Image.fromarray, images)
    first.save(tmp_path / f"a{ending}", save_all=True, append_images=rest, duration=DURATIONS, lossless=True)
    source = open_source(str(tmp_path / f"a{ending}"))
    frames = list(source)
    assert [frame.name for frame in frames] == [f"a_{number:06d}" for number in range(5)]
    assert source.count == 5
    seconds = [0.0, 0.1, 0.35, 0.38, 0.78] if ending != ".tif" else [number / 17 for number in range(5)]
    assert [frame.seconds for frame in frames] == pytest.approx(seconds)
    assert frames[-1].duration == (None if ending == ".tif" else 0.1)
    for frame, image in zip(frames, images, strict=True):
        assert np.abs(frame.image.astype(int) - image).mean() <= LOSSY.get(ending, 0)


def test_the_picture_for_viewers_without_animations_is_none_of_its_frames(tmp_path):
    first, *rest = map(Image.fromarray, moving_blocks(4))
    first.save(tmp_path / "a.png", save_all=True, append_images=rest, default_image=True, duration=100)
    frames = list(open_source(str(tmp_path / "a.png")))
    assert [np.array_equal(frame.image, image) for frame, image in zip(frames, moving_blocks(4)[1:], strict=True)] == [
        True,
        True,
        True,
    ]


def test_photographs_with_a_preview_behind_them_are_one_frame(tmp_path):
    first, second = map(Image.fromarray, moving_blocks(2))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert [frame.name for frame in open_source(str(tmp_path))] == ["a"]


def test_smaller_copies_of_a_page_are_left_out(tmp_path):
    pages = [Image.fromarray(moving_blocks(2)[number]) for number in range(2)]
    small = pages[0].resize((24, 12))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=[small, pages[1]])
    assert [frame.image.shape for frame in open_source(str(tmp_path / "a.tif"))] == [(48, 96, 3)] * 2


def test_pages_of_16_bits_become_8_bits(tmp_path):
    gray = np.arange(48 * 96, dtype=np.uint16).reshape(48, 96) * 13
    page = Image.fromarray(gray)
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    frames = list(open_source(str(tmp_path / "a.tif")))
    assert len(frames) == 3
    assert np.array_equal(frames[2].image[..., 1], gray >> 8)


def test_frames_of_animations_and_images_beside_them_have_names_of_their_own(tmp_path):
    first, second = map(Image.fromarray, moving_blocks(2))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second], duration=100)
    first.save(tmp_path / "a_000000.png")
    first.save(tmp_path / "a_000001.png")
    frames = list(open_source(str(tmp_path)))
    assert len({frame.name for frame in frames}) == 4
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.1, 0.2, 0.2 + 1 / 17])
