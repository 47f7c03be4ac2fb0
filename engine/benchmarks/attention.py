"""``python main.py --benchmark attention``: time and memory of every attention backend, and a matrix product's rate.

Timings are interleaved, in each round a float32 matrix product and each backend, so that ratios hold on a busy machine.
Memory is measured in a fresh process: the peak resident size minus that before the call.
"""

import contextlib
import ctypes
import io
import logging
import statistics
import sys
import time
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.benchmarks.own_process import in_own_process
from engine.benchmarks.tables import markdown_table
from engine.version import machine_caption, machine_lines, machine_rows, timed_versions
from models.local_attention import BACKENDS, local_attention, why_not
from utils.files import write_bytes, write_text
from utils.json_text import to_json

logger = logging.getLogger(__name__)

_PRODUCT = 1024  # side of the matrices whose product is the reference rate
_MOST_SECONDS = 20.0  # for all rounds of one backend; slow backends run fewer rounds, at least one
COLUMNS = {
    "size": "size",
    "work": "backend",
    "median": "ms, median",
    "quartiles": "quartiles",
    "best": "least",
    "rounds": "rounds",
    "rate": "of a matrix product's rate",
}

Call = tuple[Tensor, Tensor, Tensor]  # query, keys, values
Key = TypeVar("Key", bound=Hashable)


class Shape(NamedTuple):
    """Sizes of one call: query ``B C h w``, keys ``B C T h w``, values ``B D T h w``, window ``n n``."""

    name: str
    b: int
    c: int
    d: int
    t: int
    h: int
    w: int
    n: int

    @property
    def flop(self) -> int:
        """FLOP of a forward: a multiplication and an addition per channel of each score and each value."""
        return 2 * self.b * self.h * self.w * self.t * self.n**2 * (self.c + self.d)

    @property
    def io_bytes(self) -> int:
        """Bytes of inputs and output in float32."""
        return 4 * self.b * self.h * self.w * (self.c + self.d + self.t * (self.c + self.d))

    def inputs(self) -> Call:
        """Random query, keys and values, with scores of moderate size."""
        make = torch.Generator().manual_seed(0)
        shapes = (self.b, self.c, self.h, self.w), (self.b, self.c, self.t, self.h, self.w)
        values = torch.randn(self.b, self.d, self.t, self.h, self.w, generator=make)
        return *(torch.randn(shape, generator=make) * self.c**-0.25 for shape in shapes), values


ERFNET = Shape("ERFNet", 1, 16, 64, 4, 64, 128, 21)
PSPNET = Shape("PSPNet-101", 1, 128, 2048, 3, 129, 257, 21)


class Spread(NamedTuple):
    """Seconds over all rounds."""

    best: float
    quartile_1: float
    median: float
    quartile_3: float
    worst: float
    rounds: int

    @classmethod
    def of(cls, seconds: list[float]) -> "Spread":
        several = len(seconds) > 1
        low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive") if several else seconds * 3
        return cls(min(seconds), low, middle, high, max(seconds), len(seconds))


def run(output_folder: Path, device: torch.device) -> None:
    """Prints the machine and tables, the last one for ``docs/speed.md``; writes ``attention_benchmark.json``, and
    ``attention_scaling.png`` if matplotlib is installed."""
    output_folder.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {
        "machine": machine_rows(device) | timed_versions(),
        "shapes": [_measured(ERFNET, 15, device), _measured(PSPNET, 2, device)],
        "scaling": _scaling(device),
        "training_step": _training_steps(device),
    }
    write_text(output_folder / "attention_benchmark.json", to_json(report))
    _draw(report["scaling"], output_folder / "attention_scaling.png")
    print("\n".join([*machine_lines(device), *_text(report), "", table(report), "", machine_caption(device)]))


def _measured(shape: Shape, rounds: int, device: torch.device) -> dict[str, Any]:
    """Seconds, extra memory and ratios of all backends at one shape."""
    call = _moved(shape.inputs(), device)
    refused = {name: why_not(name, *call, shape.n) for name in BACKENDS if name != "auto"}
    if shape.d > 256:
        refused["reference"] = "it would keep all weights, several GB"
    names = [name for name, reason in refused.items() if reason is None]
    product = torch.randn(_PRODUCT, _PRODUCT, device=device)
    work: dict[str, Callable[[], object]] = {"matrix product": lambda: product @ product}
    for name in names:
        work[f"{name} forward"] = partial(_forward, call, shape, name)
    backwards = [name for name in names if name in ("cpu", "cuda") or (shape.d <= 256 and name == "portable")]
    for name in backwards:
        work[f"{name} backward"] = _backward(call, shape, name)
    seconds = _in_turns(work, rounds, device)
    rate = 2 * _PRODUCT**3 / seconds["matrix product"].median
    return {
        "shape": shape._asdict(),
        "gflop": shape.flop / 1e9,
        "device": str(device),
        "product_gflops": rate / 1e9,
        "seconds": {name: spread._asdict() for name, spread in seconds.items()},
        "of_product_rate": {n: shape.flop / seconds[f"{n} forward"].median / rate for n in names},
        "times_as_fast": {
            a: {b: seconds[f"{b} forward"].median / seconds[f"{a} forward"].median for b in names} for a in names
        },
        "backward_by_forward": {n: seconds[f"{n} backward"].median / seconds[f"{n} forward"].median for n in backwards},
        "extra_memory": {n: _extra_memory(shape, n, n in backwards) for n in names if device.type == "cpu"},
        "refused": {name: reason for name, reason in refused.items() if reason},
    }


