"""Which process is the first one: by the environment, and by PyTorch once the processes have met."""

import pytest
import torch.distributed as dist

from utils import distributed, ranks

VARIABLES = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}


@pytest.fixture
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)

    def set_variables(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_variables


@pytest.mark.parametrize(
    ("variables", "is_rank", "is_first"),
    [
        ({}, False, True),
        (VARIABLES, True, True),
        (VARIABLES | {"RANK": "1"}, True, False),
        ({"RANK": "1"}, False, True),  # of some other program: nobody started several of this one
    ],
)
def test_torchruns_variables_tell_who_is_first(environment, variables, is_rank, is_first):
    environment(**variables)
    assert (ranks.is_rank(), ranks.is_first(), distributed.is_first()) == (is_rank, is_first, is_first)


def test_once_the_processes_have_met_pytorch_tells(environment, tmp_path):
    environment(**VARIABLES | {"RANK": "1"})
    dist.init_process_group("gloo", f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        assert distributed.is_first() and not ranks.is_first()
    finally:
        dist.destroy_process_group()
