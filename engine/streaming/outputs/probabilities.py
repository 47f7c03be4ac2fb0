"""``--save-probabilities``: the class probabilities of each frame."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from engine.options.option import Option
from engine.streaming.output import LabeledFrame, Output, StreamInfo, frame_file_name, register_output
from utils.files import own_folder, written_whole

FOLDER = "probabilities"


@register_output
class ProbabilityOutput(Output):
    """A NumPy file for each frame: class probabilities, float16 ``K h w`` at the working size."""

    name = "probabilities"
    position = 3
    options = (
        Option(
            "--save-probabilities",
            action="store_true",
            help="a NumPy file per frame: probabilities, float16 K x H x W at the working size, 21 MB at 512x1024",
        ),
    )
    leaves = (FOLDER,)
    needs_probabilities = True

    def __init__(self, folder: Path):
        self.folder = own_folder(folder / FOLDER)

    @classmethod
    def from_options(cls, values: Mapping[str, object], stream: StreamInfo) -> Self | None:
        return cls(stream.folder) if values["save_probabilities"] else None

    @classmethod
    def frame_files(cls, values: Mapping[str, object], name: str) -> tuple[str, ...]:
        return (f"{FOLDER}/{_file_name(name)}",)

    def write(self, frame: LabeledFrame) -> None:
        import numpy as np  # here, as options are parsed without NumPy

        assert frame.probabilities is not None  # as needs_probabilities is set
        content = io.BytesIO()
        np.save(content, frame.probabilities)
        with written_whole(self.folder / _file_name(frame.name)) as file:
            file.write(content.getbuffer())

    def abandon(self) -> str:
        return f"the files in {FOLDER} are whole"


def _file_name(frame: str) -> str:
    return f"{frame_file_name(frame)}_probabilities.npy"
