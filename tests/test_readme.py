"""What the documents say is so: their commands are understood, their files exist, their Python examples run."""

import importlib.util
import os
import re
import shlex
from pathlib import Path

import pytest
import torch

from datasets.cityscapes import CITYSCAPES_CLASSES
from datasets.registry import dataset_named
from engine.options.parser import parse_options
from models import build_lmanet
from models.inference import openvino
from tests.engine.videos import moving_blocks, write_video
from tests.networks import LMANetConfig
from tests.plugins import registries_restored
from utils.modules import left_out

PROJECT = Path(__file__).resolve().parents[1]
README = (PROJECT / "README.md").read_text()
DOCUMENTS = {
    name: (PROJECT / name).read_text()
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/usage.md",
        "docs/data.md",
        "docs/architecture.md",
        "trained_models/README.md",
    )
}
# Those of the recipes are carried out by tests/test_recipes.py.
COMMANDS = [
    (name, command)
    for name, text in DOCUMENTS.items()
    if name != "CONTRIBUTING.md"
    for command in re.findall(r"^    python main\.py (.+)$", text, re.MULTILINE)
]
EXAMPLES = [
    (name, code)
    for name, text in DOCUMENTS.items()
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]


YAML_FILES = dict(
    re.findall(r"^```yaml\n# (\S+\.yaml)\n(.*?)^```$", DOCUMENTS["docs/data.md"], re.MULTILINE | re.DOTALL)
)


@pytest.fixture
def project_copy(tmp_path, monkeypatch):
    """A working folder as a fresh clone has it, with a video."""
    os.symlink(PROJECT / "trained_models", tmp_path / "trained_models")
    write_video(tmp_path / "drive.mp4", moving_blocks(2))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_openvino_model(folder):
    """step.xml and step.bin of a small network, as --export-openvino writes them."""
    model = build_lmanet(LMANetConfig(corr_size=5, memory_size=2), CITYSCAPES_CLASSES)
    step, weights = openvino.export_stateful_step(model.eval(), (32, 64), "1.2.3")
    (folder / "step.xml").write_bytes(step)
    (folder / "step.bin").write_bytes(weights)


@pytest.mark.parametrize(("document", "command"), COMMANDS)
def test_commands_are_understood(document, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command)
    for file, content in YAML_FILES.items():
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).write_text(content)
    for option, needed in (("--weights", ""), ("--baseline-path", "report.json")):
        if option in words and words[words.index(option) + 1] != "none":
            path = Path(words[words.index(option) + 1]) / needed
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    assert parse_options(words).savedir


def test_the_published_commands_are_there():
    assert len([command for name, command in COMMANDS if name == "README.md"]) >= 6


@pytest.mark.parametrize(("document", "code"), EXAMPLES)
def test_python_examples_run(document, code, project_copy, capsys):
    torch.manual_seed(0)
    if "openvino" in code:
        if any(importlib.util.find_spec(name) is None for name in openvino.PACKAGES):
            pytest.skip("OpenVINO is not installed")
        write_openvino_model(project_copy)
    with registries_restored(), left_out("openvino_telemetry"):  # which would report the import over the network
        exec(compile(code, document, "exec"), {"__name__": "example"})
    assert "road: " in capsys.readouterr().out if "drive.mp4" in code else True


def test_the_example_of_a_data_set_finds_its_clips(tmp_path):
    code = next(code for name, code in EXAMPLES if name == "README.md" and "VideoDataset" in code)
    for video, last in (("meadow", 4), ("hill", 5)):
        (tmp_path / "train" / video).mkdir(parents=True)
        for frame in range(last + 1):
            (tmp_path / "train" / video / f"{frame:03d}.jpg").touch()
        (tmp_path / "train" / video / f"{last:03d}.png").touch()
    with registries_restored():
        exec(compile(code, "README.md", "exec"), {"__name__": "example"})
        clips = dataset_named("Animals").clips(tmp_path, "train", window=3)
    assert [(clip.name, [frame.name for frame in clip.frames], clip.label.name) for clip in clips] == [
        ("hill_005", ["003.jpg", "004.jpg", "005.jpg"], "005.png"),
        ("meadow_004", ["002.jpg", "003.jpg", "004.jpg"], "004.png"),
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_linked_files_exist(document):
    folder = (PROJECT / document).parent
    for target in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", DOCUMENTS[document]):
        assert (folder / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_linked_sections_exist(document):
    for target, section in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", DOCUMENTS[document]):
        text = ((PROJECT / document).parent / target).read_text() if target else DOCUMENTS[document]
        titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        assert section in [re.sub(r"[^a-z0-9 _-]", "", title.lower()).replace(" ", "-") for title in titles], section


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_of_the_project_that_are_named_exist(document):
    files = re.findall(r"`((?:engine|models|datasets|utils|tests|docs|images)/[\w/.]*)`", DOCUMENTS[document])
    assert [file for file in files if not (PROJECT / file).exists()] == []


def test_the_tour_counts_the_files_that_it_names():
    tour = DOCUMENTS["docs/architecture.md"]
    for way, count in (("training clip", 22), ("stream's frame", 21)):
        section = tour.partition(f"## The way of a {way}\n")[2].partition("\n## ")[0]
        assert f"**{count} files**" in section
        assert re.findall(r"^(\d+)\. `", section, re.MULTILINE) == [str(number + 1) for number in range(count)]


def test_the_readme_is_read_in_one_go():
    assert README.count("\n") <= 200
