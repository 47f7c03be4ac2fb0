"""Files of an earlier stream in ``--savedir``: refused, or removed with ``--overwrite``."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from engine.streaming.output import registered_outputs
from utils.errors import OptionError

SUMMARY, PLOT = "stream.json", "stream.png"


def refuse_previous(folder: Path, overwrite: bool) -> None:
    """Raises ``OptionError`` where the folder holds files of an earlier stream, unless ``overwrite``."""
    found = _left_by_a_stream(folder)
    if found and not overwrite:
        raise OptionError(
            f"--savedir {folder} holds an earlier stream ({found[0].name}): give another folder, or --overwrite"
        )


def clear_previous(folder: Path, sources: Sequence[str]) -> None:
    """Removes the files of an earlier stream. Raises ``OptionError`` where one of the sources is among them."""
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
