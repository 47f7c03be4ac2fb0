"""A small Cityscapes tree to put frames and labels into."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.cityscapes import Roots


class Tree:
    """Writes files in the layout of Cityscapes: frames of 32x16 pixels whose red value is the frame's number."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.roots = Roots(root, root)

    def frame(self, name: str, split="train", part="leftImg8bit_sequence", ending=".png", size=(16, 32)) -> Path:
        pixels = np.zeros((*size, 3), np.uint8)
        pixels[..., 0] = int(name[-6:]) % 256
        pixels[..., 1] = np.arange(size[1])
        path = self._path(part, split, f"{name}_leftImg8bit{ending}")
        Image.fromarray(pixels).save(path)
        return path

    def frames(self, sequence: str, numbers: Iterable[int], **options) -> list[Path]:
        return [self.frame(f"{sequence}_{number:06d}", **options) for number in numbers]

    def label(self, name: str, split="train", kind="labelIds", value=7, size=(16, 32)) -> Path:
        path = self._path("gtFine", split, f"{name}_gtFine_{kind}.png")
        Image.fromarray(np.full(size, value, np.uint8)).save(path)
        return path

    def _path(self, part: str, split: str, file: str) -> Path:
        folder = self.root / part / split / file.split("_")[0]
        folder.mkdir(parents=True, exist_ok=True)
        return folder / file


@pytest.fixture
def tree(tmp_path) -> Tree:
    return Tree(tmp_path / "cityscapes")


@pytest.fixture
def saved(tmp_path) -> Callable[..., Path]:
    """Saves an array as an image file and gives its path."""

    def save(pixels: np.ndarray, name: str = "a_000000_000000_leftImg8bit.png", **options) -> Path:
        Image.fromarray(pixels).save(tmp_path / name, **options)
        return tmp_path / name

    return save
