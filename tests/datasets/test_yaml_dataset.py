"""Data sets that a YAML file describes: every layout holds the same clips; what is wrong is told in one line."""

import multiprocessing
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.clip_dataset import ClipDataset
from datasets.clips import VideoFrame
from datasets.images import image_size, read_frame
from datasets.labels import read_label
from datasets.registry import VideoDatasetBase, dataset_named
from tests import farm
from utils.errors import DataError, OptionError, UserError

WINDOW = 4


def opened(file: Path) -> VideoDatasetBase:
    return dataset_named(str(file))


def clips_of(dataset: VideoDatasetBase, split: str, window: int = WINDOW, root: str | None = None):
    return dataset.clips(dataset.root(root), split, window)


def samples(dataset: VideoDatasetBase, split: str, root: str | None = None):
    clips = ClipDataset(dataset, clips_of(dataset, split, root=root), (farm.HEIGHT, farm.WIDTH))
    # By the pixels, as the videos are called otherwise in other layouts.
    return sorted(((each.frames, each.label) for each in clips), key=lambda each: each[0].sum().item())


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The samples by split in Cityscapes' layout."""
    root = farm.write_cityscapes(tmp_path_factory.mktemp("cityscapes"))
    return {split: samples(farm.Farm(), split, str(root)) for split in ("train", "val")}


@pytest.mark.parametrize("layout", farm.LAYOUTS)
def test_every_layout_holds_the_same_clips(layout, reference, tmp_path):
    dataset = opened(farm.LAYOUTS[layout](tmp_path / "farm"))
    assert dataset.classes.names == farm.NAMES
    for split, expected in reference.items():
        found = samples(dataset, split)
        assert len(found) == len(expected) == len(farm.VIDEOS[split])
        for (frames, label), (expected_frames, expected_label) in zip(found, expected, strict=True):
            assert torch.equal(frames, expected_frames)
            assert torch.equal(label, expected_label)


def test_dense_labels_are_a_clip_for_each_frame_that_fills_the_window(tmp_path):
    dataset = opened(farm.write_folders(tmp_path, dense=True))
    assert len(clips_of(dataset, "train")) == 3 * (farm.FRAMES - WINDOW + 1)
    assert len(clips_of(dataset, "train", window=1)) == 3 * farm.FRAMES


def test_videos_are_named_by_their_folder_or_by_what_precedes_the_number(tmp_path):
    for layout in ("sparse", "from 1 by 5", "a list of frames", "a list of folders", "videos", "other words in names"):
        dataset = opened(farm.LAYOUTS[layout](tmp_path / layout))
        names = {video.name for video in dataset.videos(dataset.root(None), "train")}
        assert names == set(farm.VIDEOS["train"]), layout


def test_a_list_of_one_video_is_read_as_one_of_several(tmp_path):
    file = farm.LAYOUTS["a list of frames"](tmp_path)
    (tmp_path / "val.txt").write_text("frames/val/five/005.png\n")
    (clip,) = clips_of(opened(file), "val")
    assert (clip.group, [frame.name for frame in clip.frames]) == ("five", ["002.png", "003.png", "004.png", "005.png"])
    assert clip.label == tmp_path / "masks/val/five/005.png"


def test_a_still_image_is_a_clip_of_one(tmp_path):
    file = farm.write_folders(tmp_path, "masks: masks\nsequence: '{video}'\n", dense=True)
    clips = clips_of(opened(file), "val")
    assert len(clips) == 2 * farm.FRAMES
    assert {len(clip.frames) for clip in clips} == {1}


def test_colors_and_ids_of_the_file(tmp_path):
    text = "ignore: [0, 254]\nfile_ids: {7: barn, 8: 2, 9: barn, 1: ground, 2: tree, 3: sky}\ncolors: {"
    text += ", ".join(f"{name}: '#0{i}0203'" for i, name in enumerate(farm.NAMES)) + "}\nweights: [1, 2, 3, 4, 5.5]\n"
    classes = opened(farm.write_folders(tmp_path, f"masks: masks\n{text}")).classes
    assert classes.colors == tuple((i, 2, 3) for i in range(5))
    assert (classes.file_ids, classes.written_ignored) == ((1, 7, 8, 2, 3), 0)
    assert classes.loss_weights == (1, 2, 3, 4, 5.5)
    label = tmp_path / "one.png"
    Image.fromarray(np.array([[1, 7, 9, 8, 2, 3, 0, 254]], np.uint8)).save(label)
    coding = opened(tmp_path / "farm.yaml").label_coding(label)
    assert read_label(label, None, coding).tolist() == [[0, 1, 1, 2, 3, 4, 5, 5]]


