"""The GPU kernels are accepted by every compiler at hand, for every architecture it knows, and spill nothing."""

import shutil
import subprocess

import pytest

from models.local_attention import cuda
from models.local_attention.cuda import ShapeClass
from tests.models.local_attention.nvrtc import VARIABLE, Nvrtc, Usage, known_architectures, libraries, usages_in

_KERNELS = {
    "attention_forward",
    "attention_deltas",
    "attention_query_gradient",
    "attention_key_gradient",
    "attention_value_gradient",
}
_SHARED_OF_EVERY_GPU = 48 << 10


def check(usages: list[Usage]) -> None:
    assert {usage.kernel for usage in usages} == _KERNELS
    assert [usage for usage in usages if usage.spilled_bytes] == []
    assert max(usage.shared_bytes for usage in usages) <= _SHARED_OF_EVERY_GPU


def check_two_blocks(usages: list[Usage], architecture: int, shape: ShapeClass) -> None:
    """ERFNet's forward leaves registers for a second block of 256 threads on a multiprocessor of 65,536."""
    if (shape.rows, shape.passes) == (4, 1) and architecture >= 80:
        assert next(usage.registers for usage in usages if usage.kernel == "attention_forward") <= 65536 // (2 * 256)


def nvrtc_for(version: int) -> Nvrtc:
    for path in libraries():
        nvrtc = Nvrtc(path)
        if nvrtc.version[0] == version:
            return nvrtc
    pytest.skip(f"no NVRTC of CUDA {version}: neither in a wheel nor in {VARIABLE}")


@pytest.mark.parametrize("version", [11, 12, 13])
def test_nvrtc_accepts_the_source(version):
    shape = ShapeClass(1, 4, 1)
    usages = nvrtc_for(version).usages(cuda._SOURCE.read_text(), (*shape.options(), "-arch=sm_80"))
    check(usages)
    check_two_blocks(usages, 80, shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", cuda.SHAPE_CLASSES, ids=lambda shape: "-".join(map(str, shape)))
@pytest.mark.parametrize("version", [11, 12, 13])
def test_nvrtc_compiles_for_every_architecture_without_spills(version, shape):
    nvrtc = nvrtc_for(version)
    for architecture in known_architectures(nvrtc.version):
        usages = nvrtc.usages(cuda._SOURCE.read_text(), (*shape.options(), f"-arch=sm_{architecture}"))
        check(usages)
        check_two_blocks(usages, architecture, shape)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [75, 80, 86, 90, 100, 120])
def test_nvcc_compiles_for_every_architecture_without_spills(architecture, tmp_path):
    if not shutil.which("nvcc"):
        pytest.skip("no nvcc")
    for shape in cuda.SHAPE_CLASSES:
        command = ["nvcc", *shape.options(), f"-arch=sm_{architecture}", "-cubin", "-Xptxas=-v"]
        done = subprocess.run(
            [*command, str(cuda._SOURCE), "-o", str(tmp_path / "x.cubin")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        check(usages_in(done.stderr))
