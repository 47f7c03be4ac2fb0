"""A made data set of five classes, written in every layout that a YAML file can describe, and in Cityscapes'."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from datasets.sets.cityscapes import Cityscapes
from utils.class_set import ClassSet

NAMES = ("ground", "barn", "sheep", "tree", "sky")
COLORS = ((90, 90, 90), (200, 40, 40), (230, 230, 230), (30, 120, 30), (80, 150, 230))
NONE = 255
FRAMES, HEIGHT, WIDTH = 6, 32, 64
VIDEOS = {"train": ("one", "two", "three"), "val": ("four", "five")}
CLASSES = ClassSet(NAMES, COLORS)
HEAD = f"train: frames/train\nval: frames/val\nnames: [{', '.join(NAMES)}]\n"
WITH_COLORS = f"colors: {[list(color) for color in COLORS]}\n"


class Farm(Cityscapes):
    """The same classes in Cityscapes' layout."""

    name = "Farm"
    classes = CLASSES


def pictures(video: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Frames ``H W 3`` and class indices ``H W`` of blocks that move by a pixel a frame; the top row counts nowhere."""
    rs = np.random.RandomState(sum(map(ord, video)))
    scene = rs.randint(0, len(NAMES), (HEIGHT // 8, WIDTH // 8 + 1)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
    found = []
    for t in range(FRAMES):
        label = scene[:, t : t + WIDTH].copy()
        noise = rs.randint(-10, 11, (HEIGHT, WIDTH, 3))
        frame = (np.array(COLORS)[label] + noise).clip(0, 255).astype(np.uint8)
        label[0] = NONE
        found.append((frame, label))
    return found


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_cityscapes(root: Path, dense: bool = False) -> Path:
    for split, videos in VIDEOS.items():
        for number, video in enumerate(videos):
            for t, (frame, label) in enumerate(pictures(video)):
                name = f"{split}_{number:06d}_{t:06d}"
                save(root / "leftImg8bit_sequence" / split / split / f"{name}_leftImg8bit.png", frame)
                if dense or t == FRAMES - 1:
                    save(root / "gtFine" / split / split / f"{name}_gtFine_labelTrainIds.png", label)
    return root


def as_ids(path: Path, label: np.ndarray) -> None:
    save(path, label)


def as_palette(path: Path, label: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(label)
    image.putpalette([value for color in (*COLORS, *[(0, 0, 0)] * (256 - len(COLORS))) for value in color])
    assert image.mode == "P"
    image.save(path)


def as_16_bits(path: Path, label: np.ndarray) -> None:
    save(path, np.where(label == NONE, 0, 1000 * (label.astype(np.uint16) + 1)).astype(np.uint16))


def as_colors(path: Path, label: np.ndarray) -> None:
    save(path, np.array([*COLORS, *[(0, 0, 0)] * (256 - len(COLORS))], np.uint8)[label])


def write_folders(
    root: Path,
    text: str = "masks: masks\n",
    write_label: Callable[[Path, np.ndarray], None] = as_ids,
    frame: str = "frames/{split}/{video}/{number:03d}.png",
    label: str = "masks/{split}/{video}/{number:03d}.png",
    dense: bool = False,
    start: int = 0,
    step: int = 1,
    head: str = HEAD,
) -> Path:
    """A file for each frame and label, named by patterns; returns the YAML file."""
    for split, videos in VIDEOS.items():
        for video in videos:
            for t, (pixels, indices) in enumerate(pictures(video)):
                number = start + step * t
                save(root / frame.format(split=split, video=video, number=number), pixels)
                if dense or t == FRAMES - 1:
                    write_label(root / label.format(split=split, video=video, number=number), indices)
    (root / "farm.yaml").write_text(head + text)
    return root / "farm.yaml"


def write_list(root: Path, line: str, text: str = "masks: masks\n", **more: str) -> Path:
    """Frames that lists name, a line for each video."""
    file = write_folders(
        root, text, head=HEAD.replace("frames/train", "train.txt").replace("frames/val", "val.txt"), **more
    )
    for split, videos in VIDEOS.items():
        lines = [line.format(split=split, video=video, number=FRAMES - 1) for video in videos]
        (root / f"{split}.txt").write_text("\n".join(lines) + "\n")
    return file


def write_apart(root: Path) -> Path:
    """Labeled frames in one folder, all others in another one, as in Cityscapes."""
    file = write_folders(root, "masks: masks\nframes: sequences\n", frame="sequences/{split}/{video}/{number:03d}.png")
    for split, videos in VIDEOS.items():
        for video in videos:
            name = f"{split}/{video}/{FRAMES - 1:03d}.png"
            (root / "frames" / name).parent.mkdir(parents=True)
            (root / "sequences" / name).rename(root / "frames" / name)
    return file


def write_videos(root: Path) -> Path:
    """An MP4 for each video, without loss, and labels by the frame's number."""
    for split, videos in VIDEOS.items():
        for video in videos:
            path = root / "frames" / split / f"{video}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            with av.open(str(path), "w") as container:
                stream = container.add_stream("libx264rgb", rate=Fraction(25))
                stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgb24"
                stream.options = {"qp": "0", "g": "4"}
                for frame, _ in pictures(video):
                    container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
                container.mux(stream.encode())
            save(root / "masks" / split / video / f"{FRAMES - 1}.png", pictures(video)[-1][1])
    (root / "farm.yaml").write_text(HEAD + "masks: masks\n")
    return root / "farm.yaml"


IDS_OF_16_BITS = "".join(f"  {1000 * (index + 1)}: {name}\n" for index, name in enumerate(NAMES))
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "sparse": write_folders,
    "rgb": partial(write_folders, text="masks: masks\n" + WITH_COLORS, write_label=as_colors),
    "palette": partial(write_folders, write_label=as_palette),
    "16 bits": partial(
        write_folders, text=f"masks: masks\nignore: 0\nfile_ids:\n{IDS_OF_16_BITS}", write_label=as_16_bits
    ),
    "from 1 by 5": partial(
        write_folders,
        frame="frames/{split}/{video}_{number}.png",
        label="masks/{split}/{video}_{number}.png",
        start=1,
        step=5,
    ),
    "beside, another ending": partial(
        write_folders,
        text="",
        frame="frames/{split}/{video}/{number:03d}.bmp",
        label="frames/{split}/{video}/{number:03d}.png",
    ),
    "beside, a suffix": partial(
        write_folders, text="masks: '{name}_gt.png'\n", label="frames/{split}/{video}/{number:03d}_gt.png"
    ),
    "a suffix in another folder": partial(
        write_folders, text="masks: masks/{name}_gt.png\n", label="masks/{split}/{video}/{number:03d}_gt.png"
    ),
    "a folder for each video": partial(
        write_folders,
        text="sequence: '{video}/origin/{frame}'\nmasks: 'data/{video}/mask/{frame}.png'\n",
        frame="data/{split}/{video}/origin/{number:05d}.png",
        label="data/{split}/{video}/mask/{number:05d}.png",
        head=HEAD.replace("frames/", "data/"),
    ),
    "other words in names": partial(
        write_folders,
        text="sequence: '{video}_{frame}_camera'\nmasks: 'masks/{split}/{video}_{frame}_label.png'\n",
        frame="frames/{split}/{video}_{number:06d}_camera.png",
        label="masks/{split}/{video}_{number:06d}_label.png",
    ),
    "labeled frames apart": write_apart,
    "a list of frames": partial(write_list, line="frames/{split}/{video}/{number:03d}.png"),
    "a list of pairs": partial(
        write_list,
        text="",
        line="/Farm/frames/{split}/{video}/{number:03d}.png /Farm/masks/{split}/{video}/{number:03d}.png",
    ),
    "a list of folders": partial(write_list, line="frames/{split}/{video}"),
    "videos": write_videos,
}