def test_names_by_id(tmp_path):
    head = farm.HEAD.replace("[ground, barn, sheep, tree, sky]", "{3: c, 1: a, 2: b}")
    dataset = opened(farm.write_folders(tmp_path, "ignore: 0\n", head=head))
    assert (dataset.classes.names, dataset.classes.file_ids) == (("a", "b", "c"), (1, 2, 3))
    assert len(set(dataset.classes.colors)) == 3


def test_a_spawned_worker_reads_the_file_again(tmp_path):
    dataset = opened(farm.write_folders(tmp_path))
    again = pickle.loads(pickle.dumps(dataset))
    assert again.classes == dataset.classes and again.videos(tmp_path, "val") == dataset.videos(tmp_path, "val")


def test_frames_of_a_video_in_any_order(tmp_path):
    farm.write_videos(tmp_path)
    path = tmp_path / "frames" / "val" / "five.mp4"
    assert image_size(VideoFrame(path, 3)) == (farm.HEIGHT, farm.WIDTH)
    for number in (5, 0, 1, 4, 2, 2, 3):
        frame = read_frame(VideoFrame(path, number), (farm.HEIGHT, farm.WIDTH))
        assert np.array_equal(frame.permute(1, 2, 0).numpy(), farm.pictures("five")[number][0]), number
    with pytest.raises(DataError, match=r"five\.mp4 has no frame 6: expected 0 to 5"):
        read_frame(VideoFrame(path, 6), (8, 8))


def test_a_forked_process_reads_videos_that_its_parent_has_open(tmp_path):
    farm.write_videos(tmp_path)
    frames = [VideoFrame(path, 2) for path in sorted(tmp_path.glob("frames/*/*.mp4"))]
    expected = [read_frame(frame, (8, 8)) for frame in frames]  # more than are kept open
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.map_async(partial(read_frame, size=(8, 8)), frames).get(timeout=60)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_files_of_systems_are_skipped(tmp_path):
    file = farm.write_folders(tmp_path)
    before = clips_of(opened(file), "train")
    for folder in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        for each in list(folder.glob("*.png")):
            each.with_name(f"._{each.name}").write_bytes(b"\0\5\x16\7")
    assert clips_of(opened(file), "train") == before


def said(file: Path, split: str = "val", window: int = WINDOW) -> str:
    """What is wrong with a data set, in one line."""
    with pytest.raises(UserError) as error:
        dataset = opened(file)
        clips = ClipDataset(dataset, clips_of(dataset, split, window), (farm.HEIGHT, farm.WIDTH))
        for index in range(len(clips)):
            clips[index]
    assert "\n" not in str(error.value)
    return str(error.value)


GOOD = farm.HEAD + "masks: masks\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- frames\n", "holds a list: expected keys with values, such as path: "),
        ("", "holds nothing: expected keys"),
        ("train: [frames\n", "is no YAML"),
        (GOOD + "mask: labels\n", "the key 'mask' is not known: did you mean 'masks'?"),
        (GOOD + "sequenz: a\n", "the key 'sequenz' is not known: did you mean 'sequence'?"),
        (GOOD.replace("val: frames/val\n", ""), "the key 'val' is missing"),
        (GOOD.replace("barn", "sky"), "the class 'sky' is listed twice in names"),
        (GOOD + "names: {0: a}\n", "'names' stands there twice, in lines 3 and 5"),
        (GOOD.replace("barn", "no"), "names has False, which is no text: write it in quotes"),
        (GOOD + "nc: 4\n", "nc is 4, but there are 5 names"),
        (GOOD + "colors: [[1, 2, 3]]\n", "colors has 1 for 5 classes"),
        (GOOD + "colors: {bran: [1, 2, 3]}\n", "colors has the class 'bran', which is not known: did you mean 'barn'?"),
        (GOOD + "file_ids: {1: ground, 2: bran}\n", "file_ids has the class 'bran', which is not known: did you mean"),
        (GOOD + "file_ids: {1: ground}\n", "file_ids has no value for the class 'barn'"),
        (GOOD + "ignore: 3\n", "the id 3 is ignored, and that of 'tree'"),
        (GOOD + "ignore: [0, 0, 0]\n", "expected each id once; a color is a list in it"),
        (GOOD + "sequence: '{vidoe}/{frame}'\n", "expected {video} and {frame} in it"),
        (GOOD + "sequence: 'drive_{video}/{frame}'\n", "sequence 'drive_{video}/{frame}' matches no name"),
        (GOOD.replace("masks: masks", "masks: labels"), "masks is labels, but there is no folder"),
        (GOOD + "path: elsewhere\n", "path is"),
        (GOOD.replace("frames/val", "frames/vla"), "val is frames/vla, but there is no"),
        (farm.HEAD + "masks: masks/{name}_gt.png\n", "no frame of split val has a label: expected "),
        (GOOD + "gaps: ignore\n", "gaps is 'ignore': expected 'split'"),
        ("&a [" * 200, "is no YAML"),
    ],
)
def test_what_is_wrong_with_the_file(text, message, tmp_path):
    file = farm.write_folders(tmp_path)
    file.write_text(text)
    assert message in said(file)
    assert "farm.yaml" in said(file)


