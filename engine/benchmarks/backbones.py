"""``--benchmark backbones``: several networks at one size of frames, with and without a memory, in a table and a plot.

Each network is measured in a process of its own, so that its peak memory is its own. Weights are random, as the time
does not depend on them; the variants of a network take turns, frame by frame. Measured is what a stream does, from a
frame of the working size to its labels; ONNX Runtime returns logits.
"""

import io
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from tqdm import tqdm

from engine.benchmarks import pipeline as benchmark_pipeline
from engine.benchmarks import tables
from engine.benchmarks.own_process import in_own_process
from engine.benchmarks.stream import onnx_runtime
from engine.options.plugins import load_plugins
from engine.options.settings import NetworkSettings
from engine.version import machine_caption, machine_lines
from models.config import LMANetConfig
from models.description import numel
from models.inference.segmenter import VideoSegmenter
from models.lmanet import LMANet, build_lmanet
from utils.class_set import ClassSet
from utils.errors import OptionError
from utils.files import write_bytes, write_text
from utils.sizes import format_size
from utils.timing import peak_mebibytes, seconds_in_turns

log = logging.getLogger(__name__)

WARM_UP, ROUNDS = 2, 5
CALIBRATION_FRAMES = 4
REPORT = "benchmark_backbones"
TIMES = ("single", "LMANet", "LMANet int8", "ONNX Runtime single")
COLUMNS = {
    "network": "network",
    "size": "frames",
    "parameters": "parameters, M",
    "gflop": "GFLOP",
    **{name: f"ms {name}" for name in TIMES},
    "pipeline": "frames/s, whole int8 stream",
    "memory": "peak MiB, LMANet",
}
Row = dict[str, object]
Made = TypeVar("Made")


@dataclass(frozen=True)
class _Task:
    """What a process is told: all of it can be sent there."""

    config: LMANetConfig
    classes: ClassSet
    work_size: tuple[int, int]
    plugins: tuple[str, ...]
    threads: int
    rounds: int


def run(
    network: NetworkSettings,
    backbones: Sequence[str],
    plugins: Sequence[str],
    folder: Path,
    rounds: int = ROUNDS,
) -> list[Row]:
    """Measures each of ``backbones`` on the CPU; writes a table (Markdown, CSV) and a plot, prints the first.

    A network that cannot be measured is left out, with the reason in the log. Raises ``OptionError`` where none can.
    """
    rows: list[Row] = []
    for name in tqdm(backbones, "networks", disable=None, leave=False):
        try:
            task = _Task(
                replace(network.config, backbone=name, fusion=""),
                network.classes,
                network.work_size,
                tuple(plugins),
                torch.get_num_threads(),
                rounds,
            )
            rows.append(in_own_process(measured, task))
        except OptionError as error:
            log.warning("%s is left out: %s", name, error)
    if not rows:
        raise OptionError("none of the networks can be measured: expected one that can, such as --backbones erf")
    text = markdown(rows, torch.get_num_threads())
    write_text(folder / f"{REPORT}.md", text)
    write_text(folder / f"{REPORT}.csv", comma_separated(rows))
    write_bytes(folder / f"{REPORT}.png", plot(rows))
    print("\n".join([*machine_lines(torch.device("cpu")), "", text]))
    return rows