def _moved(call: Call, device: torch.device) -> Call:
    query, keys, values = (x.to(device) for x in call)
    return query, keys, values


def _leaves(call: Call) -> Call:
    """The same tensors as leaves of an autograd graph, not copied."""
    query, keys, values = (x.detach().requires_grad_() for x in call)
    return query, keys, values


def _forward(call: Call, shape: Shape, backend: str) -> Tensor:
    with torch.no_grad():
        return local_attention(*call, shape.n, backend=backend)


def _backward(call: Call, shape: Shape, backend: str) -> Callable[[], object]:
    leaves = _leaves(call)
    graph: list[Tensor] = []

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(graph[0], leaves, torch.ones_like(graph[0]), retain_graph=True)

    def first() -> tuple[Tensor, ...]:
        if not graph:
            graph.append(local_attention(*leaves, shape.n, backend=backend))
        return gradients()

    return first


def _in_turns(work: dict[Key, Callable[[], object]], rounds: int, device: torch.device) -> dict[Key, Spread]:
    """Times of each function: one warm-up call, then interleaved rounds, fewer for slow functions."""
    if device.type == "cuda":
        for function in work.values():
            function()  # kernels are compiled in the first call, whose time tells nothing of the next
    left = {name: int(_MOST_SECONDS / _seconds(function, device)) for name, function in work.items()}
    seconds: dict[Key, list[float]] = {name: [] for name in work}
    for turn in range(rounds):
        for name, function in work.items():
            if turn < max(1, left[name]):
                seconds[name].append(_seconds(function, device))
    return {name: Spread.of(values) for name, values in seconds.items()}


