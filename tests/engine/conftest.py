"""A tiny data set in the Cityscapes layout, and weights for it."""

import numpy as np
import pytest
import torch
from PIL import Image

from models import build_lmanet
from models.weights.export import published_state_dict
from tests.networks import LMANetConfig

HEIGHT, WIDTH, FRAMES = 64, 128, 4
LABEL_IDS = np.array([7, 8, 11, 21, 23, 26, 0], dtype=np.uint8)  # six classes and one that is ignored


def write_snippet(root, split: str, number: int) -> None:
    """Four frames of coarse color blocks that move by two pixels a frame; the last one is labeled."""
    rs = np.random.RandomState(number)
    blocks = rs.randint(0, len(LABEL_IDS), (HEIGHT // 16, WIDTH // 16 + 1))
    colors = np.random.RandomState(0).randint(0, 256, (len(LABEL_IDS), 3))
    scene = blocks.repeat(16, 0).repeat(16, 1)
    name = f"toytown_{number:06d}"
    frames, labels = root / "leftImg8bit_sequence" / split / "toytown", root / "gtFine" / split / "toytown"
    frames.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    for t in range(FRAMES):
        classes = scene[:, 2 * t : 2 * t + WIDTH]
        image = (colors[classes] + rs.randint(-20, 20, (HEIGHT, WIDTH, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(frames / f"{name}_{t:06d}_leftImg8bit.png")
    Image.fromarray(LABEL_IDS[classes]).save(labels / f"{name}_{FRAMES - 1:06d}_gtFine_labelIds.png")


def make_data_set(root, train: int = 5, val: int = 3):
    for split, numbers in (("train", range(train)), ("val", range(100, 100 + val))):
        for number in numbers:
            write_snippet(root, split, number)
    return root


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """Networks of this size are slower on several threads, all the more on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def toytown(tmp_path_factory):
    """Five training and three validation snippets of 64x128; not to be changed."""
    return make_data_set(tmp_path_factory.mktemp("toytown"))


@pytest.fixture
def own_toytown(tmp_path):
    """The same, to be damaged."""
    return make_data_set(tmp_path / "toytown")


@pytest.fixture
def six_clips(tmp_path):
    """Six training and four validation snippets."""
    return make_data_set(tmp_path / "six", train=6, val=4)


@pytest.fixture(scope="session")
def erfnet_file(tmp_path_factory):
    """Weights of a fresh single-frame ERFNet under the published names."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("weights") / "erfnet.pth"
    torch.save(published_state_dict(build_lmanet(LMANetConfig(baseline=True))), path)
    return path


@pytest.fixture
def command(toytown, erfnet_file, tmp_path):
    """Makes the arguments of a small run: ``command("--training", "--resume", data=..., weights=...)``."""

    def arguments(*options: str, data=toytown, weights=erfnet_file, savedir=tmp_path / "run") -> list[str]:
        shared = f"--data-root {data} --weights {weights} --savedir {savedir} --work-size 32x64 --corr-size 3"
        return [*shared.split(), *["--num-workers", "0", "--batch-size", "2", "--device", "cpu"], *options]

    return arguments
