"""``--plugin FILE.py``: a user's file that registers data sets, backbones, metrics, outputs or schedules.

Only this option runs a user's code: no other option, and no weight file, does.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from datasets.registry import dataset_names
from engine.evaluation.metric import registered_metrics
from engine.streaming.output import registered_outputs
from engine.training.schedule import schedule_names
from models.backbone import backbone_names
from utils.errors import OptionError, UserError
from utils.modules import load_file

PACKAGES = ("datasets", "engine", "models", "utils")
_loaded: set[Path] = set()


def load_plugins(files: Sequence[str]) -> None:
    """Runs each file once. Raises ``OptionError`` where one is missing, fails, or registers nothing."""
    for file in files:
        path = Path(file).resolve()
        if path not in _loaded:
            _load(file, path)
            _loaded.add(path)


def _load(file: str, path: Path) -> None:
    if not path.is_file() or path.suffix != ".py":
        raise OptionError(f"--plugin {file}: there is no such Python file: expected one such as my_network.py")
    before = _registered()
    name = f"plugin_{path.stem}"
    if name in sys.modules:
        raise OptionError(f"--plugin {file}: another plugin is called {path.name}: rename one of them")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # a plugin imports the files beside it, behind all that is installed
    try:
        load_file(path, name)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        reason = " ".join(str(error).split())
        raise OptionError(f"--plugin {file}: {_place(error, path)}{kind}{reason}{_taken(error)}") from error
    if _registered() == before:
        raise OptionError(
            f"--plugin {file}: registers nothing: expected a call of register_dataset, register_backbone, "
            "register_network, register_metric, register_output or register_schedule"
        )


def _registered() -> tuple[object, ...]:
    return dataset_names(), backbone_names(), tuple(registered_metrics()), tuple(registered_outputs()), schedule_names()


def _taken(error: BaseException) -> str:
    """What to do where a module was looked for in a package of this program; empty for other errors."""
    package = (getattr(error, "name", None) or "").partition(".")[0] if isinstance(error, ImportError) else ""
    if package not in PACKAGES:
        return ""
    return f"; the package {package} is this program's: expected another name for yours, such as my_{package}"


def _place(error: BaseException, path: Path) -> str:
    """The line of the file that raised an error, as text; empty where none did."""
    lines, trace = [], error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        lines.append(error.lineno)
    return f"line {lines[-1]}: " if lines else ""
