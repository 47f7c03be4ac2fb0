"""What an earlier stream left in the folder: refused, or removed where that was asked for."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from engine.streaming.output import registered_outputs
from utils.errors import OptionError

SUMMARY, PLOT = "stream.json", "stream.png"


def refuse_previous(folder: Path, overwrite: bool) -> None:
    """Raises ``OptionError`` where an earlier stream left something in the folder and not ``overwrite``."""
    found = _left_by_a_stream(folder)
    if found and not overwrite:
        raise OptionError(
            f"--savedir {folder} holds an earlier stream ({found[0].name}): give another folder, or --overwrite"
        )


def clear_previous(folder: Path, sources: Sequence[str]) -> None:
    """Removes what an earlier stream left. Raises ``OptionError`` where one of the sources would go with it."""
    found = _left_by_a_stream(folder)
    for source in sources:
        if any(Path(source).resolve().is_relative_to(path.resolve()) for path in found):
            raise OptionError(f"--overwrite would remove what is to be read, {source}: give another --savedir")
    for path in found:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _left_by_a_stream(folder: Path) -> list[Path]:
    names = [SUMMARY, PLOT, *(name for output in registered_outputs() for name in output.leaves)]
    return [folder / name for name in dict.fromkeys(names) if (folder / name).exists()]
