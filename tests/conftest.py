"""What all tests share: the folder of reference data beside the project, where it is present."""

import signal
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
GPU = PROJECT / "tests" / "gpu"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With ``-m gpu`` only those tests are read: machines with a GPU may lack what the others import."""
    if config.option.markexpr != "gpu" or collection_path in (GPU, *GPU.parents):
        return None
    return True if GPU not in collection_path.parents else None


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_answered() -> None:
    """The processes that pytest-xdist starts ignore Ctrl-C, which the program keeps to."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``../shared`` with golden tensors and real clips; tests that need it skip where it is absent."""
    folder = PROJECT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder
