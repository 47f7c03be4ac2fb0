"""Processes that were started differently say so, all of them, and train nothing."""

import re

import pytest

from engine import agreement
from engine.agreement import check_same_data
from models import build_lmanet
from tests.engine.conftest import make_data_set
from tests.engine.running import started
from tests.networks import LMANetConfig
from utils import distributed
from utils.class_set import ClassSet
from utils.errors import OptionError


def compared(monkeypatch, *by_rank: dict[str, str]) -> str | None:
    """What a process says whose process group sent these values."""
    monkeypatch.setattr(distributed, "all_gather", lambda value: list(by_rank))
    try:
        agreement._check_same(by_rank[0])
    except OptionError as error:
        return str(error)
    return None


def test_what_differs_is_named_with_the_ranks_that_have_it(monkeypatch):
    same = {"--lr-start": "0.01", "--seed": "1"}
    assert compared(monkeypatch, same, same, same) is None
    said = compared(monkeypatch, same, same, {"--lr-start": "0.02", "--seed": "1"})
    assert said.startswith("the processes differ: --lr-start is 0.01 on rank 0, 0.02 on rank 2: expected the same")
    said = compared(monkeypatch, {"a": "1", "b": "2"}, {"a": "3", "b": "4"})
    assert "a is 1 on rank 0, 3 on rank 1; b is 2 on rank 0, 4 on rank 1: expected" in said
    many = ({str(i): side for i in range(9)} for side in "xy")
    assert "; 4 more: expected" in compared(monkeypatch, *many)


def test_what_one_process_of_a_machine_looks_up_need_not_be_known_to_all(monkeypatch):
    assert compared(monkeypatch, {"files": "a"}, {}, {"files": "a"}) is None
    assert "files is a on rank 0, b on rank 2" in compared(monkeypatch, {"files": "a"}, {}, {"files": "b"})


def test_weights_classes_and_clips_are_compared(monkeypatch, toytown):
    from datasets.sets.cityscapes import Cityscapes

    dataset = Cityscapes()
    clips = dataset.clips(dataset.root(str(toytown)), "val", 4, [0, 1, 2, 3])
    sent = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_gather", lambda value: sent.append(value) or [value])
    model = build_lmanet(LMANetConfig(corr_size=3))
    classes, others = (ClassSet(names=("a", name), colors=((0, 0, 0), (1, 1, 1))) for name in "bc")
    check_same_data(model, classes, {"validation": clips})
    check_same_data(model, others, {"validation": clips})
    check_same_data(model, classes, {"validation": clips[:2]})
    model.encoder.initial_block.conv.weight.data[0, 0, 0, 0] += 1e-3
    check_same_data(model, classes, {"validation": clips})
    differing = [{name for name in found if found[name] != sent[0][name]} for found in sent[1:]]
    of_clips = {"the number of validation clips"}
    of_clips |= {f"the digest of the validation clips' {what}" for what in ("names", "files")}
    assert differing == [{"the class set"}, of_clips, {"the digest of the weights"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--lr-start", "1e-2"), r"--lr-start is 5e-05 on rank 0, 0\.01 on rank 1"),
        (("--batch-size", "1"), "--batch-size is 2 on rank 0, 1 on rank 1"),
        (("--corr-size", "5"), "--corr-size is 3 on rank 0, 5 on rank 1"),
        (("--data-root", "LESS"), "the number of training clips is 5 on rank 0, 4 on rank 1"),
        (
            ("--data-root", "OTHER"),
            r"the digest of the (training|validation) clips' \w+ is \w+ on rank 0, \w+ on rank 1",
        ),
    ],
)
def test_two_machines_of_different_options_end_at_once_and_say_why(command, tmp_path, options, said):
    make_data_set(tmp_path / "less", train=4)
    (frame, *_) = sorted((make_data_set(tmp_path / "other") / "leftImg8bit_sequence" / "train").glob("*/*.png"))
    frame.write_bytes(frame.read_bytes() + b"more")
    options = [{"LESS": f"{tmp_path}/less", "OTHER": f"{tmp_path}/other"}.get(each, each) for each in options]
    from tests.visdom_server import free_port

    shared = ["--training", "--num-epochs", "1", "--nodes", "2", "--gpus", "1", "--mport", str(free_port())]
    machines = [
        started(command(*shared, "--nr", nr, *more, savedir=tmp_path / nr)) for nr, more in (("0", []), ("1", options))
    ]
    for machine in machines:
        error = machine.communicate(timeout=240)[1]
        assert machine.returncode == 2, error
        assert re.search(f"main.py: error: the processes differ: {said}", error.splitlines()[-1])
    assert not list(tmp_path.glob("[01]/*.pth*"))
