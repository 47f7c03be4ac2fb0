"""``--save-labels``: the label map of each frame."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from engine.options.option import Option
from engine.streaming.output import LabeledFrame, Output, StreamInfo, frame_file_name, register_output
from utils.class_set import ClassSet

KINDS = ("trainIds", "labelIds")
FOLDER = "labels"


@register_output
class LabelOutput(Output):
    """A PNG for each frame: class indices in ``NAME_pred_labelTrainIds.png``, or ids of label files in
    ``NAME_pred_labelIds.png``, the names of the Cityscapes benchmark."""

    name = "labels"
    position = 2
    options = (
        Option(
            "--save-labels",
            choices=KINDS,
            metavar="IDS",
            help="a PNG per frame: trainIds (class indices) or labelIds (ids of label files)",
        ),
    )
    leaves = (FOLDER,)

    def __init__(self, folder: Path, kind: str, classes: ClassSet):
        self.folder = folder / FOLDER
        self.folder.mkdir(exist_ok=True)
        self._kind = kind
        self._ids = classes.to_file_index if kind == "trainIds" else classes.to_file_id

    @classmethod
    def from_options(cls, values: Mapping[str, object], stream: StreamInfo) -> Self | None:
        kind = values["save_labels"]
        return cls(stream.folder, str(kind), stream.classes) if kind else None

    @classmethod
    def frame_files(cls, values: Mapping[str, object], name: str) -> tuple[str, ...]:
        return (f"{FOLDER}/{_file_name(name, str(values['save_labels']))}",)

    def write(self, frame: LabeledFrame) -> None:
        import cv2  # here, as options are parsed without OpenCV

        from utils.png import write_png

        write_png(self.folder / _file_name(frame.name, self._kind), cv2.LUT(frame.labels, self._ids))

    def abandon(self) -> str:
        return f"the label maps in {FOLDER} are whole"


def _file_name(frame: str, kind: str) -> str:
    return f"{frame_file_name(frame)}_pred_{'labelTrainIds' if kind == 'trainIds' else 'labelIds'}.png"
