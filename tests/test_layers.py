"""What a module may import and know.

Imports go one way: main -> engine -> models | datasets -> utils; lazy imports count too. Only data sets know their
number of classes and their names; the options are read without torch.
"""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "main": {"engine", "utils"},
    "engine": {"engine", "models", "datasets", "utils"},
    "models": {"models", "utils"},
    "datasets": {"datasets", "utils"},
    "utils": {"utils"},
}
# A string that names one of this project's modules, and not a file such as "main.py".
MODULE_NAME = re.compile(r"(engine|models|datasets|utils)(\.[a-z_]+)+(?<!\.py)")


def imported_names(path: Path) -> set[str]:
    """Every module that a file imports anywhere, also inside of functions and by ``import_module("...")``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
        elif isinstance(node, ast.ImportFrom):
            home = path.relative_to(PROJECT).with_suffix("").parts[: -node.level]
            names.add(".".join([*home, *([node.module] if node.module else [])]))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_NAME.fullmatch(node.value):
            names.add(node.value)
    return names


def own_files() -> list[Path]:
    folders = [PROJECT / name for name in MAY_IMPORT if name != "main"]
    return [PROJECT / "main.py", *(path for folder in folders for path in sorted(folder.rglob("*.py")))]


@pytest.mark.parametrize("path", own_files(), ids=lambda path: str(path.relative_to(PROJECT)))
def test_imports_go_one_way(path):
    layer = path.relative_to(PROJECT).parts[0].removesuffix(".py")
    imported = {name.split(".")[0] for name in imported_names(path)} & set(MAY_IMPORT)
    assert imported <= MAY_IMPORT[layer]


def test_the_rule_sees_lazy_imports(tmp_path):
    file = tmp_path / "lazy.py"
    file.write_text("def f():\n    from engine.build import loader_of\n    import_module('models.lmanet')\n")
    assert {"engine.build", "models.lmanet"} <= imported_names(file)


SOURCES = (".py", ".cpp", ".h", ".cu", ".j2", ".toml")
# Cityscapes has 19 classes, its networks 20 logits: what these numbers stand for elsewhere, by the line's text.
OTHER_MEANINGS = {
    "engine/experiments/plans/networks.toml": r"--val-clips 20 ",
    "engine/experiments/plans/headline.toml": r"--val-clips 20 ",
    "engine/experiments/plans/length.toml": r"--val-clips 20 ",
    "engine/benchmarks/attention.py": r"_MOST_SECONDS = 20\.0",
    "engine/benchmarks/paper.py": r'Card\("A100 SXM 80 GB", 19\.5,',  # TFLOP/s
    "engine/benchmarks/stream.py": r"\bROUNDS\b.* = 3, 20",
    "engine/dashboard/windows.py": r'"margin": ',  # pixels around a plot
    "engine/reports/plots.py": r"set_xticks\(range\(0, 101, 20\)\)",  # percent
    "engine/streaming/video_writer.py": r'"crf": "20"',  # quality of H.264
    "utils/scene_cuts.py": r"LEAST_DIFFERENCE = 20\.0",  # gray levels
    "models/inference/smoothing.py": r"UNLIKE = 20\.0",  # gray levels
    "utils/lock.py": r"up to 3\.20\b",  # a version of filelock
}
MEBIBYTES = r"<< 20\b|\*\* ?20\b"


def source_files(*folders: str) -> list[Path]:
    return [path for name in folders for path in sorted((PROJECT / name).rglob("*")) if path.suffix in SOURCES]


def test_only_data_sets_know_a_number_of_classes():
    for path in source_files("engine", "models", "utils"):
        name = str(path.relative_to(PROJECT))
        allowed = "|".join(filter(None, (MEBIBYTES, OTHER_MEANINGS.get(name))))
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            if re.search(r"\b(19|20)\b", line):
                assert re.search(allowed, line), f"{name}:{number}: {line.strip()}"


# A data set in Cityscapes' layout is written; its environment variable decides what an experiment reads.
MAY_NAME_CITYSCAPES = {"engine/pseudo_labels.py", "engine/experiments/runner.py"}


def names_in_code(path: Path) -> set[str]:
    """Identifiers and imported modules: neither comments nor texts."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    identifiers = {getattr(node, field, None) for node in nodes for field in ("id", "attr", "name", "arg", "asname")}
    return imported_names(path) | {name for name in identifiers if isinstance(name, str)}