def test_ids_without_a_class(tmp_path):
    file = farm.write_folders(tmp_path)
    pixels = farm.pictures("five")[-1][1].copy()
    pixels[3, 5:8] = 77
    farm.save(tmp_path / "masks/val/five/005.png", pixels)
    found = said(file)
    assert "masks/val/five/005.png holds the id 77 (3 pixels, first in row 3, column 5)" in found
    assert "expected class ids 0..4, or 255 for none" in found


def test_colors_without_a_class(tmp_path):
    file = farm.LAYOUTS["rgb"](tmp_path)
    pixels = np.array([*COLORS_AND_NONE], np.uint8)[np.zeros((farm.HEIGHT, farm.WIDTH), int)]
    pixels[1, 2] = (1, 2, 3)
    farm.save(tmp_path / "masks/val/five/005.png", pixels)
    assert "five/005.png holds the color (1, 2, 3) (1 pixel, first in row 1, column 2); expected one" in said(file)
    file.write_text(GOOD)  # without the colors
    assert "pixels of kind RGB, expected one channel of 8 or 16 bits with class ids" in said(file)


COLORS_AND_NONE = (*farm.COLORS, (0, 0, 0))


def test_a_label_of_another_size(tmp_path):
    file = farm.write_folders(tmp_path)
    farm.save(tmp_path / "masks/val/five/005.png", np.zeros((8, 8), np.uint8))
    assert "five/005.png has 8x8 pixels, its frame 005.png 64x32 (width x height)" in said(file)


def test_a_frame_that_is_missing_in_the_middle(tmp_path):
    file = farm.LAYOUTS["from 1 by 5"](tmp_path)
    (tmp_path / "frames/val/five_16.png").unlink()
    assert "video five lacks frame 16, between " in said(file)
    assert "frames/val/five_11.png and five_21.png: copy it there; or write `gaps: split`" in said(file)
    file.write_text(file.read_text() + "gaps: split\n")
    # Of the two parts the second has the label, and two frames up to it.
    assert [len(clip.frames) for clip in clips_of(opened(file), "val", window=2)] == [2, 2]
    assert len(clips_of(opened(file), "val", window=3)) == 1


def test_timestamps_are_numbers_too(tmp_path):
    file = farm.write_folders(tmp_path)
    for number, name in enumerate((1403636579763555584, 1403636579813555456, 1403636579863555584, 1403636579913555968)):
        (tmp_path / f"frames/val/five/{number:03d}.png").rename(tmp_path / f"frames/val/five/{name}.png")
    for number in (4, 5):
        (tmp_path / f"frames/val/five/{number:03d}.png").unlink()
    (tmp_path / "masks/val/five/005.png").rename(tmp_path / f"masks/val/five/{name}.png")
    assert [len(clip.frames) for clip in clips_of(opened(file), "val")] == [4, 4]


def test_a_split_without_a_clip(tmp_path):
    file = farm.write_folders(tmp_path)
    shutil.rmtree(tmp_path / "masks" / "val")
    assert "no frame of split val has a label: expected " in said(file)
    with pytest.raises(OptionError, match="the longest window that works is 6"):
        clips_of(opened(file), "train", window=9)
    shutil.rmtree(tmp_path / "frames" / "val")
    (tmp_path / "frames" / "val").mkdir()
    assert "no frames in frames/val of " in said(file)


def test_an_unreadable_file_is_named(tmp_path):
    file = farm.write_folders(tmp_path)
    (tmp_path / "frames/val/five/004.png").write_bytes(b"no picture")
    assert "image " in said(file) and "frames/val/five/004.png cannot be read" in said(file)


