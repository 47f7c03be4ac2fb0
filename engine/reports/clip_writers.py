"""Writes pictures and predictions of the clips of an evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from datasets.clip_dataset import ClipDataset
from datasets.clips import Clip
from datasets.images import image_size
from engine.evaluation.evaluate import OnClip
from engine.options.settings import ReportSettings
from engine.run_folder import RunFolder
from utils.class_set import ClassSet
from utils.files import own_folder
from utils.png import write_png
from utils.resize import resize_labels
from utils.sizes import height_width
from utils.visualize import ERROR_LEGEND, colorized, error_map, legend, overlay, stacked

LEGEND_WIDTH = 640


def clip_writer(settings: ReportSettings, folder: RunFolder, clips: ClipDataset) -> OnClip | None:
    """The callback that writes the files of each clip; ``None`` where the settings ask for none."""
    classes = clips.dataset.classes
    return all_of(
        PictureWriter(folder.images_folder, clips.clips, classes) if settings.save_images else None,
        PredictionWriter(folder.predictions_folder, clips.clips, classes) if settings.save_predictions else None,
    )


class PictureWriter:
    """Writes frame, label, prediction, overlay and error map of each clip to ``FOLDER/NAME_*.png``, with a legend."""

    def __init__(self, folder: Path, clips: Sequence[Clip], classes: ClassSet):
        own_folder(folder)
        write_png(folder / "legend.png", class_legend(classes, LEGEND_WIDTH))
        self.folder, self.clips, self.classes = folder, clips, classes

    def __call__(self, number: int, frame: Tensor, prediction: Tensor, label: Tensor) -> None:
        size = height_width(frame.shape)
        image = frame.permute(1, 2, 0).numpy()
        predicted, labeled = (resize_labels(labels, size).numpy() for labels in (prediction, label))
        pictures = {
            "frame": image,
            "label": colorized(labeled, self.classes.palette),
            "prediction": colorized(predicted, self.classes.palette),
            "overlay": overlay(image, predicted, self.classes.palette),
            "errors": error_map(image, predicted, labeled, self.classes.ignored),
        }
        for kind, picture in pictures.items():
            write_png(self.folder / f"{self.clips[number].name}_{kind}.png", picture)


class PredictionWriter:
    """Writes predictions as ids of label files, at the labels' own size, to ``FOLDER/GROUP/NAME_pred_labelIds.png``."""

    def __init__(self, folder: Path, clips: Sequence[Clip], classes: ClassSet):
        self.folder, self.clips, self.classes = folder, clips, classes

    def __call__(self, number: int, frame: Tensor, prediction: Tensor, label: Tensor) -> None:
        clip = self.clips[number]
        folder = self.folder / clip.group
        own_folder(folder)
        predicted = resize_labels(prediction, image_size(clip.label)).numpy()
        write_png(folder / f"{clip.name}_pred_labelIds.png", self.classes.to_file_id[predicted])


def all_of(*writers: OnClip | None) -> OnClip | None:
    """One callback that calls all of the given ones; ``None`` where all are ``None``."""
    present = [writer for writer in writers if writer is not None]

    def call_each(number: int, frame: Tensor, prediction: Tensor, label: Tensor) -> None:
        for writer in present:
            writer(number, frame, prediction, label)

    return call_each if present else None


def class_legend(classes: ClassSet, width: int) -> np.ndarray:
    """A legend of the colors of label maps and error maps, RGB uint8 ``H W 3`` of that width."""
    labels = [*classes.names, "without a label"]
    errors, error_colors = [f"errors: {name}" for name, _ in ERROR_LEGEND], [color for _, color in ERROR_LEGEND]
    return stacked([legend(labels, classes.palette, width), legend(errors, error_colors, width)])
