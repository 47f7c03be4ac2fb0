"""Damaged images, weights, checkpoints and command lines: each gives one clean line or a right result.

The counts are printed: ``pytest -s -m "slow or not slow" tests/test_fuzz.py``.
"""

import contextlib
import copy
import io
import itertools
import random
import shutil
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from datasets.images import read_frame
from engine import processes
from engine.options.parser import build_parser
from main import main
from models import build_lmanet
from models.weights.export import published_state_dict
from models.weights.load import load_weights
from tests.cityscapes import read_label
from tests.engine.conftest import make_data_set
from tests.fuzzing import WrongResult, damaged, outcomes
from tests.networks import LMANetConfig
from utils import tensor_files
from utils.errors import CheckpointError, UserError

HEIGHT, WIDTH = 32, 64
FEW, ALL = 20, 500
LABEL = "a_000000_000000_gtFine_labelIds.png"

amounts = pytest.mark.parametrize("count", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])


def told(kind: str, counts: Counter[str]) -> None:
    print(f"\n{counts.total()} {kind}: {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))}")


def smooth(rng: np.random.Generator) -> np.ndarray:
    small = rng.integers(0, 256, (4, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)


def encoded(pixels: np.ndarray, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def frames() -> dict[str, list[bytes]]:
    pixels = smooth(np.random.default_rng(0))
    return {
        "PNG": [encoded(pixels, "PNG"), encoded(pixels[..., 0], "PNG"), encoded(pixels, "PNG", compress_level=0)],
        "JPEG": [encoded(pixels, "JPEG", quality=90), encoded(pixels, "JPEG", progressive=True)],
    }


def by_pillow(content: bytes) -> np.ndarray | None:
    try:
        image = Image.open(io.BytesIO(content)).convert("RGB")
        return np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))
    except Exception:
        return None


@amounts
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_frames(tmp_path, kind, count):
    whole, path = frames(), tmp_path / "a_leftImg8bit.png"
    others = [each for name, all_of_it in whole.items() if name != kind for each in all_of_it]

    def read(seed: int) -> str:
        rng = random.Random(seed)
        content = damaged(rng.choice(whole[kind]), others, rng)
        path.write_bytes(content)
        frame = read_frame(path, (HEIGHT, WIDTH))
        if (frame.dtype, tuple(frame.shape)) != (torch.uint8, (3, HEIGHT, WIDTH)):
            raise WrongResult(f"{frame.dtype} {tuple(frame.shape)}")
        expected = by_pillow(content)
        if expected is None and kind == "JPEG":
            return ", although Pillow refuses it"
        if expected is None or np.abs(expected.astype(int) - frame.permute(1, 2, 0).numpy()).max() > 1:
            raise WrongResult("other pixels than Pillow's")
        return ""

    # JPEG's library says on stderr what it leaves out, and goes on.
    told(f"damaged {kind} frames", outcomes(read, range(count), talking=kind == "JPEG"))


