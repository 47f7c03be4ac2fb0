"""Plugins that cannot be used: one line that names the file, the line in it and what to do, and status 2."""

import sys

import pytest

from engine.options.parser import parse_options
from models.backbone import backbone_card
from tests.plugins import registries_restored

DATASET = """
from datasets.registry import VideoDataset, register_dataset
from utils.class_set import ClassSet

class Letters(VideoDataset):
    name = "Letters"
    classes = ClassSet(("a", "b"), ((0, 0, 0), (255, 255, 255)))

    def videos(self, root, split):
        return []

register_dataset(Letters())
"""
BACKBONE = """
from models import BackboneTraits, register_backbone

register_backbone("letters", BackboneTraits(features=32, stride=4, work_size=(64, 128)), object)
"""
METRIC = """
from engine.evaluation.metric import Metric, register_metric

class Guess(Metric):
    name, title = "guess", "guess"

    def value(self, confusion, counts):
        return 0.5

register_metric(Guess())
"""
OUTPUT = """
from engine.options.option import Option
from engine.streaming.output import Output, register_output

class Nothing(Output):
    name, options, leaves = "nothing", (Option("--save-nothing", action="store_true"),), ()

    @classmethod
    def from_options(cls, values, stream):
        return None

    def write(self, frame):
        pass

register_output(Nothing)
"""
SCHEDULE = """
from engine.training.schedule import register_schedule

register_schedule("steady", lambda optimizer, num_epochs: None)
"""


@pytest.fixture(autouse=True)
def restored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with registries_restored():
        yield


@pytest.fixture
def plugin(tmp_path):
    """Writes a plugin and returns the options that name it."""

    def options(content: str, name: str = "mine.py") -> list[str]:
        (tmp_path / name).write_text(content)
        return ["--plugin", name]

    return options


