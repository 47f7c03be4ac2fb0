import os

import pytest
import torch

from utils import tensor_files
from utils.errors import OptionError, WeightsError
from utils.files import writable_folder, write_text, written_whole


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
