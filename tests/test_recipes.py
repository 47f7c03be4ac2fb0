"""The five recipes of CONTRIBUTING.md: their files and commands, as they stand there, do what it says."""

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.registry import dataset_named
from engine.evaluation.confusion_matrix import ConfusionMatrix
from engine.evaluation.metric import registered_metrics
from engine.options.plugins import load_plugins
from main import main
from tests.plugins import registries_restored

PROJECT = Path(__file__).resolve().parents[1]
RECIPES = (PROJECT / "CONTRIBUTING.md").read_text().partition("## House rules")[0]
FILES = dict(re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", RECIPES, re.MULTILINE | re.DOTALL))
COMMANDS = [shlex.split(line) for line in re.findall(r"^    python main\.py (.+)$", RECIPES, re.MULTILINE)]
NAMES = ["ground", "circle", "square", "triangle", "star"]
FRAMES, HEIGHT, WIDTH = 5, 64, 128
RATE = 1e-3
WORK_SIZE = [32, 64]
SHARED = ("--device", "cpu", "--num-workers", "0")
SHORT = ("--work-size", "32x64", "--corr-size", "3", "--batch-size", "2", "--num-epochs", "1")


def command(*words: str) -> list[str]:
    """The shortest command of the recipes that has these words, made quick for a test."""
    chosen = min((command for command in COMMANDS if set(words) <= set(command)), key=len)
    return [*chosen, *SHARED, *(SHORT if "--training" in chosen else ())]


def write_shapes(root: Path) -> None:
    """Three videos of colored blocks that move by two pixels a frame, the last frame labeled; the top row is not."""
    rs = np.random.RandomState(0)
    for video in range(3):
        scene = rs.randint(0, len(NAMES), (HEIGHT // 16, WIDTH // 16 + 1)).repeat(16, 0).repeat(16, 1)
        frames, labels = (root / kind / f"video_{video}" for kind in ("frames", "labels"))
        frames.mkdir(parents=True)
        labels.mkdir(parents=True)
        for t in range(FRAMES):
            shown = scene[:, 2 * t : 2 * t + WIDTH].astype(np.uint8)
            noise = rs.randint(-10, 11, (HEIGHT, WIDTH, 3))
            colors = np.array([(90, 90, 90), (220, 60, 60), (60, 160, 60), (60, 90, 220), (230, 200, 40)])
            Image.fromarray((colors[shown] + noise).clip(0, 255).astype(np.uint8)).save(frames / f"{t:03d}.png")
        shown[0] = 255
        Image.fromarray(shown).save(labels / f"{FRAMES - 1:03d}.png")


@pytest.fixture(scope="module", autouse=True)
def recipes(tmp_path_factory):
    """A working folder with the files of all recipes and the data of the first one, whose network is trained."""
    folder = tmp_path_factory.mktemp("recipes")
    threads = torch.get_num_threads()
    with registries_restored(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.set_num_threads(1)
        for name, content in FILES.items():
            (folder / name).write_text(f"# {name}\n{content}")
        write_shapes(folder / "data" / "shapes")
        assert main(command("--training", "save/shapes")) == 0
        yield folder
    torch.set_num_threads(threads)


def report_of(folder: str) -> dict:
    return json.loads((Path(folder) / "report.json").read_text())


def assert_labels_every_frame(folder: str) -> None:
    labels = sorted((Path(folder) / "labels").glob("*_pred_labelTrainIds.png"))
    assert len(labels) == FRAMES
    assert all(set(np.unique(np.asarray(Image.open(path)))) <= {0, 1, 2, 3, 4, 255} for path in labels)


def test_each_recipe_is_one_file():
    assert list(FILES) == ["shapes.py", "toy.py", "weighted_iou.py", "class_shares.py", "cosine.py"]
    assert len(COMMANDS) == 9


def test_a_data_set_with_five_classes(capsys):
    for name in ("checkpoint.pth.tar", "model_best.pth.tar"):
        saved = torch.load(f"save/shapes/{name}", weights_only=True)
        assert saved["classes"]["names"] == NAMES
        assert saved["network"]["num_classes"] == 6
    weights = torch.load("save/shapes/model_best.pth", weights_only=True)
    assert weights.lmanet["classes"]["names"] == NAMES
    assert weights["module.decoder.output_conv.weight"].shape[1] == 6
    assert "plugin: ['shapes.py']\n" in Path("save/shapes/args.txt").read_text()

    assert main(command("--eval-mode", "save/shapes_eval")) == 0
    assert list(report_of("save/shapes_eval")["iou"]) == NAMES
    assert report_of("save/shapes_eval")["work_size"] == WORK_SIZE  # the file's
    table = capsys.readouterr().out
    assert [line.split()[0] for line in table.splitlines()[1:6]] == NAMES
    page = Path("save/shapes_eval/report.html").read_text()
    assert all(name in page for name in NAMES) and "bicycle" not in page


def test_its_stream_needs_no_plugin(capsys):
    words = command("--stream", "save/shapes_stream")
    assert "--plugin" not in words
    assert main(words) == 0
    assert_labels_every_frame("save/shapes_stream")
    assert (Path("save/shapes_stream") / "overlay.mp4").stat().st_size > 0
    shares = json.loads(Path("save/shapes_stream/stream.json").read_text())["class_shares"]
    assert set(shares) <= {*NAMES, "ignored"}
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)


def test_a_backbone():
    assert main(command("--training", "--backbone", "toy")) == 0
    weights = torch.load("save/shapes_toy/model_best.pth", weights_only=True)
    assert weights.lmanet["network"]["backbone"] == "toy"
    assert weights.lmanet["classes"]["names"] == NAMES
    assert weights["module.decoder.head.weight"].shape == (6, 32, 3, 3)
    assert "plugin: ['toy.py', 'shapes.py']\n" in Path("save/shapes_toy/args.txt").read_text()

    evaluation, stream = command("--eval-mode", "toy.py"), command("--stream", "toy.py")
    assert "--backbone" not in evaluation + stream
    assert main(evaluation) == 0
    assert list(report_of("save/shapes_toy_eval")["iou"]) == NAMES
    assert main(stream) == 0
    assert_labels_every_frame("save/shapes_toy_stream")


def test_a_metric(capsys):
    assert main(command("--eval-mode", "weighted_iou.py")) == 0
    value = report_of("save/shapes_weighted")["frequency_weighted_iou"]
    assert 0 <= value <= 1
    assert f"frequency-weighted IoU {100 * value:.2f} %" in capsys.readouterr().out
    assert "frequency-weighted IoU" in Path("save/shapes_weighted/report.html").read_text()

    (metric,) = (each for each in registered_metrics() if each.name == "frequency_weighted_iou")
    confusion = ConfusionMatrix(num_classes=4)
    # Of four pixels of the first class three are right, of two of the second both; the third does not occur.
    confusion.counts[0, 0], confusion.counts[0, 1], confusion.counts[1, 1] = 3, 1, 2
    assert metric.value(confusion, None) == pytest.approx(4 / 6 * 3 / 4 + 2 / 6 * 2 / 3)


def test_an_output():
    assert main(command("--stream", "--save-class-shares")) == 0
    folder = Path("save/shapes_shares")
    with (folder / "class_shares.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["frame", "seconds", *NAMES, "ignored"]
    assert [row[0] for row in rows[1:]] == [f"{t:03d}" for t in range(FRAMES)]
    assert all(sum(map(float, row[2:])) == pytest.approx(1, abs=3e-4) for row in rows[1:])
    assert not (folder / "class_shares.partial.csv").exists()
    assert "plugin: ['class_shares.py']\n" in (folder / "args.txt").read_text()
    # What the output declares counts like what the project ships: it is refused to be overwritten, and replaced.
    assert main(command("--stream", "--save-class-shares")) == 2
    assert main([*command("--stream", "--save-class-shares"), "--overwrite"]) == 0


def test_a_schedule():
    assert main([*command("--training", "cosine"), "--num-epochs", "3"]) == 0
    log = [line.split() for line in Path("save/shapes_cosine/automated_log.txt").read_text().splitlines()[1:]]
    # (1 + cos(pi * epoch / 3)) / 2 is 1, 3/4 and 1/4 in the three epochs.
    assert [float(row[-1]) for row in log] == pytest.approx([RATE, RATE * 3 / 4, RATE / 4], abs=1e-8)
    assert "lr_strategy: cosine\n" in Path("save/shapes_cosine/args.txt").read_text()


def test_a_folder_of_another_form_is_told(tmp_path, capsys):
    load_plugins(["shapes.py"])
    assert dataset_named("Shapes").classes.ignored == 5
    words = command("--eval-mode", "save/shapes_eval")
    assert main([*words, "--data-root", str(tmp_path)]) == 2
    assert "has 0 videos: expected two or more folders in frames/" in capsys.readouterr().err