def measured(task: _Task) -> Row:
    """The row of one network."""
    torch.set_num_threads(task.threads)
    load_plugins(task.plugins)
    torch.manual_seed(0)
    traits = task.config.traits
    height, width = traits.size_above(task.work_size)
    model = build_lmanet(task.config, task.classes, (height, width)).eval()
    single = build_lmanet(replace(task.config, baseline=True), task.classes, (height, width)).eval()
    frame = torch.rand(1, 3, height, width)
    image = torch.randint(0, 256, frame.shape, dtype=torch.uint8)
    row: Row = {
        "network": task.config.backbone,
        "size": format_size((height, width)),
        "parameters": round(numel(single.parameters()) / 1e6, 2),
        "gflop": round(floating_point_operations(single, frame) / 1e9, 2),
    }
    with torch.inference_mode():
        calls = {TIMES[1]: labeling(VideoSegmenter(model), image)}
        for _ in range(WARM_UP):
            calls[TIMES[1]]()
        row["memory"] = peak_mebibytes()  # before anything else has been computed
        calls[TIMES[0]] = labeling(VideoSegmenter(single), image)
        quantized = _tried(task, TIMES[2], lambda: VideoSegmenter(model, int8_frames=_frames(height, width)))
        if quantized is not None:
            calls[TIMES[2]] = labeling(quantized, image)
        runtime = _tried(task, TIMES[3], lambda: onnx_runtime(single, frame))
        if runtime is not None:
            calls[TIMES[3]] = runtime
        row |= {name: round(1000 * seconds, 1) for name, seconds in _medians(calls, task.rounds).items()}
    if quantized is not None and benchmark_pipeline.is_possible():
        row["pipeline"] = round(benchmark_pipeline.run(quantized, task.classes)["frames_per_second"], 2)
    return row


def _tried(task: _Task, what: str, make: Callable[[], Made | None]) -> Made | None:
    """What is made; ``None``, with a line in the log, where it cannot be."""
    try:
        return make()
    except Exception as error:  # whatever an exporter raises for a network of others
        log.warning("%s, %s: not measured (%s)", task.config.backbone, what, " ".join(str(error).split())[:200])
        return None


def labeling(segmenter: VideoSegmenter, image: torch.Tensor) -> Callable[[], object]:
    """A call that labels a prepared frame, with a full memory."""
    for _ in range(segmenter.model.config.memory_size):
        segmenter.step(image)
    return lambda: segmenter.step(image).label_map


def _frames(height: int, width: int) -> list[np.ndarray]:
    """Frames for a calibration of which only the time is measured."""
    numbers = np.random.default_rng(0)
    return [numbers.integers(0, 256, (height, width, 3), np.uint8) for _ in range(CALIBRATION_FRAMES)]


def _medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, after a warm-up."""
    return {name: statistics.median(values) for name, values in seconds_in_turns(calls, rounds, WARM_UP).items()}


def floating_point_operations(single: LMANet, frame: torch.Tensor) -> int:
    """Of one frame of a single-frame network: two for each multiplication that is added."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        single.single_frame(frame)
    return int(counter.get_total_flops())


def markdown(rows: Sequence[Row], threads: int) -> str:
    """The rows as a table, the processor and its threads below it."""
    named = [row | {"network": f"`{row['network']}`"} for row in rows]
    lines = [tables.markdown_table(COLUMNS, named, texts=2), "", machine_caption(torch.device("cpu"), threads), ""]
    return "\n".join(lines)


def comma_separated(rows: Sequence[Row]) -> str:
    """The rows as CSV, with the columns of the table."""
    return tables.comma_separated(COLUMNS, rows)


def plot(rows: Sequence[Row]) -> bytes:
    """A PNG: bars of milliseconds a frame, one group a network."""
    import matplotlib
    from matplotlib.figure import Figure

    from engine.reports.plots import BLUE, GRAY, GREEN, LOOKS, VERMILION

    with matplotlib.rc_context(LOOKS):
        figure = Figure(figsize=(9, 0.8 + 0.75 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for number, (name, color) in enumerate(zip(TIMES, (BLUE, VERMILION, GREEN, GRAY), strict=True)):
            values = [value if isinstance(value := row.get(name), float) else 0.0 for row in rows]
            axes.barh([place + 0.2 * number for place in range(len(rows))], values, 0.18, label=name, color=color)
        axes.set_yticks([place + 0.3 for place in range(len(rows))], [str(row["network"]) for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel("milliseconds a frame")
        axes.legend()
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
