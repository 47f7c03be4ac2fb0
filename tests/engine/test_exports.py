"""The two files of an OpenVINO model: both, or none; and nothing else is replaced."""

import pytest

from engine.modes import exports
from main import main
from models import build_lmanet
from models.weights.export import export_weights
from tests.networks import LMANetConfig


@pytest.fixture
def command(tmp_path):
    export_weights(build_lmanet(LMANetConfig(baseline=True)), tmp_path / "single.pth")

    def words(path):
        text = f"--export-openvino {path} --baseline-mode --weights {tmp_path}/single.pth --work-size 32x64"
        return [*text.split(), "--savedir", str(tmp_path / "save")]

    return words


@pytest.fixture
def written(monkeypatch):
    """The contents that are written in place of a model's."""
    contents = [b"<net/>", b"weights"]
    monkeypatch.setattr(exports, "export_stateful_step", lambda model, size, version: tuple(contents))
    return contents


def test_both_files_are_written_and_replaced(command, written, tmp_path, capsys):
    xml, weights = tmp_path / "step.xml", tmp_path / "step.bin"
    assert main(command(xml)) == 0
    assert (xml.read_bytes(), weights.read_bytes()) == (b"<net/>", b"weights")
    assert f"{xml}, {weights}: written for frames of 32 x 64" in capsys.readouterr().out
    written[:] = b"<other/>", b"others"
    assert main(command(xml)) == 0
    assert (xml.read_bytes(), weights.read_bytes()) == (b"<other/>", b"others")
    assert {each.name for each in tmp_path.glob("*step*")} == {"step.xml", "step.bin"}


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("what", ["a file", "a folder"])
def test_weights_of_something_else_are_not_replaced(command, tmp_path, capsys, what):
    weights = tmp_path / "step.bin"
    weights.mkdir() if what == "a folder" else weights.write_bytes(b"mine")
    assert main(command(tmp_path / "step.xml")) == 2
    assert f"{weights} is no part of an earlier model" in capsys.readouterr().err
    assert not (tmp_path / "step.xml").exists()


@pytest.mark.usefixtures("written")
def test_a_folder_that_is_not_there_is_said(command, tmp_path, capsys):
    assert main(command(tmp_path / "missing" / "step.xml")) == 2
    assert "step.xml: cannot be written (No such file or directory)" in capsys.readouterr().err


def test_a_model_that_cannot_be_written_leaves_the_earlier_one(command, written, tmp_path, monkeypatch):
    xml = tmp_path / "step.xml"
    assert main(command(xml)) == 0
    written[1] = "no bytes"  # fails while the weights are written
    with pytest.raises(TypeError):
        main(command(xml))
    assert (xml.read_bytes(), (tmp_path / "step.bin").read_bytes()) == (b"<net/>", b"weights")
    assert {each.name for each in tmp_path.glob(".*step*")} == set()
