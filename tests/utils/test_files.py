import ast
import errno
import io
import logging
import os
from pathlib import Path

import pytest
import torch

from utils import files, tensor_files
from utils.errors import OptionError, WeightsError
from utils.files import (
    PartialFile,
    open_to_append,
    own_folder,
    part_name,
    remove_parts,
    writable_folder,
    write_text,
    written_whole,
)


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    file = tmp_path / "log.txt"
    write_text(file, "old")
    with pytest.raises(KeyboardInterrupt), written_whole(file) as handle:
        handle.write(b"new, but not all of it")
        raise KeyboardInterrupt
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


def test_a_file_gets_the_usual_permissions(tmp_path):
    write_text(tmp_path / "a.txt", "a")
    (tmp_path / "b.txt").write_text("b")
    assert os.stat(tmp_path / "a.txt").st_mode == os.stat(tmp_path / "b.txt").st_mode


def test_the_usual_permissions_are_those_of_the_umask_at_that_time(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    assert os.stat(tmp_path / "a.txt").st_mode & 0o777 == 0o640


def test_the_longest_name_that_a_file_system_takes_can_be_written(tmp_path):
    for name in ("x" * 255, "ü" * 127, os.fsdecode(b"\xff" * 255)):
        write_text(tmp_path / name, "whole")
        assert (tmp_path / name).read_text() == "whole"


@pytest.mark.parametrize("size", [0, 6, 7, 8, 1000])
def test_a_write_that_takes_fewer_bytes_goes_on_with_the_rest(tmp_path, size):
    class Raw(io.FileIO):
        def write(self, data):
            return super().write(memoryview(data)[:7])

    class Hesitant(PartialFile, Raw):
        """Its disk takes at most 7 bytes at a time."""

    content = bytes(range(250)) * 4
    file = Hesitant(tmp_path / "a.partial", tmp_path / "a")
    assert file.write(content[:size]) == size
    file.complete()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": content[:size]}


@pytest.mark.parametrize("wrong", [errno.ENOSPC, errno.EFBIG, errno.EIO])
def test_a_file_whose_writer_hides_an_error_gets_no_final_name(tmp_path, wrong):
    class Raw(io.FileIO):
        def write(self, data):
            if self.tell() >= 14:
                raise OSError(wrong, os.strerror(wrong))
            return super().write(memoryview(data)[:7])

    class Full(PartialFile, Raw):
        pass

    file = Full(tmp_path / "a.partial", tmp_path / "a")
    with pytest.raises(OSError, match=os.strerror(wrong)):
        file.write(b"a" * 20)
    with pytest.raises(OSError, match=os.strerror(wrong)):
        file.complete()
    assert [path.name for path in tmp_path.iterdir()] == ["a.partial"]


def link_to_file(path, victim):
    path.symlink_to(victim)


def link_to_nothing(path, victim):
    path.symlink_to(victim.with_name("made_outside"))


def hard_link(path, victim):
    os.link(victim, path)


@pytest.mark.parametrize("put", [link_to_file, link_to_nothing, hard_link])
def test_what_lies_in_the_way_is_replaced_and_its_target_stays(tmp_path, put):
    run, victim = tmp_path / "run", tmp_path / "victim"
    run.mkdir()
    victim.write_text("precious")
    for name in ("overlay.partial.mp4", "report.json"):
        put(run / name, victim)
    write_text(run / "report.json", "{}")
    file = PartialFile(run / "overlay.partial.mp4", run / "overlay.mp4")
    file.write(b"video")
    file.complete()
    assert victim.read_text() == "precious"
    assert not (tmp_path / "made_outside").exists()
    assert {path.name: path.is_symlink() for path in run.iterdir()} == {"overlay.mp4": False, "report.json": False}


def test_a_link_is_neither_added_to_nor_entered(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.mkdir()
    link.symlink_to(victim)
    with pytest.raises(OptionError, match="link: is a link or a file: expected a folder, or none: remove it"):
        own_folder(link)
    (victim / "log.txt").write_text("precious")
    (tmp_path / "log.txt").symlink_to(victim / "log.txt")
    with pytest.raises(OSError, match="symbolic links"):
        open_to_append(tmp_path / "log.txt")
    assert own_folder(tmp_path / "images").is_dir()


def test_parts_of_processes_that_ended_are_removed_and_those_of_others_stay(tmp_path):
    process = os.fork()
    if process == 0:
        os._exit(0)
    os.waitpid(process, 0)
    own = part_name("report.json")
    dead = own.replace(f"-{os.getpid()}-", f"-{process}-")
    elsewhere = dead.replace(files._machine(), "0" * 8)
    foreign = [".config", ".mine.part", "mine.part", "report.json"]
    for name in (own, dead, elsewhere, ".labels.png.ab12cd_3.part", *foreign):
        (tmp_path / name).write_text("")
    remove_parts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([own, elsewhere, ".labels.png.ab12cd_3.part", *foreign])
    remove_parts(tmp_path, is_locked=True)
    assert sorted(os.listdir(tmp_path)) == foreign


@pytest.mark.parametrize("wrong", [errno.EINVAL, errno.ENOSYS, errno.EACCES])
def test_a_file_system_that_syncs_no_folders_is_warned_of_once(tmp_path, monkeypatch, caplog, wrong):
    def fsync(descriptor, real=os.fsync):
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(wrong, os.strerror(wrong))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(files, "_warned", set())
    with caplog.at_level(logging.WARNING):
        for folder in (tmp_path, tmp_path / "labels"):
            folder.mkdir(exist_ok=True)
            write_text(folder / "a", "whole")
            assert (folder / "a").read_text() == "whole"
    said = f"syncing folders is not offered by the file system of {tmp_path} ({os.strerror(wrong)}): going on without"
    assert [record.getMessage() for record in caplog.records] == [said]


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("wrong", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_disk_that_fails_leaves_the_old_file_and_is_named(tmp_path, monkeypatch, call, wrong):
    file = tmp_path / "log.txt"
    write_text(file, "old")

    def fails(*_):
        raise OSError(wrong, os.strerror(wrong))

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match=os.strerror(wrong)) as error:
        write_text(file, "new")
    assert error.value.filename == str(file)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"log.txt": "old"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_signal_that_interrupts_a_step_has_it_repeated(tmp_path, monkeypatch, call):
    calls, real = [], getattr(os, call)

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) < 4:
            raise InterruptedError(errno.EINTR, "Interrupted system call")
        return real(*arguments)

    monkeypatch.setattr(os, call, interrupted)
    write_text(tmp_path / "a", "whole")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "whole")]


