"""The table of times: attention by backend, a frame by parts, a training step, a stream's pace."""

import itertools
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.benchmarks.attention import ERFNET, PSPNET, Shape
from engine.benchmarks.stream import StageTimes
from engine.streaming.sources import SourceFrame
from engine.streaming.stream import Stream
from models import VideoSegmenter, build_lmanet
from models.inference.fast_copy import fast_copy
from models.local_attention import local_attention, why_not
from tests.gpu.conftest import HAS_GPU, Table, Time
from tests.networks import LMANetConfig
from utils.timing import Moment, synchronized_seconds

pytestmark = pytest.mark.gpu

TINY = Shape("tiny", 1, 4, 8, 1, 9, 20, 5)
SHAPES = [ERFNET, PSPNET] if HAS_GPU else [TINY]
DTYPES = [torch.float32, torch.float16] if HAS_GPU else [torch.float32]


def timed(table: Table, device: torch.device, what: str, function, flop: float = 0, most: int = 20) -> None:
    """Adds a line: the median of calls between events, none of which is waited for, and of calls waited for."""
    if table.seconds_left < 5:
        pytest.skip("no time is left")
    function()
    start = synchronized_seconds(device)
    function()
    count = max(1, min(most, int(1.0 / (synchronized_seconds(device) - start))))
    clock = []
    for _ in range(count):
        start = synchronized_seconds(device)
        function()
        clock.append(1000 * (synchronized_seconds(device) - start))
    moments = [Moment(device)]
    for _ in range(count):
        function()
        moments.append(Moment(device))
    each = [a.milliseconds_until(b) for a, b in itertools.pairwise(moments)]
    median = float(np.median(each))
    table.times.append(Time(what, median, float(np.median(clock)), flop / median / 1e9 if flop else None))


