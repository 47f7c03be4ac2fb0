"""``--save-labels``: the label map of each frame."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from engine.options.option import Option
from engine.streaming.output import LabeledFrame, Output, StreamInfo, frame_file_name, register_output
from utils.class_set import ClassSet
from utils.files import own_folder

CVAT = "cvat"  # written by an output of its own
KINDS = ("trainIds", "labelIds", CVAT)
FOLDER = "labels"
SAVE_LABELS = Option(
    "--save-labels",
    choices=KINDS,
    metavar="IDS",
    help="a PNG per frame: trainIds (class indices) or labelIds (ids of label files); cvat: colors in a ZIP that CVAT "
    'imports as "Segmentation mask 1.1"',
)


@register_output
class LabelOutput(Output):
    """A PNG for each frame: class indices in ``NAME_pred_labelTrainIds.png``, or ids of label files in
    ``NAME_pred_labelIds.png``, the names of the Cityscapes benchmark."""

    name = "labels"
    position = 2
    options = (SAVE_LABELS,)
    leaves = (FOLDER,)

    def __init__(self, folder: Path, kind: str, classes: ClassSet):
        self.folder = own_folder(folder / FOLDER)
        self._kind = kind
        self._ids = classes.to_file_index if kind == "trainIds" else classes.to_file_id

    @classmethod
    def from_options(cls, values: Mapping[str, object], stream: StreamInfo) -> Self | None:
        kind = values["save_labels"]
        return cls(stream.folder, str(kind), stream.classes) if kind and kind != CVAT else None

    @classmethod
    def wanted_leaves(cls, values: Mapping[str, object]) -> tuple[str, ...]:
        return cls.leaves if values["save_labels"] and values["save_labels"] != CVAT else ()

    @classmethod
    def frame_files(cls, values: Mapping[str, object], name: str) -> tuple[str, ...]:
        kind = str(values["save_labels"])
        return () if kind == CVAT else (f"{FOLDER}/{_file_name(name, kind)}",)

    def write(self, frame: LabeledFrame) -> None:
        import cv2  # here, as options are parsed without OpenCV

        from utils.png import write_png

        write_png(self.folder / _file_name(frame.name, self._kind), cv2.LUT(frame.labels, self._ids))

    def abandon(self) -> str:
        return f"the label maps in {FOLDER} are whole"


def _file_name(frame: str, kind: str) -> str:
    return f"{frame_file_name(frame)}_pred_{'labelTrainIds' if kind == 'trainIds' else 'labelIds'}.png"