def test_a_folder_that_is_a_file_is_refused_with_the_option(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(OptionError, match=r"--savedir .*taken: cannot be written to"):
        writable_folder(tmp_path / "taken", "--savedir")


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_pickle_that_wants_to_run_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"weight": RunsCode()}, "evil.pth")
    with pytest.raises(WeightsError, match=r"evil\.pth: holds more than tensors and could run code"):
        tensor_files.read("evil.pth", WeightsError)
    assert not os.path.exists("harm")


def damaged_files(tmp_path):
    torch.save({"weight": torch.arange(1000.0)}, tmp_path / "whole.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    contents = {"half": whole[: len(whole) // 2], "head": whole[:50], "empty": b"", "text": b"hello\nworld\n"}
    for name, content in contents.items():
        (tmp_path / f"{name}.pth").write_bytes(content)
        yield tmp_path / f"{name}.pth"


def test_damaged_files_are_refused_in_one_line(tmp_path):
    for path in damaged_files(tmp_path):
        with pytest.raises(WeightsError) as error:
            tensor_files.read(path, WeightsError)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_a_bit_of_a_published_file_that_turned_is_found(tmp_path):
    path = tmp_path / "published.pth"
    torch.save({"weight": torch.arange(1000.0)}, path)
    content = bytearray(path.read_bytes())
    place = content.index(torch.arange(500.0, 510.0).numpy().tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["weight"][500] != 500  # PyTorch takes it
    with pytest.raises(WeightsError, match=r"published\.pth: is no weight file, or damaged"):
        tensor_files.read(path, WeightsError)


def test_files_without_checksums_are_read(tmp_path):
    path = tmp_path / "w.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"weight": torch.arange(10.0)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert tensor_files.read(path, WeightsError)["weight"].tolist() == list(range(10))
    torch.save({"weight": torch.arange(10.0)}, path, _use_new_zipfile_serialization=False)
    assert tensor_files.read(path, WeightsError)["weight"].tolist() == list(range(10))


def test_what_is_saved_comes_back(tmp_path):
    tensor_files.save(tmp_path / "c.tar", {"epoch": 3, "x": torch.ones(2)})
    content = tensor_files.read(tmp_path / "c.tar", WeightsError)
    assert content["epoch"] == 3
    assert content["x"].tolist() == [1, 1]


@pytest.mark.parametrize("piece", [1, 2, 5])
def test_a_disk_that_is_full_while_a_checkpoint_is_written_is_no_error_of_torch(tmp_path, monkeypatch, piece):
    class Full(io.FileIO):
        """A file whose disk is full at one of its pieces."""

        pieces = 0

        def write(self, data):
            self.pieces += 1
            if self.pieces >= piece:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data)

    right = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: right(content, Full(file.fileno(), "w", closefd=False)))
    with pytest.raises(OSError, match="No space left on device") as error:
        tensor_files.save(tmp_path / "c.tar", {"x": torch.ones(1000)})
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path / "c.tar"))
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_a_checkpoint_is_written_stays_ctrl_c(tmp_path, monkeypatch):
    class Interrupted:
        """A file at whose second piece the user presses Ctrl-C."""

        def __init__(self, file):
            self.file, self.pieces = file, 0

        def write(self, data):
            self.pieces += 1
            if self.pieces == 2:
                raise KeyboardInterrupt
            return self.file.write(data)

        def flush(self):
            self.file.flush()

    right = torch.save
    monkeypatch.setattr(torch, "save", lambda content, file: right(content, Interrupted(file)))
    with pytest.raises(KeyboardInterrupt):
        tensor_files.save(tmp_path / "c.tar", {"x": torch.ones(1000)})
    assert list(tmp_path.iterdir()) == []


