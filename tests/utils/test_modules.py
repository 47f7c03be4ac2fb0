"""What the compiler is told without being imported."""

import subprocess
import sys

import pytest
import torch

from utils.modules import constant_when_compiled


def test_a_constant_is_marked_as_pytorch_marks_it():
    def ours():
        return 1

    def theirs():
        return 1

    assert constant_when_compiled(ours) is ours
    assert vars(ours) == vars(torch.compiler.assume_constant_result(theirs)) != {}


@pytest.mark.slow
def test_a_network_is_run_without_importing_the_compiler():
    code = (
        "import sys, engine.modes.streaming, torch; from models import build_lmanet, LMANetConfig; "
        "build_lmanet(LMANetConfig(num_classes=3)).eval().step(torch.zeros(1, 3, 32, 64)); "
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