@amounts
def test_labels(tmp_path, count):
    pixels = np.random.default_rng(0).integers(0, 34, (4, 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    whole, path = encoded(pixels, "PNG"), tmp_path / LABEL
    others = [encoded(pixels, "JPEG"), *frames()["PNG"]]
    path.write_bytes(whole)
    expected = read_label(path, None)

    def read(seed: int) -> None:
        rng = random.Random(seed)
        path.write_bytes(damaged(whole, others, rng))
        if not torch.equal(read_label(path, None), expected):
            raise WrongResult("another label")

    told("damaged labels", outcomes(read, range(count)))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_lmanet(LMANetConfig(baseline=True))


@amounts
def test_weights(tmp_path, network, count):
    state = published_state_dict(network)
    path, buffer = tmp_path / "w.pth", io.BytesIO()
    torch.save(state, buffer)
    tensor_files.save(path, state)
    files, right = [buffer.getvalue(), path.read_bytes()], copy.deepcopy(network.state_dict())

    def read(seed: int) -> None:
        rng = random.Random(seed)
        if seed % 5 == 4:
            torch.save(exchanged(state, rng), path)
        else:
            path.write_bytes(damaged(rng.choice(files), [encoded(np.zeros((9, 9), np.uint8), "PNG")], rng))
        load_weights(network, path)
        for name, tensor in network.state_dict().items():
            if not torch.equal(tensor, right[name]):
                raise WrongResult(name)

    told("damaged weight files", outcomes(read, range(count)))


@pytest.fixture(scope="module")
def toy(tmp_path_factory, network):
    """A folder with a tiny data set and weights for it."""
    folder = make_data_set(tmp_path_factory.mktemp("toy") / "data", train=4, val=1).parent
    torch.save(published_state_dict(network), folder / "weights.pth")
    return folder


def small_run(folder: Path, savedir: Path, *mode: str) -> list[str]:
    paths = f"--data-root {folder / 'data'} --weights {folder / 'weights.pth'} --savedir {savedir}"
    small = f"{paths} --work-size 32x64 --num-workers 0 --batch-size 2 --device cpu --corr-size 3"
    return [*small.split(), *mode]


def ended(arguments: Sequence[str]) -> None:
    """Runs a command line that ends well. Raises ``UserError`` where it says in one line what is wrong."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = main(arguments)
        except SystemExit as exit_:
            status = exit_.code
    errors = [line for line in said.getvalue().splitlines() if "error" in line.lower() or "Traceback" in line]
    if status == 2 and len(errors) == 1 and errors[0].startswith("main.py: error: "):
        raise UserError(errors[0])
    if status or errors:
        raise WrongResult(f"{arguments}: status {status}, {said.getvalue()}")


@amounts
def test_checkpoints(tmp_path, toy, count):
    mode = "--training --baseline-mode --train-decoder --encoder-eval-mode --decoder-eval-mode --lr-strategy plateau_08"
    run, whole = tmp_path / "run", tmp_path / "whole"
    arguments = small_run(toy, run, *mode.split(), "--num-epochs", "2", "--resume")
    ended(small_run(toy, whole, *mode.split(), "--num-epochs", "1"))
    file = (whole / "checkpoint.pth.tar").read_bytes()
    content = tensor_files.read(whole / "checkpoint.pth.tar", CheckpointError)
    shutil.copytree(whole, tmp_path / "right")
    ended([*arguments, "--savedir", str(tmp_path / "right")])
    right = tensor_files.read(tmp_path / "right" / "checkpoint.pth.tar", CheckpointError)["state_dict"]

    def go_on(seed: int) -> str:
        rng = random.Random(seed)
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        if seed % 5 == 4:
            tensor_files.save(run / "checkpoint.pth.tar", exchanged(content, rng))
        else:
            (run / "checkpoint.pth.tar").write_bytes(damaged(file, [(toy / "weights.pth").read_bytes()], rng))
        ended(arguments)
        found = tensor_files.read(run / "checkpoint.pth.tar", CheckpointError)["state_dict"]
        same = all(torch.equal(tensor, right[name]) for name, tensor in found.items())
        return "" if same else ", going on without what is not there"

    told("damaged checkpoints", outcomes(go_on, range(count)))


WORDS = ("", "nonsense", "-1", "0", "ä ö", "a" * 5000, "../x", "--", "nan", "1e999", "$(touch x)", "; rm x", "%s", "{}")
INTEGERS = ("-1", "0", "1", "2", "3", "5", "1.5", "x", "", "1000000", str(10**20), "-1000000000000", "١")
FLOATS = ("-1", "0", "1e-3", "0.5", "1", "nan", "inf", "1e308", "x", "")
# Values that would keep a machine busy for long, though rightly, are left out, and so is a compiler that takes minutes.
OWN_VALUES = {
    "num_epochs": ("-1", "0", "1", "2", "x", ""),
    "gpus": ("-1", "0", "1", "2", "x"),
    "nodes": ("-1", "0", "1", "2", "x"),
    "max_restarts": ("-1", "0", "1", "x"),
    "work_size": ("32x64", "64x64", "0x0", "-8x8", "8", "33x65", "x", "32x", "9x9", "1000000x8", "8X16"),
    "benchmark": ("nonsense", ""),
    "master_addr": ("localhost", "nowhere.invalid", ""),
    "weights": ("none", "WEIGHTS", "FOLDER", "missing.pth", "LABEL", ""),
    "data_root": ("DATA", "FOLDER", "missing", "WEIGHTS", "SAVEDIR/data"),
    "stream": ("FRAMES", "FRAMES/*.png", "FRAMES/%06d.png", "FOLDER", "missing.mp4", "WEIGHTS", "0", "999", ""),
    "cache": ("SAVEDIR/cache", "WEIGHTS", "WEIGHTS/below"),
    "export_weights": ("SAVEDIR/w.pth", "SAVEDIR", "WEIGHTS/below", "missing/w.pth"),
    "export_openvino": ("SAVEDIR/w.xml", "SAVEDIR", "WEIGHTS/below.xml", "missing/w.xml"),
    "export_onnx": ("SAVEDIR/w.onnx", "SAVEDIR", "WEIGHTS/below", "missing/w.onnx"),
    "baseline_path": ("FOLDER", "missing", "WEIGHTS", ""),
    "savedir": ("SAVEDIR/a/b", "WEIGHTS", "WEIGHTS/below", "/dev/null", "/proc/x"),
}  # fmt: skip
MODES = (
    *("--eval-mode", "--eval-mode", "--eval-mode --baseline-mode", "--training --num-epochs 1"),
    *(
        "--training --num-epochs 1 --baseline-mode --train-decoder",
        "--stream FRAMES",
        "--export-weights SAVEDIR/w.pth",
        "",
    ),
)


def random_command(folder: Path, savedir: Path, rng: random.Random) -> list[str]:
    """A small run with a few more options, chosen and filled in at random."""
    words = small_run(folder, savedir, *rng.choice(MODES).split())
    actions = [action for action in build_parser()._actions if action.dest != "compile"]
    for action in rng.sample(actions, rng.choice((1, 1, 2, 3, 5))):
        words.append(rng.choice(action.option_strings))
        if action.nargs != 0 and rng.random() < 0.95:
            kinds = {int: INTEGERS, float: FLOATS}.get(action.type, WORDS)
            choices = (*map(str, action.choices), "nonsense") if action.choices else kinds
            words.append(rng.choice(OWN_VALUES.get(action.dest, choices)))
    frames = folder / "data" / "leftImg8bit_sequence" / "val" / "toytown"
    labels = folder / "data" / "gtFine" / "val" / "toytown"
    places = {"FRAMES": frames, "LABEL": next(labels.iterdir()), "WEIGHTS": folder / "weights.pth"}
    for name, place in (places | {"DATA": folder / "data", "FOLDER": folder, "SAVEDIR": savedir}).items():
        words = [word.replace(name, str(place)) for word in words]
    return words


def files_below(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of change of every file, for comparison."""
    found = {}
    for path in itertools.chain.from_iterable(folder.rglob("*") for folder in folders):
        state = path.lstat()
        found[path] = (state.st_size if path.is_file() else 0, state.st_mtime_ns if path.is_file() else 0)
    return found


@pytest.mark.parametrize("count", [FEW, pytest.param(200, marks=pytest.mark.slow)])
def test_command_lines(tmp_path, toy, monkeypatch, count):
    elsewhere, savedir = tmp_path / "elsewhere", tmp_path / "run"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(processes, "MEETING_SECONDS", 3)
    before = files_below(toy, elsewhere)

    def run(seed: int) -> None:
        shutil.rmtree(savedir, ignore_errors=True)
        arguments = random_command(toy, savedir, random.Random(seed))
        try:
            ended(arguments)
        except UserError:
            raise
        except Exception as error:
            raise WrongResult(f"{arguments}: {traceback.format_exc()}") from error
        finally:
            if files_below(toy, elsewhere) != before:
                raise WrongResult(f"{arguments} changed files outside of --savedir")

    told("random command lines", outcomes(run, range(count), talking=True))


def exchanged(content: dict, rng: random.Random) -> dict:
    """A copy in which one value, at any depth, is of another type, or is missing."""
    changed = copy.deepcopy(content)
    place, keys = changed, list(changed)
    key = rng.choice(keys)
    while isinstance(place[key], (dict, list)) and place[key] and rng.random() < 0.9:
        place = place[key]
        key = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
    values = [
        *(None, "text", -1, 10**30, float("nan"), [], {}, True, (1, 2), b"bytes", {"a": [1]}),
        *(torch.zeros(3), torch.zeros(0), torch.tensor(float("inf")), torch.zeros(2, 2, dtype=torch.bool)),
        *(torch.eye(3).to_sparse(), torch.zeros(3, dtype=torch.complex64), torch.zeros(3, device="meta")),
    ]
    if rng.random() < 0.2:
        del place[key]
    else:
        place[key] = rng.choice(values)
    return changed
