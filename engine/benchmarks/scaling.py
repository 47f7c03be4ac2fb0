"""``--benchmark scaling``: how the time and the memory of a frame grow, along one axis at a time, against operations.

Each axis goes through a base point, that of the options: frames in the memory (T), window (n), size of frames, batch,
threads. The points of an axis take turns, so that other load of the machine affects them equally, and run in a process
of their own, so that their memory is their own. Weights are random. Axes of earlier calls in the same folder stay, so
that a long run can be split.
"""

import gc
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from engine.benchmarks.growth import REPORT, plot, scaling_csv, scaling_text
from engine.benchmarks.own_process import in_own_process
from engine.benchmarks.stream import STAGES, StageTimes, seconds_between, spread, stages_of
from engine.options.plugins import load_plugins
from engine.options.settings import NetworkSettings
from engine.version import machine_lines, machine_rows, timed_versions
from models.config import LMANetConfig
from models.inference.fast_copy import fast_copy
from models.lmanet import LMANet, build_lmanet
from models.memory import FrameMemory
from utils.allocator import keep_freed_memory, return_freed_memory
from utils.errors import OptionError
from utils.files import write_bytes, write_text
from utils.json_text import to_json
from utils.timing import Moment

ROUNDS, WARM_UP = 5, 1
FRAMES, WINDOWS, BATCHES = (1, 2, 4, 6, 8), (5, 11, 21, 31, 41), (1, 2, 3, 4)
SCALES = (0.5, 0.75, 1, 1.5, 2)  # of height and width
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Point:
    """What a frame is measured with: all values but one are those of the base point."""

    frames: int
    window: int
    height: int
    width: int
    batch: int
    threads: int


def run(
    network: NetworkSettings,
    axes: Sequence[str],
    plugins: Sequence[str],
    device: torch.device,
    folder: Path,
    rounds: int | None = None,
) -> dict[str, Any]:
    """Measures the axes, prints a table, writes it (Markdown, CSV, JSON) and a plot; returns the content of the JSON.

    Raises ``OptionError`` where the folder holds axes of another base point or machine.
    """
    config = network.config
    base = Point(config.memory_size, config.corr_size, *network.work_size, 1, torch.get_num_threads())
    head: dict[str, Any] = {
        "backbone": config.backbone,
        "device": str(device),
        "base": asdict(base),
        "machine": machine_rows(device) | timed_versions(),
    }
    report: dict[str, Any] = head | {"axes": _earlier(folder / f"{REPORT}.json", head)}
    print("\n".join([*machine_lines(device), ""]), flush=True)
    for axis in tqdm(axes, "axes", disable=None, leave=False):
        points = points_of(axis, base, config, device)
        if len(points) > 1:
            report["axes"][axis] = in_own_process(measured, points, config, plugins, device, rounds or ROUNDS)
            write_text(folder / f"{REPORT}.json", to_json(report))
    if not report["axes"]:
        raise OptionError(f"--axes {' '.join(axes)}: has no effect on {device}: expected another, such as --axes T")
    text = scaling_text(report, device)
    write_text(folder / f"{REPORT}.md", text)
    write_text(folder / f"{REPORT}.csv", scaling_csv(report))
    write_bytes(folder / f"{REPORT}.png", plot(report))
    print(text)
    return report


