"""Checkpoints and weights on disk: read as data only, written whole."""

import pickle
import warnings
import zipfile
from pathlib import Path

import torch

from utils.errors import UserError
from utils.files import written_whole

_DAMAGED = (
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
    KeyError,
    AttributeError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
)


def save(path: str | Path, content: dict) -> None:
    """Writes tensors and plain values; the file takes its name once it is whole."""
    with written_whole(path) as file:
        torch.save(content, file)


def read(path: str | Path, error_type: type[UserError]) -> object:
    """What a file of tensors and plain values holds, on the CPU.

    Raises ``error_type`` where the file is missing, damaged, or holds anything that would run code when read.
    """
    path = Path(path)
    if not path.is_file():
        raise error_type(f"{path}: there is no such file: expected one written by torch.save")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as hints about the pickle protocol of old files
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "class" in str(error).partition("WeightsUnpickler error:")[2]:
            raise error_type(
                f"{path}: holds more than tensors and could run code, so it was not read: expected a plain state dict"
            ) from error
        raise error_type(_unreadable(path)) from error
    except _DAMAGED as error:
        raise error_type(_unreadable(path)) from error


def _unreadable(path: Path) -> str:
    return f"{path}: is no weight file, or damaged or cut short: expected one written by torch.save; copy it again"