def _seconds(function: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _extra_memory(shape: Shape, backend: str, with_backward: bool) -> dict[str, float] | None:
    """Extra memory as a multiple of inputs and output; ``None`` where the system does not report it."""
    if not sys.platform.startswith("linux"):
        return None
    return in_own_process(_extra_memory_here, shape, backend, with_backward)


def _extra_memory_here(shape: Shape, backend: str, with_backward: bool) -> dict[str, float]:
    mmap_threshold = -3
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(mmap_threshold, 1 << 16)  # so that freed memory returns to the system at once
    small = Shape("warm up", 1, 2, 2, 1, 8, 8, 3)
    local_attention(*_leaves(small.inputs()), 3, backend=backend).sum().backward()
    call = shape.inputs()
    found = {"forward": _peak(lambda: _forward(call, shape, backend)) / shape.io_bytes}
    if with_backward:
        leaves = _leaves(call)
        out = local_attention(*leaves, shape.n, backend=backend)
        grad = torch.ones_like(out)
        found["backward"] = _peak(lambda: torch.autograd.grad(out, leaves, grad)) / shape.io_bytes
    return found


def _peak(function: Callable[[], object]) -> int:
    """Bytes that a call adds to the resident size at its peak, its results included."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
    before = _status_bytes("VmRSS")
    function()
    return _status_bytes("VmHWM") - before


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _scaling(device: torch.device) -> dict[str, dict[str, Any]]:
    """Seconds of ``auto`` over T, over h * w and over n * n, each with a least-squares line."""
    few = ERFNET._replace(t=1)
    series = {
        "T": [(t, ERFNET._replace(t=t)) for t in (1, 2, 3, 4, 6, 8)],
        "h*w": [(h * 2 * h, few._replace(h=h, w=2 * h)) for h in (32, 48, 64, 80, 96, 112)],
        "n*n": [(n * n, few._replace(h=128, w=256, n=n)) for n in (5, 9, 13, 17, 21, 25, 29)],
    }
    found = {}
    for name, points in series.items():
        work: dict[int, Callable[[], object]] = {
            x: partial(_forward, _moved(shape.inputs(), device), shape, "auto") for x, shape in points
        }
        seconds = _in_turns(work, 9, device)
        found[name] = _line([float(x) for x in seconds], [spread.best for spread in seconds.values()])
    return found


def _line(x: list[float], y: list[float]) -> dict[str, Any]:
    slope, intercept = statistics.linear_regression(x, y)
    return {"x": x, "seconds": y, "slope": slope, "intercept": intercept, "r2": statistics.correlation(x, y) ** 2}


def _training_steps(device: torch.device) -> dict[str, dict[str, Any]]:
    """A training step of LMANet-ERFNet on a clip of 512x1024 with the portable and with the fastest attention."""
    from datasets.registry import DEFAULT, dataset_named  # only here: the rest needs no network
    from models import LMANetConfig, build_lmanet

    clip = torch.rand(1, 4, 3, 512, 1024, generator=torch.Generator().manual_seed(0)).to(device)
    labels = torch.zeros(1, 512, 1024, dtype=torch.long, device=device)
    num_classes = dataset_named(DEFAULT).classes.num_outputs

    def step(backend: str) -> Callable[[], None]:
        torch.manual_seed(0)
        config = LMANetConfig(backbone="erf", memory_size=3, attention_backend=backend, num_classes=num_classes)
        model = build_lmanet(config).to(device).train()
        optimizer = torch.optim.Adam(model.parameters(), 1e-5)

        def one() -> None:
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(clip)[:, -1], labels).backward()
            optimizer.step()

        return one

    seconds = _in_turns({"portable": step("portable"), "auto": step("auto")}, 3, device)
    return {name: spread._asdict() for name, spread in seconds.items()}


def _draw(scaling: dict[str, dict[str, Any]], path: Path) -> None:
    try:
        from matplotlib.figure import Figure  # works without a display
    except ImportError:
        logger.info("matplotlib is not installed, so there is no %s", path.name)
        return
    figure = Figure(figsize=(12, 3.5), layout="constrained")
    for axes, (name, line) in zip(figure.subplots(1, len(scaling), squeeze=False)[0], scaling.items(), strict=True):
        ends = [0.0, max(line["x"])]
        axes.plot(ends, [1e3 * (line["intercept"] + line["slope"] * x) for x in ends], color="silver")
        axes.plot(line["x"], [1e3 * y for y in line["seconds"]], "o")
        axes.set(xlabel=name, ylabel="ms, best of 9", ylim=(0, None), title=f"R² = {line['r2']:.4f}")
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    write_bytes(path, png.getvalue())


def _text(report: dict[str, Any]) -> list[str]:
    lines = []
    for found in report["shapes"]:
        sizes = " ".join(f"{key}={value}" for key, value in list(found["shape"].items())[1:])
        lines += ["", f"{found['shape']['name']}: {sizes}; {found['gflop']:.2f} GFLOP forward, on {found['device']}"]
        lines += [f"{'':22}{'best':>10}{'median':>10}{'worst':>10}  rounds"]
        for name, s in found["seconds"].items():
            times = "".join(f"{1e3 * s[key]:10.2f}" for key in ("best", "median", "worst"))
            lines.append(f"{name:22}{times}  {s['rounds']} (ms)")
        lines.append(f"matrix product of {_PRODUCT}: {found['product_gflops']:.0f} GFLOP/s")
        for name, ratio in found["of_product_rate"].items():
            others = ", ".join(f"{r:.2f} x {b}" for b, r in found["times_as_fast"][name].items() if b != name)
            lines.append(f"{name}: {ratio:.2f} of that rate; as fast as {others or '-'}")
        for name, ratio in found["backward_by_forward"].items():
            lines.append(f"{name}: backward {ratio:.2f} forwards")
        for name, memory in found["extra_memory"].items():
            if memory:
                sizes = ", ".join(f"{way} {ratio:.2f}" for way, ratio in memory.items())
                lines.append(f"{name}: extra memory by inputs plus output: {sizes}")
        lines += [f"{name}: not measured, {reason}" for name, reason in found["refused"].items()]
    lines.append("")
    for name, line in report["scaling"].items():
        points = ", ".join(f"{x:g}: {1e3 * y:.2f}" for x, y in zip(line["x"], line["seconds"], strict=True))
        lines.append(f"ms over {name}: {points}; R² of the line {line['r2']:.4f}")
    for name, s in report["training_step"].items():
        lines.append(f"training step of LMANet-ERFNet, 4 frames of 512x1024, {name}: median {s['median']:.2f} s")
    return lines


def table(report: dict[str, Any]) -> str:
    """All backends at all shapes as a Markdown table."""
    rows = []
    for found in report["shapes"]:
        for work, s in found["seconds"].items():
            rate = found["of_product_rate"].get(work.removesuffix(" forward"))
            milliseconds = {key: 1e3 * s[key] for key in ("median", "quartile_1", "quartile_3", "best")}
            rows.append(
                {
                    "size": found["shape"]["name"],
                    "work": work,
                    "median": f"{milliseconds['median']:.2f}",
                    "quartiles": f"{milliseconds['quartile_1']:.2f} to {milliseconds['quartile_3']:.2f}",
                    "best": f"{milliseconds['best']:.2f}",
                    "rounds": s["rounds"],
                    "rate": None if rate is None else f"{rate:.2f}",
                }
            )
    return markdown_table(COLUMNS, rows, texts=2)
