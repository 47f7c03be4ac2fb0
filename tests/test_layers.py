"""Imports go one way: main -> engine -> models | datasets -> utils; lazy imports count too."""

import ast
import re
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
