"""``--benchmark stream``: time of one frame of a stream, by stages, and of the same backbone without a memory.

All variants take turns, frame by frame, so that other load of the machine affects them equally. Weights are random, as
the time does not depend on them. On CUDA the marks between stages are events: nothing waits until the last round.
"""

import itertools
import logging
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from engine.benchmarks import pipeline as benchmark_pipeline
from engine.benchmarks.own_process import in_own_process
from engine.benchmarks.tables import markdown_table
from engine.options.settings import NetworkSettings, StreamSettings
from engine.version import machine_caption, machine_lines, machine_rows, timed_versions
from models.choices import ENGINES, SMOOTHINGS, TORCH
from models.inference.engines import use_engine
from models.inference.fast_copy import fast_copy
from models.inference.int8 import quantize
from models.inference.smoothing import Smoother
from models.lmanet import LMANet, build_lmanet
from utils.files import write_text
from utils.json_text import to_json
from utils.sizes import format_size, height_width
from utils.timing import Moment
from utils.waiting_threads import as_without_other_runtimes

log = logging.getLogger(__name__)

WARM_UP, ROUNDS = 3, 20
REPORT = "benchmark_stream.json"
LMANET, SINGLE, PLAIN, RUNTIME = (
    "LMANet",
    "single frame",
    "single frame, plain eager NCHW",
    "single frame, ONNX Runtime",
)
COMPILED, INT8 = ", compiled", ", int8"
SMOOTHING = "smoothing, "  # beginning of the names of the stages that --smooth adds
CALIBRATION_FRAMES = 4
STAGES = ("encoder", "heads", "attention", "fusion", "decoder", "push")
COLUMNS = {
    "name": "a frame",
    "median": "ms, median",
    "quartiles": "quartiles",
    "least": "least",
    "ratio": f"times the {SINGLE}",
}

Call = Callable[[], object]


def run(
    network: NetworkSettings,
    settings: StreamSettings,
    device: torch.device,
    folder: Path,
    plugins: Sequence[str] = (),
    rounds: int | None = None,
) -> dict:
    """Measures, prints the machine and a table as in ``docs/speed.md``, writes ``benchmark_stream.json``, whose content
    it returns.

    Int8 networks are calibrated on random frames, as only their time is measured. An engine that is named is measured
    beside PyTorch, on the CPU.
    """
    rounds, config, size = rounds or ROUNDS, network.config, network.work_size
    torch.manual_seed(0)
    model = build_lmanet(config).eval().to(device)
    single = build_lmanet(replace(config, baseline=True)).eval().to(device)
    frame = torch.rand(1, 3, *size, device=device)
    moments: dict[str, list[tuple[Moment, Moment]]] = {}
    stages = StageTimes(device)
    with torch.inference_mode():
        calls = {LMANET: streaming(fast_copy(model), frame, config.memory_size, stages)}
        calls[SINGLE], calls[PLAIN] = streaming(fast_copy(single), frame), lambda: single.step(frame)
        if settings.compile:
            log.info("compiling, with warm-up: this takes minutes")
            calls[LMANET + COMPILED] = streaming(fast_copy(model, compiled=True), frame, config.memory_size)
            calls[SINGLE + COMPILED] = streaming(fast_copy(single, compiled=True), frame)
        if settings.int8 is not None:
            frames = [torch.rand(1, 3, *size) for _ in range(CALIBRATION_FRAMES)]
            for name, each, frames_kept in ((LMANET, model, config.memory_size), (SINGLE, single, 0)):
                fast = fast_copy(each)
                quantize(fast, frames)
                calls[name + INT8] = streaming(fast, frame, frames_kept)
        if settings.engine != TORCH:
            for name, each, frames_kept in ((LMANET, model, config.memory_size), (SINGLE, single, 0)):
                fast, amp = fast_copy(each), None if settings.amp is None else getattr(torch, settings.amp)
                use_engine(fast, settings.engine, size, amp)
                calls[name + engine_suffix(settings.engine, settings.amp)] = streaming(fast, frame, frames_kept)
        if device.type == "cpu" and (runtime := onnx_runtime(single, frame)) is not None:
            calls[RUNTIME] = runtime
        logits = single.step(frame)[0]
        smoothing = {SMOOTHING + kind: smoothing_step(kind, logits, size) for kind in SMOOTHINGS}
        calls |= smoothing
        for turn in tqdm(range(WARM_UP + rounds), "benchmark", disable=None, leave=False):
            if turn == WARM_UP:
                moments.clear()
                stages.clear()
            for name, call in calls.items():
                start = Moment(device)
                call()
                moments.setdefault(name, []).append((start, Moment(device)))
    del calls  # frees their networks, which the pipeline does not need
    pipeline = None
    if benchmark_pipeline.is_possible():
        with as_without_other_runtimes():  # of a stream in float32, whatever else was measured here
            pipeline = in_own_process(
                benchmark_pipeline.run_of_network,
                *(config, network.classes, size, device, torch.get_num_threads(), plugins),
            )
    seconds = {name: seconds_between(pairs) for name, pairs in moments.items()}
    report = {
        "frame_size": list(size),
        "network": {"backbone": config.backbone, "memory_size": config.memory_size, "corr_size": config.corr_size},
        "device": str(device),
        "machine": machine_rows(device) | timed_versions(),
        "threads": torch.get_num_threads(),
        "rounds": rounds,
        "milliseconds": {name: spread(values) for name, values in seconds.items() if name not in smoothing},
        "stages": {
            **{name: spread(values) for name, values in stages.per_frame(rounds).items()},
            **{name: spread(seconds[name]) for name in smoothing},
        },
        "ratios": ratios(seconds),
        "pipeline": pipeline,
    }
    write_text(folder / REPORT, to_json(report))
    print("\n".join([*machine_lines(device), "", *summary(report), "", table(report), "", caption(report, device)]))
    return report


