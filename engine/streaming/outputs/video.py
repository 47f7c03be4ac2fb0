"""``--save-video``: the label maps as a video."""

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from engine.options.option import Option
from engine.streaming.output import LabeledFrame, Output, StreamInfo, register_output
from utils.class_set import ClassSet
from utils.errors import OptionError
from utils.modules import check_importable

KINDS = ("overlay", "labels", "both")
ENDINGS = (".mp4", ".partial.mp4")


@register_output
class VideoOutput(Output):
    """An MP4 of frames with their labels overlaid, of labels alone, or of both side by side, above a legend."""

    name = "video"
    position = 1
    options = (
        Option(
            "--save-video",
            choices=KINDS,
            metavar="KIND",
            help="an MP4: overlay (labels over the frames), labels, or both side by side",
        ),
        Option("--alpha", type=float, default=0.5, metavar="A", help="overlay opacity, 0 to 1"),
    )
    leaves = tuple(f"{kind}{ending}" for kind in KINDS for ending in ENDINGS)

    def __init__(self, folder: Path, kind: str, alpha: float, fps: float, classes: ClassSet):
        from engine.streaming.video_writer import VideoWriter  # here, as options are parsed without PyAV

        self._writer = VideoWriter(folder, kind, alpha, fps, classes)
        self.path = self._writer.path

    @classmethod
    def from_options(cls, values: Mapping[str, object], stream: StreamInfo) -> Self | None:
        kind, alpha = values["save_video"], values["alpha"]
        assert isinstance(alpha, float)
        return cls(stream.folder, str(kind), alpha, stream.fps, stream.classes) if kind else None

    @classmethod
    def wanted_leaves(cls, values: Mapping[str, object]) -> tuple[str, ...]:
        kind = values["save_video"]
        return tuple(f"{kind}{ending}" for ending in ENDINGS) if kind else ()

    @classmethod
    def check_options(cls, values: Mapping[str, object]) -> None:
        alpha = values["alpha"]
        if not (isinstance(alpha, float) and 0 <= alpha <= 1):
            raise OptionError(f"--alpha is {alpha}: expected a share from 0 to 1, for example 0.5")
        if values["save_video"]:
            check_importable("av", "--save-video writes videos by PyAV", "pip install av, or use --save-labels")

    def write(self, frame: LabeledFrame) -> None:
        self._writer.write(frame)

    def close(self) -> None:
        self._writer.close()

    def abandon(self) -> str:
        return self._writer.abandon()
