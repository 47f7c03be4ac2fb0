"""Networks on a GPU: as near to float64 as the CPU is, of constant memory, and in a process group of NCCL."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from engine.training.setup import spread
from models import VideoSegmenter, build_lmanet
from models.inference.fast_copy import fast_copy
from tests.networks import LMANetConfig
from utils import distributed

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def float32_is_float32():
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = before


def network(backbone: str, size: tuple[int, int], frames: int, **fields):
    """A network whose batch norms have seen the clip, so that random weights blow nothing up; no dropout."""
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(backbone=backbone, memory_size=frames - 1, **fields))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout2d):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    clip = F.interpolate(torch.randn(frames, 3, 8, 12), size, mode="bilinear")[None]
    with torch.no_grad():
        model.train()(clip)
    return model.eval(), clip


KINDS = [
    ("erf", (64, 128), {"corr_size": 9}),
    ("erf", (64, 128), {"structure": "original_kv_fusion", "learnable_constant": True}),
    ("erf", (64, 128), {"mask_border": True, "fusion": "sigmoid-do2"}),
    ("erf", (64, 128), {"local": False}),
    ("psp101", (65, 97), {"corr_size": 5}),
]


@pytest.mark.parametrize("backbone, size, fields", KINDS, ids=str)
def test_clip_stream_and_gradients_are_as_near_to_float64_as_on_the_cpu(device, backbone, size, fields):
    if backbone == "psp101":
        pytest.importorskip("torchvision")
        if device.type == "cpu":
            pytest.skip("takes long on a CPU")
    model, clip = network(backbone, size, 3, **fields)
    weight, found = torch.randn(1, 1, 20, *size, dtype=torch.float64), []
    for dtype, where in ((torch.float64, "cpu"), (torch.float32, "cpu"), (torch.float32, device)):
        own = copy.deepcopy(model).to(where, dtype, memory_format=torch.channels_last)
        logits = own(clip.to(where, dtype))
        (logits * weight.to(where, dtype)).sum().backward()
        gradient = torch.cat([p.grad.flatten().cpu().double() for p in own.parameters() if p.grad is not None])
        fast, memory = fast_copy(own), None
        with torch.inference_mode():
            for frame in clip.to(where, dtype).unbind(1):
                last, memory = fast.step(frame.contiguous(memory_format=torch.channels_last), memory)
        found.append((logits.detach().cpu().double(), last.cpu().double(), gradient))
    for exact, cpu, here in zip(*found, strict=True):
        ours, theirs = ((x - exact).norm() / exact.norm() for x in (here, cpu))
        assert ours <= 4 * theirs + 2e-6


def test_memory_is_flat_over_2000_frames(device):
    frames = 2000 if device.type == "cuda" else 4
    model = build_lmanet(LMANetConfig(corr_size=9, memory_size=4))
    segmenter = VideoSegmenter(model, device=device, work_size=(64, 128))
    image = segmenter.prepare(torch.randint(0, 256, (96, 200, 3), dtype=torch.uint8).numpy())
    sizes = []
    for position in range(frames):
        labels = segmenter.step(image).fetched_labels((96, 200))
        if position % 100 == 99:
            labels()
            sizes.append(torch.cuda.memory_allocated() if device.type == "cuda" else 0)
    assert len(set(sizes[1:])) <= 1


def test_nccl_with_one_process(gpu, monkeypatch):
    if not dist.is_nccl_available():
        pytest.skip("this PyTorch came without NCCL")
    variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    torch.cuda.set_device(gpu)
    distributed.join("cuda")
    try:
        assert dist.is_initialized() and distributed.world_size() == 1
        for tensor in (torch.ones(3, device=gpu), torch.ones(1, dtype=torch.float64)):
            dist.all_reduce(tensor)
            assert tensor.sum() == tensor.numel()
        dist.barrier()
        model, clip = network("erf", (64, 128), 3)
        model.to(gpu, memory_format=torch.channels_last)
        gradients = []
        settings = SimpleNamespace(data=SimpleNamespace(window=3, seed=0), seed=0)
        for wrapped in (False, True):
            model.zero_grad(set_to_none=True)
            module = spread(settings, model, gpu) if wrapped else model
            model.eval()
            module(clip.to(gpu), selected=True)[:, -1].sum().backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
        assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in model.modules())
        assert (gradients[0] - gradients[1]).norm() < 2e-2 * gradients[0].norm()
    finally:
        distributed.leave()