def streaming(model: LMANet, frame: torch.Tensor, memory_size: int = 0, stages: "StageTimes | None" = None) -> Call:
    """A call that runs one step with a full memory; ``stages`` records the time of each stage."""
    frame, memory = frame.to(memory_format=torch.channels_last), None
    for _ in range(memory_size):
        _, memory = model.step(frame, memory)
    if stages is not None:
        stages.attach(model)
    return lambda: model.step(frame, memory)


def smoothing_step(kind: str, logits: torch.Tensor, size: tuple[int, int]) -> Call:
    """A call that smooths the logits of the next of two frames that take turns; they are smooth, as pictures are."""
    smoother = Smoother(kind, None, size, logits.device, detect_cuts=False)
    coarse = torch.rand(1, 3, *(max(1, side // 8) for side in size))
    picture = (255 * F.interpolate(coarse, size, mode="bicubic").clamp(0, 1)).to(torch.uint8)
    frames = itertools.cycle((picture, picture.roll(2, dims=3)))
    return lambda: smoother.average(logits, smoother.motion(next(frames), height_width(logits.shape)))


def stages_of(model: LMANet) -> list[tuple[str, nn.Module]]:
    """The modules of a network with a memory, each with the name of its stage."""
    parts = {"encoder": model.encoder, "attention": model.read, "fusion": model.fusion, "decoder": model.decoder}
    return [*parts.items(), ("heads", model.query_head), ("heads", model.memory_head), ("push", model.push)]


class StageTimes:
    """Records the seconds of the stages of a network, by hooks around the calls of its modules."""

    def __init__(self, device: torch.device):
        self.device = device
        self.moments: dict[str, list[tuple[Moment, Moment]]] = {name: [] for name in STAGES}
        self._start: Moment | None = None

    def attach(self, model: LMANet) -> None:
        """Adds hooks to the modules of ``model``; a baseline has no stages."""
        if model.config.baseline:
            return
        for stage, part in stages_of(model):
            part.register_forward_pre_hook(self._starting)
            part.register_forward_hook(partial(self._ended, stage))

    def clear(self) -> None:
        """Drops the times so far, as those of the warm-up."""
        for pairs in self.moments.values():
            pairs.clear()

    def per_frame(self, frames: int) -> dict[str, list[float]]:
        """Seconds of each stage in each frame, summed over its calls in the frame."""
        found = {}
        for stage, pairs in self.moments.items():
            values = seconds_between(pairs)
            calls = len(values) // frames
            if calls:
                found[stage] = [sum(values[i : i + calls]) for i in range(0, len(values), calls)]
        return found

    def _starting(self, part: nn.Module, arguments: tuple) -> None:
        self._start = Moment(self.device)  # no stage contains another

    def _ended(self, stage: str, part: nn.Module, arguments: tuple, output: object) -> None:
        assert self._start is not None
        self.moments[stage].append((self._start, Moment(self.device)))


def seconds_between(pairs: list[tuple[Moment, Moment]]) -> list[float]:
    """Seconds between two moments each."""
    return [start.milliseconds_until(end) / 1000 for start, end in pairs]


def onnx_runtime(single: LMANet, frame: torch.Tensor) -> Call | None:
    """A call of the single-frame network in ONNX Runtime; ``None`` where that is not installed."""
    try:
        import onnxruntime  # noqa: F401

        from models.inference.onnx import export_single_frame, runtime_session
    except ImportError as error:
        log.info("ONNX Runtime is not measured: %s is not installed", error.name)
        return None
    session = runtime_session(export_single_frame(single, height_width(frame.shape)))
    inputs = {session.get_inputs()[0].name: frame.numpy()}
    return lambda: session.run(None, inputs)


def spread(values: list[float]) -> dict[str, float]:
    """Median, quartiles and minimum in milliseconds, of seconds."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    found = {"median": middle, "quartile_1": low, "quartile_3": high, "least": min(values)}
    return {name: round(1000 * value, 3) for name, value in found.items()}


def engine_suffix(engine: str, amp: str | None) -> str:
    """What the names of a network's variants end with that another engine computes."""
    return f", {engine} {amp or 'float32'}"


def ratios(seconds: dict[str, list[float]]) -> dict[str, float]:
    """Ratios of the times of two variants in the same round: medians over the rounds."""
    pairs = [(LMANET, SINGLE), (LMANET, PLAIN), (LMANET + COMPILED, RUNTIME), (LMANET + COMPILED, SINGLE + COMPILED)]
    pairs += [(SMOOTHING + kind, SINGLE) for kind in SMOOTHINGS]
    pairs += [(LMANET + INT8, under) for under in (SINGLE + INT8, RUNTIME, LMANET)] + [(SINGLE + INT8, RUNTIME)]
    suffixes = [engine_suffix(engine, amp) for engine in ENGINES for amp in (None, "bfloat16")]
    pairs += [(LMANET + suffix, SINGLE + suffix) for suffix in suffixes]
    pairs += [(LMANET + suffix, under) for suffix in suffixes for under in (LMANET, RUNTIME)]
    return {
        f"{over} / {under}": round(
            statistics.median(a / b for a, b in zip(seconds[over], seconds[under], strict=True)), 4
        )
        for over, under in pairs
        if over in seconds and under in seconds
    }


def summary(report: dict) -> list[str]:
    """The ratios, and the pace of the whole stream, as lines."""
    lines = [f"{name}: {value:.3f}" for name, value in report["ratios"].items()]
    found = report["pipeline"]
    if found is not None:
        lines.append(
            f"pipeline, H.264 in, overlay and label PNGs out: {found['frames_per_second']:.2f} frames a second, "
            f"{found['share_of_network_alone']:.3f} of the network alone"
        )
    return lines


def table(report: dict) -> str:
    """Variants and stages as a Markdown table."""
    rows = []
    for name, each in [*report["milliseconds"].items(), *((f"– {k}", v) for k, v in report["stages"].items())]:
        times = {key: f"{each[key]:.1f}" for key in ("median", "least")}
        quartiles = f"{each['quartile_1']:.1f} to {each['quartile_3']:.1f}"
        ratio = each["median"] / report["milliseconds"][SINGLE]["median"]
        rows.append({"name": name, **times, "quartiles": quartiles, "ratio": f"{ratio:.2f}"})
    return markdown_table(COLUMNS, rows)


def caption(report: dict, device: torch.device) -> str:
    """What was measured, and on which machine, in two sentences."""
    network, found = report["network"], report["pipeline"]
    sizes = f"{format_size(report['frame_size'])}, T = {network['memory_size']}, n = {network['corr_size']}"
    whole = ""
    if found is not None:
        whole = (
            f"; a whole stream with overlay and label PNGs {found['frames_per_second']:.2f} frames/s, "
            f"{found['share_of_network_alone']:.3f} of the network alone"
        )
    return f"`{network['backbone']}`, {sizes}, {report['rounds']} rounds{whole}. {machine_caption(device)}"
