"""Small files that would take all memory are refused before they are unpacked."""

import time
import zipfile

import pytest
import torch

from utils import tensor_files
from utils.errors import WeightsError
from utils.limits import UNPACKED_BYTES

WEIGHTS = {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(3)}


def read(path):
    start = time.process_time()
    try:
        return tensor_files.read(path, WeightsError)
    finally:
        assert time.process_time() - start < 5


@pytest.mark.parametrize("megabytes", [300, 3000])
def test_a_record_that_unpacks_to_much_is_not_unpacked(tmp_path, megabytes):
    torch.save(WEIGHTS, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth", "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        record = zipfile.ZipInfo("w/data/999")
        record.compress_type = zipfile.ZIP_DEFLATED
        with archive.open(record, "w", force_zip64=True) as file:
            file.write(bytes(1 << 20))
        archive.infolist()[-1].file_size = megabytes << 20  # as it would be, in less time
    with pytest.raises(WeightsError, match=rf"w\.pth: its 0\.0 MB would unpack to {megabytes * 1.048576:.0f} MB"):
        read(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(1).expand(1 << 20, 1 << 20),
        torch.zeros(1, 5, dtype=torch.float64).expand(UNPACKED_BYTES, 5),
        torch.zeros(1, 1).to_sparse().sparse_resize_((1 << 20, 1 << 20), 2, 0),
    ],
    ids=["stride 0", "rows of stride 0", "sparse"],
)
@pytest.mark.parametrize("inside", [lambda each: {"w": each}, lambda each: {"state_dict": {"w": [each]}}])
def test_a_tensor_that_says_more_than_the_file_holds_is_refused(tmp_path, tensor, inside):
    torch.save(inside(tensor), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"w\.pth: its 0\.0 MB would unpack to \d+ MB"):
        read(tmp_path / "w.pth")


def test_a_file_that_somebody_compressed_is_read(tmp_path):
    torch.save(WEIGHTS | {"c": torch.zeros(1 << 20), "d": torch.ones(3).expand(4, 3)}, tmp_path / "w.pth")
    with zipfile.ZipFile(tmp_path / "w.pth") as given, zipfile.ZipFile(tmp_path / "z.pth", "w") as packed:
        for record in given.infolist():
            packed.writestr(record.filename, given.read(record), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "z.pth").stat().st_size < (tmp_path / "w.pth").stat().st_size / 100
    content = read(tmp_path / "z.pth")
    assert torch.equal(content["a"], WEIGHTS["a"])
    assert content["d"].shape == (4, 3)