def unfold_attention(query: Tensor, keys: Tensor, values: Tensor, n: int) -> Tensor:
    """As usually written: every window is copied."""
    (b, _, h, w), t = query.shape, keys.shape[2]
    wide = [
        F.unfold(F.pad(x.transpose(1, 2).flatten(0, 1), (n // 2,) * 4), n).view(b, t, x.shape[1], n * n, h * w)
        for x in (keys, values)
    ]
    scores = torch.einsum("bcp,btcnp->btnp", query.flatten(2), wide[0])
    weights = scores.flatten(1, 2).softmax(1).view_as(scores)
    return torch.einsum("btnp,btdnp->bdp", weights, wide[1]).view(b, -1, h, w)


@torch.no_grad()
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
@pytest.mark.parametrize("backend", ["cuda" if HAS_GPU else "cpu", "flex", "portable", "unfold"])
def test_time_of_the_attention(device, table, shape, dtype, backend):
    query, keys, values = (x.to(device, dtype) for x in shape.inputs())
    if backend == "unfold":
        if shape.d > 256:
            pytest.skip("it would copy hundreds of gigabytes")
        call = lambda: unfold_attention(query, keys, values, shape.n)  # noqa: E731
    else:
        reason = why_not(backend, query, keys, values, shape.n)
        if reason:
            pytest.skip(reason)
        call = lambda: local_attention(query, keys, values, shape.n, backend=backend)  # noqa: E731
    expected = local_attention(query, keys, values, shape.n, backend="cuda" if HAS_GPU else "cpu")
    assert (call() - expected).abs().max() <= 2e-2 * expected.abs().max()
    timed(table, device, f"attention, {shape.name}, {str(dtype)[6:]}, {backend}", call, shape.flop)


@pytest.mark.parametrize("backend", ["cuda" if HAS_GPU else "cpu", "portable"])
def test_time_of_the_attentions_gradients(device, table, fused, backend):
    shape = SHAPES[0]
    leaves = [x.to(device).requires_grad_() for x in shape.inputs()]

    def call() -> None:
        torch.autograd.grad(local_attention(*leaves, shape.n, backend=backend).sum(), leaves)

    timed(table, device, f"attention, {shape.name}, forward and backward, {backend}", call, most=5)


NETWORKS = [("erf", (512, 1024), 4), ("psp101", (1025, 2049), 3)] if HAS_GPU else [("erf", (32, 64), 2)]


@pytest.mark.parametrize("amp", [None, torch.float16, torch.bfloat16] if HAS_GPU else [None], ids=str)
@pytest.mark.parametrize("baseline", [True, False], ids=["single frame", "LMANet"])
@pytest.mark.parametrize("backbone, size, frames", NETWORKS, ids=str)
def test_time_of_a_frame(device, table, backbone, size, frames, baseline, amp):
    if backbone == "psp101":
        pytest.importorskip("torchvision")
    fast = fast_copy(build_lmanet(LMANetConfig(backbone=backbone, memory_size=frames, baseline=baseline)).to(device))
    frame = torch.rand(1, 3, *size, device=device).contiguous(memory_format=torch.channels_last)
    what = f"{backbone}, {'single frame' if baseline else 'LMANet'}, {'float32' if amp is None else str(amp)[6:]}"
    with torch.inference_mode(), torch.autocast(device.type, amp or torch.bfloat16, enabled=amp is not None):
        memory = None
        for _ in range(frames):
            _, memory = fast.step(frame, memory)
        timed(table, device, what, lambda: fast.step(frame, memory))
        if baseline:
            return
        stages = StageTimes(device)  # events between the parts
        stages.attach(fast)
        for _ in range(10):
            fast.step(frame, memory)
    for stage, seconds in stages.per_frame(10).items():
        milliseconds = 1000 * float(np.median(seconds))
        table.times.append(Time(f"  of which {stage}", milliseconds, milliseconds))


@pytest.mark.parametrize("amp", [None, torch.bfloat16] if HAS_GPU else [None], ids=str)
def test_time_of_a_training_step(device, table, amp):
    size, batch = ((512, 1024), 2) if HAS_GPU else ((32, 64), 1)
    model = build_lmanet(LMANetConfig(memory_size=3)).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-5)
    clip, labels = (
        torch.rand(batch, 4, 3, *size, device=device),
        torch.zeros(batch, *size, dtype=torch.long, device=device),
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, amp or torch.bfloat16, enabled=amp is not None):
            logits = model(clip)
        F.cross_entropy(logits[:, -1].float(), labels).backward()
        optimizer.step()

    name = "float32" if amp is None else str(amp)[6:]
    timed(table, device, f"training step, erf, {batch} clips of 4 frames, {name}", step, most=5)


class Repeated:
    """A source that costs nothing to read."""

    description, fps = "the same frames again", 17.0

    def __init__(self, size: tuple[int, int], count: int):
        self.count = count
        self.frames = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i in range(2)]

    def __iter__(self):
        for position in range(self.count):
            yield SourceFrame(f"{position:06d}", self.frames[position % 2], position / self.fps)


@pytest.mark.parametrize("amp", [False, "float16"] if HAS_GPU else [False])
def test_pace_of_a_stream(device, table, amp):
    size, work_size, count = ((1024, 2048), (512, 1024), 200) if HAS_GPU else ((48, 96), (32, 64), 30)
    segmenter = VideoSegmenter(build_lmanet(LMANetConfig()), device=device, work_size=work_size, amp=amp)
    stream = Stream(segmenter, Repeated(size, count), [], CITYSCAPES_CLASSES, detect_cuts=False)
    start = time.perf_counter()
    stream.run()
    assert stream.record.frames == count and time.perf_counter() > start
    pace = stream.record.pace()
    what = f"stream, erf, frame of {size[0]}x{size[1]}, {amp or 'float32'}"
    table.times.append(Time(what, 1000 / pace["network_alone"], 1000 / pace["frames_per_second"]))
