"""A network of fresh weights, and streams by it."""

import json
from pathlib import Path

import pytest
import torch

from main import main
from models import build_lmanet
from models.weights.export import published_state_dict
from tests.engine.videos import moving_blocks
from tests.networks import LMANetConfig

SIZE = (32, 64)


@pytest.fixture(scope="session")
def lmanet_file(tmp_path_factory) -> Path:
    """An LMANet of fresh weights whose labels vary: every class is as likely, and the memory counts."""
    torch.manual_seed(2)
    model = build_lmanet(LMANetConfig(corr_size=3)).eval()
    frames = [torch.from_numpy(frame).permute(2, 0, 1)[None] / 255 for frame in moving_blocks(3, *SIZE)]
    with torch.no_grad():
        model.fusion.features_read.weight *= 10
        for _ in range(2):  # the second time the first bias is in
            memory = None
            for frame in frames:
                logits, memory = model.step(frame, memory)
            model.decoder.output_conv.bias -= logits.mean((0, 2, 3))
    path = tmp_path_factory.mktemp("weights") / "lmanet.pth"
    torch.save(published_state_dict(model), path)
    return path


@pytest.fixture
def stream(lmanet_file, tmp_path):
    """Runs a stream and gives its exit status and summary: ``stream(source, "--save-video", "overlay")``."""

    def run(source, *options: str, weights=lmanet_file) -> tuple[int, dict]:
        words = f"--weights {weights} --savedir {tmp_path / 'run'} --work-size 32x64 --corr-size 3 --device cpu"
        status = main(["--stream", str(source), *words.split(), *options])
        summary = tmp_path / "run" / "stream.json"
        return status, json.loads(summary.read_text()) if summary.is_file() else {}

    return run