def raw_writes(tree: ast.AST):
    """Calls that write a file by themselves: of ``open`` with a mode to write, of ``Path.write_text`` and the like."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        words = [
            each.value for each in (*call.args, *(k.value for k in call.keywords)) if isinstance(each, ast.Constant)
        ]
        modes = [each for each in words if isinstance(each, str) and each.strip("bt+") in ("w", "a", "x")]
        is_method = isinstance(call.func, ast.Attribute)
        if (name == "open" and modes) or (is_method and name in ("write_text", "write_bytes", "imwrite")):
            yield call


ALLOWED = {
    "utils/files.py",  # the one place
    "engine/streaming/video_writer.py",  # a muxer that writes to such a file
    "datasets/cache_folder.py",  # entries that are checked when they are read
    "engine/benchmarks/attention.py",  # what the kernel reads
    "engine/benchmarks/scaling.py",  # what the kernel reads, too
    # Files that are thrown away.
    "engine/benchmarks/pipeline.py",
    "engine/network_table.py",
    "models/inference/int8.py",
}


def test_files_are_written_in_one_place():
    project = Path(__file__).parents[2]
    paths = [path for part in ("datasets", "engine", "models", "utils") for path in (project / part).rglob("*.py")]
    found = {path for path in paths if any(raw_writes(ast.parse(path.read_text(encoding="utf-8"))))}
    assert {str(path.relative_to(project)) for path in found} == ALLOWED, "write with utils/files.py"
