"""A new training in the folder of an earlier one: what that wrote is set aside, all else stays where it is."""

from pathlib import Path

import pytest

from engine.run_folder import RunFolder

TRAINING = (
    *("args.txt", "lmanet.py", "model.txt", "automated_log.txt", "best.txt", "checkpoint.pth.tar"),
    *("checkpoint.pth.tar.previous", "model_best.pth.tar", "model_best.pth", "model-003.pth", "model-1200.pth"),
    *("curves.png", "iou.png", "confusion.png", "report.json", "report.html", "visdom/run_graphs.json"),
)
THEIRS = (
    *("notes.txt", "weights.pth", "model-old.pth", "model-03.pth", "erfnet.pth.tar", "visdom/theirs.txt", "data/a.png"),
    *("labels/0.txt", "overlay.mp4", "stream.json", ".stream_files", "checkpoint_enc.pth.tar", "model_encoder.txt"),
)


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def folder(tmp_path):
    for name in (*TRAINING, *THEIRS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def test_only_what_a_training_wrote_is_set_aside(folder):
    RunFolder(folder, shallow=False).set_earlier_training_aside()
    assert files_in(folder / "previous_1") == set(TRAINING)
    assert files_in(folder) == set(THEIRS) | {f"previous_1/{name}" for name in TRAINING}
    assert all((folder / "previous_1" / name).read_text() == name for name in TRAINING)


def test_a_training_of_the_shallow_decoder_has_files_of_its_own(folder):
    RunFolder(folder, shallow=True).set_earlier_training_aside()
    aside = files_in(folder / "previous_1")
    assert {"checkpoint_enc.pth.tar", "model_encoder.txt", "args.txt"} <= aside
    assert not aside & {"checkpoint.pth.tar", "model.txt", "model_best.pth", "notes.txt"}


def test_without_a_checkpoint_nothing_is_moved(folder):
    for name in ("checkpoint.pth.tar", "checkpoint.pth.tar.previous"):
        (folder / name).unlink()
    before = files_in(folder)
    RunFolder(folder, shallow=False).set_earlier_training_aside()
    assert files_in(folder) == before


def test_links_are_moved_and_never_followed(folder, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    for name in ("checkpoint.pth.tar", "visdom"):
        (folder / name).rename(disk / name)
        (folder / name).symlink_to(disk / name)
    RunFolder(folder, shallow=False).set_earlier_training_aside()
    assert files_in(disk) == {"checkpoint.pth.tar", "visdom/run_graphs.json", "visdom/theirs.txt"}
    assert (folder / "previous_1" / "checkpoint.pth.tar").is_symlink() and (folder / "visdom").is_symlink()


def test_a_move_that_was_interrupted_is_made_again(folder, monkeypatch):
    def stop(path: Path, target: Path) -> None:
        if path.name == "checkpoint.pth.tar":
            raise KeyboardInterrupt
        rename(path, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        RunFolder(folder, shallow=False).set_earlier_training_aside()
    monkeypatch.undo()
    RunFolder(folder, shallow=False).set_earlier_training_aside()
    assert files_in(folder / "previous_2") == {"checkpoint.pth.tar"}
    assert files_in(folder / "previous_1") == set(TRAINING) - {"checkpoint.pth.tar"}
