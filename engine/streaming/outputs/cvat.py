"""``--save-labels cvat``: the label maps as drafts, to be imported and mended in CVAT."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from engine.streaming.output import LabeledFrame, Output, StreamInfo, register_output
from engine.streaming.outputs.labels import CVAT, SAVE_LABELS
from utils.class_set import IGNORED_COLOR, IGNORED_NAME, ClassSet, Color, default_colors
from utils.files import renamed

FILE, PARTIAL = "cvat.zip", "cvat.partial.zip"
BACKGROUND = "background"


@register_output
class CvatOutput(Output):
    """A ZIP in CVAT's format "Segmentation mask 1.1": the folders of PASCAL VOC, and a table of the colors.

    ``SegmentationClass/NAME.png`` is in the colors of the classes, at the frame's size.
    """

    name = "CVAT masks"
    position = 2
    options = (SAVE_LABELS,)
    leaves = (FILE, PARTIAL)

    def __init__(self, folder: Path, classes: ClassSet):
        self._path, self._part = folder / FILE, folder / PARTIAL
        self._part.unlink(missing_ok=True)
        self._zip = zipfile.ZipFile(self._part, "x")  # not compressed: PNGs are
        self._zip.writestr("labelmap.txt", label_map(classes))
        self._palette, self._names = palette(classes), list[str]()

    @classmethod
    def from_options(cls, values: Mapping[str, object], stream: StreamInfo) -> Self | None:
        return cls(stream.folder, stream.classes) if values["save_labels"] == CVAT else None

    @classmethod
    def wanted_leaves(cls, values: Mapping[str, object]) -> tuple[str, ...]:
        return cls.leaves if values["save_labels"] == CVAT else ()

    def write(self, frame: LabeledFrame) -> None:
        from utils.png import png_of_labels  # here, as options are parsed without OpenCV

        content = png_of_labels(frame.labels, self._palette)
        self._zip.writestr(f"SegmentationClass/{frame.name}.png", content)
        self._names.append(frame.name)

    def close(self) -> None:
        self._complete()
        renamed(self._part, self._path)

    def abandon(self) -> str:
        self._complete()
        return f"the frames until then are in {PARTIAL}"

    def _complete(self) -> None:
        names = "".join(f"{name}\n" for name in self._names)
        self._zip.writestr("ImageSets/Segmentation/default.txt", names)
        self._zip.close()


def palette(classes: ClassSet) -> tuple[Color, ...]:
    """Colors by index; that of what is ignored is black, the background, or another one where a class is black."""
    colors = (IGNORED_COLOR, *default_colors(len(classes.names) + 1))
    return (*classes.colors, next(color for color in colors if color not in classes.colors))


def label_map(classes: ClassSet) -> str:
    """The content of ``labelmap.txt``; in names, the colon that separates its columns becomes an underscore."""
    names = [name.replace(":", "_") for name in classes.names]
    background = BACKGROUND if BACKGROUND not in names else IGNORED_NAME
    rows = zip([background, *names], [palette(classes)[-1], *classes.colors], strict=True)
    lines = [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in rows]
    return "\n".join(["# label:color_rgb:parts:actions", *lines, ""])
