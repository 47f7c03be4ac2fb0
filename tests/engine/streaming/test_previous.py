"""A stream's files in a folder that others use too: nothing of theirs is replaced or removed."""

from pathlib import Path

import pytest

from engine.streaming.previous import LIST, StreamFiles
from utils.errors import OptionError

NOTHING = {"save_video": None, "alpha": 0.5, "save_labels": None, "save_probabilities": False}
LABELS, VIDEO = NOTHING | {"save_labels": "trainIds"}, NOTHING | {"save_video": "overlay"}


def stream(folder: Path, options: dict, *frames: str, overwrite: bool = False, sources: tuple[str, ...] = ()) -> None:
    """What a stream does with its files, without a network."""
    files = StreamFiles(folder, options)
    files.refuse_previous(overwrite)
    files.refuse_names(frames)
    files.clear_previous(sources)
    with files.noted():
        for leaf in files.leaves():
            (folder / leaf).mkdir() if leaf == "labels" and not (folder / leaf).exists() else None
            (folder / leaf).write_text("ours") if leaf != "labels" else None
        for frame in frames:
            files.note_frame(frame)
            if options["save_labels"]:
                (folder / "labels" / f"{frame}_pred_labelTrainIds.png").write_text("ours")


def test_overwrite_leaves_what_no_stream_wrote(tmp_path):
    for name in ("labels/000000.txt", "labels/deep/a.png", "probabilities/a.npy", "both.mp4", "labels.partial.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("theirs")
    stream(tmp_path, LABELS, "a", "b")
    stream(tmp_path, VIDEO, "a", "b", overwrite=True)
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["000000.txt", "deep"]
    assert (tmp_path / "overlay.mp4").exists()
    stream(tmp_path, NOTHING, overwrite=True)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    theirs = ["both.mp4", "labels.partial.mp4", "labels/000000.txt", "labels/deep/a.png", "probabilities/a.npy"]
    assert files == sorted([LIST, "stream.json", "stream.png", *theirs])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("stream.json", NOTHING),
        ("stream.png", VIDEO),
        ("overlay.mp4", VIDEO),
        ("overlay.partial.mp4", VIDEO),
        ("labels", LABELS),  # a file
        ("labels/frame_1_pred_labelTrainIds.png", LABELS),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_would_be_replaced_must_be_a_streams(tmp_path, name, options, overwrite):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("theirs")
    with pytest.raises(OptionError, match=f"{name} is not in .stream_files, .* move it, or give another folder"):
        stream(tmp_path, options, "frame_0", "frame_1", overwrite=overwrite)
    assert (tmp_path / name).read_text() == "theirs"


@pytest.mark.parametrize(("leaf", "options"), [("overlay.mp4", VIDEO), ("labels", LABELS)])
def test_nothing_is_written_through_a_link(tmp_path, leaf, options):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / leaf).symlink_to(theirs)
    with pytest.raises(OptionError, match=f"{leaf} is a link"):
        stream(run, options, "a", overwrite=True)
    assert not list(theirs.iterdir())


def test_what_was_moved_to_another_disk_and_linked_stays(tmp_path):
    run, disk = tmp_path / "run", tmp_path / "disk"
    run.mkdir()
    stream(run, LABELS, "a")
    (run / "labels").rename(disk)
    (run / "labels").symlink_to(disk)
    stream(run, NOTHING, overwrite=True)
    assert len(list(disk.iterdir())) == 1


@pytest.mark.parametrize("source", ["labels", "labels/*.png", "labels/%06d.png", "overlay.mp4", "link.mp4"])
def test_what_is_read_is_never_removed(tmp_path, source):
    stream(tmp_path, VIDEO | LABELS | {"save_video": "overlay"}, "000000")
    (tmp_path / "link.mp4").symlink_to("overlay.mp4")
    with pytest.raises(OptionError, match="would remove what is to be read"):
        stream(tmp_path, NOTHING, overwrite=True, sources=(str(tmp_path / source),))
    assert (tmp_path / "overlay.mp4").exists() and list((tmp_path / "labels").iterdir())
    stream(tmp_path, NOTHING, overwrite=True, sources=(str(tmp_path / "other.mp4"), "0"))
    assert not (tmp_path / "overlay.mp4").exists() and not (tmp_path / "labels").exists()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "x" * 250], r"called x{40}\.\.\., \d+ bytes, which is too long"),
        (["名" * 80], "too long for a file name"),  # 240 bytes, and the ending
        (["b", "a", "a_leftImg8bit"], "the frames a and a_leftImg8bit would both be written to labels/a_pred"),
    ],
)
def test_names_that_cannot_be_written_are_refused(tmp_path, names, said):
    with pytest.raises(OptionError, match=said):
        stream(tmp_path, LABELS, *names)
    assert not list(tmp_path.iterdir())


def test_the_longest_names_that_a_disk_takes_are_taken(tmp_path):
    from utils.png import write_png

    name = "x" * (255 - len("_pred_labelTrainIds.png"))
    stream(tmp_path, LABELS, name)
    import numpy as np

    write_png(tmp_path / "labels" / f"{name}_pred_labelTrainIds.png", np.zeros((2, 2), np.uint8))
