"""Versions and the machine: what is said of processors that are not this one."""

from types import SimpleNamespace

import pytest
import torch

from engine import version
from main import main

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 fma avx512f avx512_vnni amx_int8 avx512_4vnniw\n\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp sve i8mm bf16\nCPU part\t: 0xd40\n\n"
MACOS = "hw.optional.neon: 1\nhw.optional.arm.FEAT_DotProd: 1\nhw.optional.arm.FEAT_I8MM: 0\n"


def test_instructions_by_hand():
    assert version.linux_instructions(X86) == ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8")
    assert version.linux_instructions(ARM) == ("neon", "fp16", "dotprod", "i8mm", "bf16", "sve")
    assert version.macos_instructions(MACOS) == ("neon", "dotprod")
    assert version.linux_instructions("") == ()


def test_the_level_that_pytorch_uses_stands_in_where_the_system_names_none(monkeypatch):
    monkeypatch.setattr(version, "_cpuinfo", lambda: "")
    monkeypatch.setattr(version.sys, "platform", "win32")
    version.instructions.cache_clear()
    assert version.instructions() == (torch.backends.cpu.get_cpu_capability().lower(),)
    version.instructions.cache_clear()


def test_a_gpu_is_named_with_its_compute_capability(monkeypatch):
    about = SimpleNamespace(name="Some GPU", major=9, minor=0, total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: about)
    device = torch.device("cuda", 0)
    assert version.machine_rows(device)["GPU"].startswith("Some GPU (compute capability 9.0, 80 GiB), CUDA ")
    assert version.machine_caption(device).startswith("Some GPU (compute capability 9.0, 80 GiB) beside ")


def test_caption_names_threads_and_the_libraries_that_compute(monkeypatch):
    monkeypatch.setattr(version, "processor_name", lambda: "Some CPU")
    monkeypatch.setattr(version, "instructions", lambda: ("avx2", "fma"))
    monkeypatch.setattr(version, "_package", lambda name: "1.2" if name == "torch" else version.ABSENT)
    expected = "4 threads of Some CPU (avx2, fma), PyTorch 1.2."
    assert version.machine_caption(torch.device("cpu"), threads=4) == expected


def test_version_names_the_machine(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for name in ("LMANet", "torch", "onnxruntime", "openvino", "processor", "instructions", "threads", "attention cpu"):
        assert f"\n{name}: " in f"\n{printed}"