def test_only_data_sets_are_named_cityscapes():
    for path in source_files("engine", "models", "utils"):
        if path.suffix == ".py" and str(path.relative_to(PROJECT)) not in MAY_NAME_CITYSCAPES:
            assert not [name for name in names_in_code(path) if "cityscapes" in name.lower()], path


def test_parsed_options_end_in_settings():
    """``argparse.Namespace`` stays where options are parsed and checked."""
    named = [path.relative_to(PROJECT) for path in source_files("engine", "models") if "Namespace" in path.read_text()]
    assert {path.parts[:2] for path in named} <= {("engine", "options"), ("engine", "modes")}


HEAVY = {"torch", "cv2", "av", "numpy"}
# What the command line is parsed with, and what plugins register with.
LIGHT = (
    "engine/options/*.py",
    "engine/streaming/output.py",
    "engine/streaming/outputs/*.py",
    "engine/evaluation/metric.py",
    "engine/evaluation/metrics/*.py",
    "engine/training/schedule.py",
    "datasets/registry.py",
    "datasets/cityscapes.py",
    "datasets/sets/*.py",
    "models/backbone.py",
    "models/backbones/*/__init__.py",
)


def heavy_after(code: str) -> tuple[set[str], float]:
    """Heavy modules that a fresh Python has imported after some code, and the seconds of CPU time that it took."""
    code += "\nimport time\nprint('\\n', *sys.modules, time.process_time())"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    *modules, seconds = result.stdout.splitlines()[-1].split()
    return HEAVY & set(modules), float(seconds)


@pytest.mark.parametrize("pattern", LIGHT)
def test_declarations_are_read_without_torch(pattern):
    files = [path.relative_to(PROJECT).with_suffix("") for path in sorted(PROJECT.glob(pattern))]
    assert files
    imports = "\n".join(f"import {'.'.join(file.parts).removesuffix('.__init__')}" for file in files)
    assert heavy_after(imports)[0] == set()


def test_help_is_answered_at_once():
    heavy, seconds = heavy_after(
        "from main import main\ntry:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0"
    )
    assert heavy == set()
    assert seconds < 1  # 0.2 on an idle machine; torch alone takes 2


def calls_without_formats(path: Path) -> list[int]:
    """Lines in which Pillow opens an image of any format, of which some start an interpreter."""
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    opening = [call for call in calls if ast.unparse(call.func) in ("Image.open", "PIL.Image.open")]
    return [call.lineno for call in opening if not any(word.arg == "formats" for word in call.keywords)]


def test_formats_are_named_wherever_an_image_is_opened():
    found = {str(path.relative_to(PROJECT)): calls_without_formats(path) for path in own_files()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_rule_of_formats_sees_any_call(tmp_path):
    (tmp_path / "a.py").write_text("Image.open(a)\nx = [PIL.Image.open(b).size]\nImage.open(c, formats=['PNG'])\n")
    assert calls_without_formats(tmp_path / "a.py") == [1, 2]


def test_videos_are_opened_in_one_place():
    """Elsewhere a name that looks like an address would be one; what is written is a file object."""
    reading = re.compile(r"\bav\.open\((?!self\._file,|str\(path\), \"w\")")
    found = [str(path.relative_to(PROJECT)) for path in own_files() if reading.search(path.read_text())]
    assert found == ["engine/streaming/sources/network.py", "utils/video_files.py"]