def error_of(capsys, *options: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        parse_options([*options, "--training", "--weights", "none", "--savedir", "save"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("main.py: error: ")
    return error


def test_a_plugin_that_is_missing(capsys):
    expected = "--plugin mine.py: there is no such Python file: expected one such as my_network.py"
    assert expected in error_of(capsys, "--plugin", "mine.py")


def test_a_plugin_that_is_a_folder(tmp_path, capsys):
    (tmp_path / "mine.py").mkdir()
    assert "--plugin mine.py: there is no such Python file" in error_of(capsys, "--plugin", "mine.py")


def test_a_plugin_that_is_no_python_file(plugin, capsys):
    assert "--plugin mine.txt: there is no such Python file" in error_of(capsys, *plugin(SCHEDULE, "mine.txt"))


def test_a_plugin_without_its_file(capsys):
    assert "argument --plugin: expected one argument" in error_of(capsys, "--plugin")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import math\n\nmath.sqrt(-1)\n", "line 3: ValueError: math domain error"),
        # The line of the plugin, wherever below it the error came up.
        ("import json\njson.loads('')\n", "line 2: JSONDecodeError: Expecting value"),
        ("raise RuntimeError('one\\ntwo')\n", "line 1: RuntimeError: one two"),
        ("import nothing_of_that_name\n", "line 1: ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        (
            "from models.mine import Network\n",
            "line 1: ModuleNotFoundError: No module named 'models.mine'; the package models is this program's: "
            "expected another name for yours, such as my_models",
        ),
        ("import sys\nsys.exit('bye')\n", "line 2: SystemExit: bye"),
        ("a = 1\nif a\n    a = 2\n", "line 2: SyntaxError: expected ':'"),
        ("if True:\na = 2\n", "line 2: IndentationError: expected an indented block"),
    ],
)
def test_a_plugin_that_fails(plugin, capsys, content, message):
    assert f"--plugin mine.py: {message}" in error_of(capsys, *plugin(content))


def test_a_plugin_that_is_not_text(tmp_path, capsys):
    (tmp_path / "mine.py").write_bytes(b"\x00\xff")
    assert "--plugin mine.py: " in error_of(capsys, "--plugin", "mine.py")


def test_a_plugin_that_registers_nothing(plugin, capsys):
    expected = "--plugin mine.py: registers nothing: expected a call of register_dataset, register_backbone, "
    assert expected in error_of(capsys, *plugin("a = 1\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DATASET, "line 24: a data set named 'Letters' is registered already: expected another name"),
        (BACKBONE, "line 8: ValueError: a backbone named 'letters' is there already: expected another name"),
        (METRIC, "line 20: a metric named 'guess' is registered already: expected another name"),
        (OUTPUT, "line 30: an output named 'nothing' is registered already: expected another name"),
        (SCHEDULE, "line 8: a schedule named 'steady' is registered already: expected another name"),
    ],
    ids=["data set", "backbone", "metric", "output", "schedule"],
)
def test_a_name_that_is_registered_twice(plugin, capsys, content, message):
    assert f"--plugin mine.py: {message}" in error_of(capsys, *plugin(content * 2))


@pytest.mark.parametrize(
    ("content", "own", "shipped"),
    [
        (DATASET, "Letters", "Synthetic"),
        (BACKBONE, "letters", "erf"),
        (METRIC, "guess", "mean_iou"),
        (OUTPUT, "nothing", "labels"),
        (SCHEDULE, "steady", "pow_09"),
    ],
)
def test_a_name_of_the_project(plugin, capsys, content, own, shipped):
    assert f" named {shipped!r} is " in error_of(capsys, *plugin(content.replace(f'"{own}"', f'"{shipped}"')))


def test_two_plugins_of_one_name(plugin, tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    words = plugin(SCHEDULE) + plugin(SCHEDULE.replace("steady", "other"), "folder/mine.py")
    assert "--plugin folder/mine.py: another plugin is called mine.py: rename one of them" in error_of(capsys, *words)


def test_a_plugin_that_is_named_twice_runs_once(plugin):
    words = [*plugin(SCHEDULE) * 2, "--training", "--weights", "none", "--savedir", "save"]
    assert parse_options([*words, "--lr-strategy", "steady"]).train.lr_strategy == "steady"


@pytest.mark.parametrize(
    ("content", "line", "instead", "message"),
    [
        (DATASET, 'name = "Letters"', "pass", "has no name: expected it in its class"),
        (DATASET, "classes = ClassSet(", "pass  # (", "line 12: data set 'Letters' has no classes: expected it in its"),
        (METRIC, 'name, title = "guess", "guess"', 'name = "guess"', "metric 'guess' has no title: expected it in its"),
        (OUTPUT, ', leaves = "nothing"', ' = "nothing"', "output 'nothing' has no leaves: expected it in its class"),
        (DATASET, "def videos", "def clips", "line 12: TypeError: Can't instantiate abstract class Letters"),
    ],
)
def test_what_must_be_declared(plugin, capsys, content, line, instead, message):
    content = content.replace('action="store_true"),), ()', 'action="store_true"),)') if "leaves" in line else content
    assert message in error_of(capsys, *plugin(content.replace(line, instead)))


@pytest.mark.parametrize(
    ("content", "call", "message"),
    [
        (DATASET, "register_dataset(Letters)", "is no data set: expected an instance of a subclass of VideoDataset"),
        (METRIC, "register_metric(Guess)", "is no metric: expected an instance of a subclass of Metric"),
        (OUTPUT, "register_output(Nothing())", "is no output: expected a subclass of Output, not an instance"),
    ],
)
def test_a_class_and_an_instance_are_not_mixed_up(plugin, capsys, content, call, message):
    changed = content.rpartition("register_")[0] + call + "\n"
    assert message in error_of(capsys, *plugin(changed))


@pytest.mark.parametrize("flag", ["--batch-size", "--loss", "--help"])
def test_an_output_with_an_option_that_is_taken(plugin, capsys, flag):
    expected = f"an output declares the option {flag}, which main.py has already: expected another name"
    assert expected in error_of(capsys, *plugin(OUTPUT.replace("--save-nothing", flag)))


def test_an_option_that_several_outputs_declare_is_theirs_in_common(plugin):
    words = [*plugin(OUTPUT.replace("--save-nothing", "--alpha")), "--stream", "none.mp4", "--weights", "mine.py"]
    assert parse_options([*words, "--alpha", "0.25", "--savedir", "save"]).stream.outputs["alpha"] == 0.25


def test_an_option_without_dashes(plugin, capsys):
    content = OUTPUT.replace("--save-nothing", "nothing")
    assert "an option is called 'nothing': expected a name such as '--save-nothing'" in error_of(
        capsys, *plugin(content)
    )


def test_a_plugin_imports_the_files_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "network_of_mine.py").write_text("CHANNELS = 48\n")
    (tmp_path / "there" / "mine.py").write_text(
        "from network_of_mine import CHANNELS\n" + BACKBONE.replace("features=32", "features=CHANNELS")
    )
    parse_options(["--training", "--weights", "none", "--savedir", "save", "--plugin", "there/mine.py"])
    assert backbone_card("letters").traits.features == 48
    assert sys.path[-1] == str(tmp_path / "there")  # the program's own modules come first
    del sys.modules["network_of_mine"]


ONE_SIZE = """
from models import BackboneTraits, register_backbone

register_backbone("square", BackboneTraits(features=32, stride=4, work_size=(96, 96), one_size=True), object)
register_backbone("patches", BackboneTraits(features=32, stride=14, work_size=(140, 280), side_multiple=14), object)
"""


def test_the_size_of_frames_that_a_data_set_asks_for_is_one_that_the_backbone_takes(plugin, capsys):
    options = [*plugin(ONE_SIZE), "--training", "--weights", "none", "--savedir", "save", "--dataset", "Synthetic"]
    for backbone, size in (("square", (96, 96)), ("patches", (140, 266)), ("erf", (128, 256))):
        assert parse_options([*options, "--backbone", backbone]).data.work_size == size
    with pytest.raises(SystemExit):
        parse_options([*options, "--backbone", "square", "--work-size", "128x256"])
    assert "--work-size 128x256 does not fit --backbone square: try 96x96 (all" in capsys.readouterr().err
