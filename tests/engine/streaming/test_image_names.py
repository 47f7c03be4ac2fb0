"""Names of frames in image files: each has its own, whatever their folders, endings and letters are."""

from pathlib import Path

import pytest

from engine.streaming.previous import StreamFiles
from engine.streaming.sources import open_source
from tests.engine.streaming.test_previous import LABELS
from tests.engine.videos import moving_blocks, write_folder
from tests.litter import litter


def folder_of(root: Path, *names: str) -> Path:
    """Images of these names; two that differ only in case would be one on some disks, where this test says nothing."""
    frame = write_folder(root / "one", moving_blocks(1)) / "frame_0.png"
    for name in names:
        (root / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "in" / name).write_bytes(frame.read_bytes())
    return root / "in"


@pytest.mark.parametrize(
    "files",
    [
        ("a.png", "a_leftImg8bit.png"),
        ("a.png", "a.jpg"),
        ("A.png", "a.png", "b.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),  # one character, and an e with an accent behind it
        ("Straße.png", "STRASSE.png"),
    ],
)
def test_frames_that_are_called_alike_are_numbered(tmp_path, files):
    source = open_source(str(folder_of(tmp_path, *files)))
    names = list(source.names)
    assert [name[:7] for name in names] == [f"{number:06d}_" for number in range(len(files))]
    assert [frame.name for frame in source] == names
    StreamFiles(tmp_path / "run", LABELS).refuse_names(names)


def test_frames_that_are_called_otherwise_keep_their_names(tmp_path):
    source = open_source(str(folder_of(tmp_path, "a_1.png", "a_10.png", "a_9_leftImg8bit.png")))
    assert list(source.names) == ["a_1", "a_9_leftImg8bit", "a_10"]


@pytest.mark.parametrize("source", ["in", "in/*", "in/*.png", "in/frame_%d.png"])
def test_files_of_systems_are_no_frames(tmp_path, source):
    folder = write_folder(tmp_path / "in", moving_blocks(3))
    litter(folder)
    assert [frame.name for frame in open_source(str(tmp_path / source))] == ["frame_0", "frame_1", "frame_2"]