def _earlier(path: Path, head: dict[str, Any]) -> dict[str, Any]:
    """The axes that an earlier call has written there."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        axes = found["axes"]
    except (ValueError, KeyError, TypeError) as error:
        raise OptionError(f"{path}: expected a report of --benchmark scaling: give another --savedir") from error
    for name, value in head.items():
        if found.get(name) != value:
            raise OptionError(
                f"{path}: was measured with {name} {found.get(name)}, this is {value}: expected the same for all axes; "
                "give another --savedir"
            )
    return axes


def points_of(axis: str, base: Point, config: LMANetConfig, device: torch.device) -> dict[str, Point]:
    """The points of an axis by their label, the base point among them; none where it has no effect."""
    if axis == "T":
        return {str(frames): replace(base, frames=frames) for frames in sorted({*FRAMES, base.frames})}
    if axis == "n":
        windows = sorted({*WINDOWS, base.window}) if config.local else []
        return {str(window): replace(base, window=window) for window in windows}
    if axis == "batch":
        return {str(batch): replace(base, batch=batch) for batch in BATCHES}
    if axis == "threads":
        counts = {2**power for power in range(base.threads.bit_length())} | {base.threads}
        return {str(count): replace(base, threads=count) for count in sorted(counts) if device.type == "cpu"}
    sizes = {config.traits.size_above((round(scale * base.height), round(scale * base.width))) for scale in SCALES}
    return {f"{height}x{width}": replace(base, height=height, width=width) for height, width in sorted(sizes)}


def measured(
    points: dict[str, Point], config: LMANetConfig, plugins: Sequence[str], device: torch.device, rounds: int
) -> dict[str, dict[str, Any]]:
    """Operations, milliseconds and MiB of a frame at each point, whole and by stages."""
    load_plugins(plugins)
    return_freed_memory()
    found: dict[str, dict[str, Any]] = {}
    steps: dict[str, Step] = {}
    stages: dict[str, StageTimes] = {}
    moments: dict[str, list[tuple[Moment, Moment]]] = {label: [] for label in points}
    before = torch.get_num_threads()
    try:
        with torch.inference_mode():
            Step(config, next(iter(points.values())), device).fill()  # loads what is loaded once
            for label, point in points.items():
                torch.set_num_threads(point.threads)
                step = steps[label] = Step(config, point, device)
                mebibytes = peak_of(step.fill, device)
                found[label] = asdict(point) | {"mebibytes": mebibytes, "operations": step.operations()}
                stages[label] = StageTimes(device)
                stages[label].attach(step.model)
            keep_freed_memory()
            for turn in range(WARM_UP + rounds):
                for label, step in steps.items():
                    torch.set_num_threads(points[label].threads)
                    if turn == WARM_UP:
                        stages[label].clear()
                    start = Moment(device)
                    step()
                    if turn >= WARM_UP:
                        moments[label].append((start, Moment(device)))
    finally:
        torch.set_num_threads(before)
    for label, pairs in moments.items():
        whole = {"whole": spread(seconds_between(pairs))}
        by_stage = {name: spread(seconds) for name, seconds in stages[label].per_frame(rounds).items()}
        found[label]["milliseconds"] = whole | by_stage
    return found


class Step:
    """One step of a stream at a point, with a full memory."""

    def __init__(self, config: LMANetConfig, point: Point, device: torch.device):
        torch.manual_seed(0)
        config = replace(config, memory_size=point.frames, corr_size=point.window)
        self._plain = build_lmanet(config).eval().to(device)
        self.model: LMANet = fast_copy(self._plain)
        frames = torch.rand(point.batch, 3, point.height, point.width)
        self._frames = frames.to(device).to(memory_format=torch.channels_last)
        self._memory: FrameMemory | None = None

    def fill(self) -> None:
        """Fills the memory, and makes a step."""
        for _ in range(self.model.config.memory_size):
            self._memory = self.model.memorize(self._frames, self._memory)
        self()

    def __call__(self) -> None:
        self.model.step(self._frames, self._memory)

    def operations(self) -> dict[str, float]:
        """Two for each multiplication that is added, whole and by stages; of the memory's push, numbers written.

        They are those of the network itself, whatever its fast copy computes. The memory must have been filled.
        """
        assert self._memory is not None
        counts = dict.fromkeys(STAGES, 0.0)
        memory = self._plain.memorize(self._frames)
        with FlopCounterMode(display=False) as counter:

            def start(stage: str, part: nn.Module, inputs: tuple) -> None:
                counts[stage] -= counter.get_total_flops()

            def end(stage: str, part: nn.Module, inputs: tuple, output: object) -> None:
                counts[stage] += counter.get_total_flops()

            parts = stages_of(self._plain)
            hooks = [part.register_forward_pre_hook(partial(start, stage)) for stage, part in parts]
            hooks += [part.register_forward_hook(partial(end, stage)) for stage, part in parts]
            self._plain.step(self._frames, memory)
            for hook in hooks:
                hook.remove()
        keys, values, window = self._memory.keys, self._memory.values, self.model.config.corr_size
        (batch, c, frames, h, w), d = keys.shape, values.shape[1]
        neighbors = window**2 if self.model.config.local else h * w
        counts["attention"] = 2.0 * batch * h * w * frames * neighbors * (c + d)
        whole = sum(counts.values())
        counts["push"] = float(batch * h * w * (c + d))
        return {"whole": whole} | {stage: count for stage, count in counts.items() if count}


def peak_of(call: Callable[[], object], device: torch.device) -> float | None:
    """MiB that a call adds to what is allocated (CUDA) or resident (Linux) at its peak; ``None`` elsewhere."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1)
    if not sys.platform.startswith("linux"):
        call()
        return None
    CLEAR.write_text("5")  # sets the peak to what is resident now
    before = _status_kibibytes("VmRSS")
    call()
    return round((_status_kibibytes("VmHWM") - before) / 2**10, 1)


def _status_kibibytes(field: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))