def test_an_unreadable_video_is_named(tmp_path):
    file = farm.write_videos(tmp_path)
    (tmp_path / "frames/val/five.mp4").write_bytes(b"no video")
    assert "frames/val/five.mp4 cannot be read (" in said(file)
    farm.save(tmp_path / "masks/val/four/7.png", farm.pictures("four")[-1][1])
    farm.write_videos(tmp_path)
    assert "masks/val/four/7.png is of frame 7, but " in said(file)


def test_a_file_of_a_list_that_is_not_there(tmp_path):
    file = farm.LAYOUTS["a list of frames"](tmp_path)
    with (tmp_path / "val.txt").open("a") as lines:
        lines.write("frames/val/six/005.png\n")
    assert "val.txt lists " in said(file) and "frames/val/six/005.png, which is not there" in said(file)
    (tmp_path / "val.txt").write_text("\n\n")
    assert "val.txt lists no frames" in said(file)


def test_two_files_of_one_number(tmp_path):
    file = farm.write_folders(tmp_path)
    shutil.copy(tmp_path / "frames/val/five/004.png", tmp_path / "frames/val/five/4.png")
    assert "are both frame 4 of one video" in said(file)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits(bits, tmp_path):
    """As tools that make PNGs smaller write them; Pillow would stretch their gray levels."""
    ids = np.arange(32 * 64).reshape(32, 64) % min(1 << bits, 5)
    packed = np.packbits(((ids[..., None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).reshape(32, -1), axis=1)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 64, 32, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    path = tmp_path / "few.png"
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        for kind, content in chunks:
            file.write(struct.pack(">I", len(content)) + kind + content)
            file.write(struct.pack(">I", zlib.crc32(kind + content)))
    dataset = opened(farm.write_folders(tmp_path / "farm"))
    assert np.array_equal(read_label(path, None, dataset.label_coding(path)).numpy(), ids)


def test_labeled_images_of_a_video_file(tmp_path):
    file = farm.write_videos(tmp_path)
    (tmp_path / "frames").rename(tmp_path / "videos")
    for split, videos in farm.VIDEOS.items():
        for video in videos:
            farm.save(tmp_path / "frames" / split / f"{video}_0005.png", farm.pictures(video)[-1][0])
            (tmp_path / "masks" / split / video / "5.png").rename(tmp_path / "masks" / split / f"{video}_0005.png")
    file.write_text(GOOD + "frames: videos\n")
    clips = clips_of(opened(file), "val")
    assert [(clip.group, len(clip.frames)) for clip in clips] == [("five", 4), ("four", 4)]
    assert clips[0].frames[:-1] == tuple(VideoFrame(tmp_path / "videos/val/five.mp4", number) for number in (2, 3, 4))


def test_a_short_file_that_aliases_make_huge(tmp_path):
    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    file = farm.write_folders(tmp_path)
    file.write_text(f"a0: &a0 [x]\n{levels}")
    assert "the key 'a0' is not known" in said(file)
    file.write_text("names: " + "[" * 3 + "x]]]\ntrain: [a]\nval: [b]\n")
    assert "names has [['x']], which is no text" in said(file)


@pytest.mark.slow
def test_100_000_frames_are_listed_in_seconds(tmp_path):
    for split, videos in (("train", 90), ("val", 10)):
        for video in range(videos):
            folder, labels = (tmp_path / kind / split / f"drive_{video:03d}" for kind in ("frames", "masks"))
            folder.mkdir(parents=True)
            labels.mkdir(parents=True)
            for number in range(1000):
                (folder / f"{number:06d}.jpg").touch()
                (labels / f"{number:06d}.png").touch()
    (tmp_path / "farm.yaml").write_text(GOOD)
    code = "import re, sys, time; from datasets.registry import dataset_named; start = time.process_time(); "
    code += "found = dataset_named(sys.argv[1]); root = found.root(None); "
    code += "print(*(len(found.clips(root, split, 5)) for split in ('train', 'val')), time.process_time() - start, "
    # Of this program alone: the kernel's ru_maxrss is at least that of the process which started it.
    code += "int(re.search('VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) / 1024)"
    command = [sys.executable, "-c", code, str(tmp_path / "farm.yaml")]
    printed = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True).stdout
    train, val, seconds, megabytes = printed.split()
    assert (int(train), int(val)) == (90 * 996, 10 * 996)
    assert float(megabytes) <= 300
    assert float(seconds) <= 12  # 3 on an idle machine, of which this asks a quarter
