"""The files of a run in ``--savedir``, under their published names."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from engine.options.settings import Settings
from engine.streaming.output import registered_outputs
from models.weights.saved_options import options_in, with_options
from utils import tensor_files
from utils.files import remove_parts, writable_folder, write_text
from utils.json_text import to_json
from utils.lock import FolderLock
from utils.printable import shown

log = logging.getLogger(__name__)

MODEL_FILE = Path(__file__).resolve().parents[1] / "models" / "lmanet.py"
LOG_HEADER = "Epoch\t\tTrain-loss\t\tTest-loss\t\tTrain-IoU\t\tTest-IoU\t\tlearningRate"


@dataclass(frozen=True)
class EpochRow:
    """A row of ``automated_log.txt``: losses, mean IoUs in [0, 1] (0: not measured), learning rate of an epoch."""

    epoch: int
    train_loss: float
    val_loss: float
    train_iou: float
    val_iou: float
    learning_rate: float

    def __str__(self) -> str:
        losses_and_ious = (self.train_loss, self.val_loss, self.train_iou, self.val_iou)
        return "\t\t".join([str(self.epoch), *(f"{x:.4f}" for x in losses_and_ious), f"{self.learning_rate:.8f}"])


class RunFolder:
    """Names and writes the files of one run; with ``shallow`` names contain ``_encoder`` (``_enc``), as published."""

    def __init__(self, path: str | Path, shallow: bool):
        self.path = writable_folder(path, "--savedir")
        long, short = ("_encoder", "_enc") if shallow else ("", "")
        self.log_file = self.path / f"automated_log{long}.txt"
        self.best_file = self.path / f"best{long}.txt"
        self.model_text_file = self.path / f"model{long}.txt"
        self.checkpoint_file = self.path / f"checkpoint{short}.pth.tar"
        self.best_checkpoint_file = self.path / f"model_best{short}.pth.tar"
        self.best_weights_file = self.path / f"model_best{long}.pth"
        self._epoch_weights = f"model{long}-{{epoch:03d}}.pth"
        self.report_file = self.path / "report.json"
        self.page_file = self.path / "report.html"
        self.curves_file, self.iou_file = self.path / f"curves{long}.png", self.path / f"iou{long}.png"
        self.confusion_file = self.path / f"confusion{long}.png"
        self.images_folder = self.path / "images"
        self.predictions_folder = self.path / "predictions"
        self.dashboard_folder = self.path / "visdom"

    def renamed(self, shallow: bool) -> Self:
        """The same folder, with the names for a network with the shallow decoder or without."""
        return type(self)(self.path, shallow)

    @property
    def name(self) -> str:
        """Name of the run: the last folder of the path."""
        return os.path.basename(os.path.abspath(self.path)) or "run"

    @contextmanager
    def locked(self, timeout: float = 0.0) -> Iterator[None]:
        """Context in which no other run uses the folder. Raises ``OptionError`` where one still does after ``timeout``
        seconds."""
        with FolderLock(self.path, "--savedir", timeout) as lock:
            for folder in self._folders():
                remove_parts(folder, lock.is_exclusive)
            yield

    def _folders(self) -> list[Path]:
        """Those that a run writes to and that are there; a link's target belongs to somebody else."""
        leaves = [self.path / leaf for output in registered_outputs() for leaf in output.leaves]
        groups = self.predictions_folder.glob("*") if not self.predictions_folder.is_symlink() else ()
        own = [self.images_folder, self.predictions_folder, self.dashboard_folder, *leaves, *groups]
        return [self.path, *(folder for folder in own if folder.is_dir() and not folder.is_symlink())]

    def describe_run(self, settings: Settings, model_text: str) -> None:
        """Writes ``args.txt`` (the command, then every option), a copy of the model file and ``model.txt``."""
        lines = [
            f"command: {shown(settings.command)}",
            *(f"{key}: {shown(str(value))}" for key, value in sorted(settings.arguments.items())),
        ]
        write_text(self.path / "args.txt", "".join(f"{line}\n" for line in lines))
        write_text(self.path / MODEL_FILE.name, MODEL_FILE.read_text(encoding="utf-8"))
        write_text(self.model_text_file, model_text)

    def set_earlier_training_aside(self) -> None:
        """Moves the files of an earlier training into ``previous_N``, so that a new one never overwrites them.

        Only files of the names that a training writes are moved: all others are somebody else's.
        """
        if not self.has_checkpoint():
            return
        # Above all that are there: a number of one that was removed does not come again.
        taken = [name.removeprefix("previous_") for name in os.listdir(self.path) if name.startswith("previous_")]
        number = 1 + max((int(each) for each in taken if each.isascii() and each.isdecimal()), default=0)
        aside = self.path / f"previous_{number}"
        aside.mkdir()
        for file in self._training_files():
            target = aside / file.relative_to(self.path)
            target.parent.mkdir(exist_ok=True)
            file.rename(target)
        log.info("%s held another training: its files are now in %s", self.path, aside)

    def _training_files(self) -> list[Path]:
        """The files of a training that are there, its checkpoint last: so an interrupted move is made again."""
        named = [
            self.path / "args.txt",
            self.path / MODEL_FILE.name,
            self.model_text_file,
            self.log_file,
            self.best_file,
        ]
        named += [self.curves_file, self.iou_file, self.confusion_file, self.report_file, self.page_file]
        named += [self.best_checkpoint_file, self.best_weights_file]
        before, _, after = self._epoch_weights.partition("{epoch:03d}")
        of_epochs = re.compile(re.escape(before) + r"\d{3,}" + re.escape(after))
        named += [path for path in sorted(self.path.iterdir()) if of_epochs.fullmatch(path.name)]
        if self.dashboard_folder.is_dir() and not self.dashboard_folder.is_symlink():
            named += sorted(self.dashboard_folder.glob("*.json"))
        named += reversed(self.checkpoint_files())
        return [file for file in named if file.is_file() or file.is_symlink()]

    def write_log(self, rows: list[EpochRow]) -> None:
        """Writes ``automated_log.txt``."""
        write_text(self.log_file, "\n".join([LOG_HEADER, *(str(row) for row in rows)]) + "\n")

    def write_best(self, row: EpochRow) -> None:
        """Writes ``best.txt``, the number and validation IoU of the best epoch."""
        write_text(self.best_file, f"Best epoch is {row.epoch}, with Val-IoU= {row.val_iou:.4f}\n")

    def save_best(self, row: EpochRow, content: dict) -> None:
        """Writes the files of the best epoch so far: checkpoint, weights alone, number."""
        tensor_files.save(self.best_checkpoint_file, content)
        tensor_files.save(self.best_weights_file, _weights_alone(content))
        self.write_best(row)

    def save_checkpoint(self, content: dict) -> None:
        """Writes the checkpoint; the one before it is kept until the training has ended."""
        tensor_files.save(self.checkpoint_file, content, keep_previous=True)

    def remove_previous_checkpoint(self) -> None:
        """Removes the checkpoint before the last one, if there is one."""
        tensor_files.previous(self.checkpoint_file).unlink(missing_ok=True)

    def save_epoch_weights(self, epoch: int, content: dict) -> None:
        """Writes the weights of a checkpoint's content to ``model-EPOCH.pth``."""
        tensor_files.save(self.path / self._epoch_weights.format(epoch=epoch), _weights_alone(content))

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint, be it the one before the last."""
        return any(path.is_file() for path in self.checkpoint_files())

    def checkpoint_files(self) -> tuple[Path, Path]:
        """Paths of the last checkpoint and the one before it, whether they exist or not."""
        return self.checkpoint_file, tensor_files.previous(self.checkpoint_file)

    def write_report(self, report: dict) -> None:
        """Writes ``report.json``; what is not finite becomes ``null``."""
        write_text(self.report_file, to_json(report))


def _weights_alone(content: dict) -> dict[str, Tensor]:
    """The weights of a checkpoint under the published names, with the options of their network."""
    options = options_in(content, "the checkpoint")
    assert options is not None
    return with_options(content["state_dict"], options)
