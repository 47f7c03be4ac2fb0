"""The list of what was written: what it names is removed, and nothing else, whatever became of the folder."""

import os

import pytest

from utils.errors import OptionError
from utils.manifest import Manifest


@pytest.fixture
def manifest(tmp_path):
    (tmp_path / "out").mkdir()
    return Manifest(tmp_path / "out", ".list")


def write(manifest, *names):
    with manifest:
        for name in names:
            manifest.note([name])
            (manifest.folder / name).parent.mkdir(exist_ok=True)
            (manifest.folder / name).write_text("ours")


def left(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def test_what_was_noted_is_removed_and_nothing_else(manifest):
    write(manifest, "a.png", "maps/0.png", "maps/new\nline \udcff.png")
    (manifest.folder / "maps" / "theirs.txt").write_text("theirs")
    (manifest.folder / "b.png").write_text("theirs")
    manifest.remove()
    assert left(manifest.folder) == ["b.png", "maps/theirs.txt"]
    assert manifest.files() == []


def test_folders_of_ours_go_with_their_last_file(manifest):
    with manifest:
        manifest.note(["maps", "maps/0.png"])
        (manifest.folder / "maps").mkdir()
        for name in ("0.png", ".0.png.ab12cd_3.part"):
            (manifest.folder / "maps" / name).write_text("ours")
    manifest.remove()
    assert not list(manifest.folder.iterdir())


def test_nothing_is_removed_through_a_link(manifest, tmp_path):
    write(manifest, "a.png", "maps/0.png")
    theirs = tmp_path / "theirs"
    (manifest.folder / "maps").rename(theirs)
    (manifest.folder / "maps").symlink_to(theirs)
    (manifest.folder / "a.png").rename(theirs / "a.png")
    (manifest.folder / "a.png").symlink_to(theirs / "a.png")
    manifest.remove()
    assert left(theirs) == ["0.png", "a.png"] and (manifest.folder / "a.png").is_symlink()


@pytest.mark.parametrize(
    "name", ["../theirs.txt", "maps/../../theirs.txt", "/etc/passwd", "", ".", "a\0b", 3, None, []]
)
def test_a_forged_name_leads_nowhere(manifest, tmp_path, name):
    import json

    (tmp_path / "theirs.txt").write_text("theirs")
    manifest.path.write_text(json.dumps(name) + "\n")
    manifest.remove()
    assert (tmp_path / "theirs.txt").exists() and manifest.folder.is_dir()


def test_a_list_whose_process_was_killed_is_read_up_to_its_last_whole_line(manifest):
    manifest.path.write_text('"a.png"\n"b.png"\n"c.p')
    for name in ("a.png", "b.png", "c.png"):
        (manifest.folder / name).write_text("")
    assert [path.name for path in manifest.files()] == ["a.png", "b.png"]


def test_what_was_noted_and_never_written_is_not_ours_later(manifest):
    with manifest:
        manifest.note(["a.png"])
    (manifest.folder / "a.png").write_text("theirs, made afterwards")
    manifest.remove()
    assert left(manifest.folder) == ["a.png"]


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("other"), os.mkdir, os.mkfifo])
def test_a_list_that_is_no_file_is_refused(manifest, make):
    (manifest.folder / "other").write_text('"other"\n')
    make(manifest.path)
    with pytest.raises(OptionError, match=r"\.list: .*expected a (file|list of files): remove it"):
        manifest.files()
