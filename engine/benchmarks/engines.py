"""Times LMANet's step as each engine computes it, in float32 and bfloat16, and prints the table of docs/speed.md.

    python -m engine.benchmarks.engines erf torchvision/lraspp_mobilenet_v3_large

Weights are random, as the time does not depend on them. All variants of a network take turns, frame by frame.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from datasets.registry import DEFAULT, dataset_named
from engine.benchmarks.stream import Call, onnx_runtime, spread, streaming
from engine.benchmarks.tables import markdown_table
from engine.version import machine_caption
from models.choices import ENGINES, TORCH
from models.config import LMANetConfig
from models.inference.engines import use_engine
from models.inference.fast_copy import fast_copy
from models.lmanet import LMANet, build_lmanet
from utils.command import height_x_width, module_parser, run_command, run_program, whole_number
from utils.timing import seconds_in_turns

WARM_UP = 2
SINGLE = "single, onnxruntime float32"
VARIANTS = [(engine, None) for engine in ENGINES] + [(engine, torch.bfloat16) for engine in (TORCH, "openvino")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints; returns the exit status."""
    parser = module_parser("engine.benchmarks.engines", __doc__)
    parser.add_argument("backbones", nargs="+", metavar="BACKBONE", help="as for --backbone")
    parser.add_argument(
        "--work-size", type=height_x_width, default=(512, 1024), metavar="HxW", help="default: 512x1024"
    )
    parser.add_argument("--rounds", type=whole_number(1), default=7, metavar="N", help="default: %(default)s")
    return run_command(parser, arguments, lambda options: _print(options.backbones, options.work_size, options.rounds))


def _print(backbones: Sequence[str], size: tuple[int, int], rounds: int) -> None:
    rows = [{"network": f"`{name}`", **measured(name, size, rounds)} for name in backbones]
    print(markdown_table({name: name for name in rows[0]}, rows))
    print(f"\n{machine_caption(torch.device('cpu'))}")


@torch.inference_mode()
def measured(backbone: str, size: tuple[int, int], rounds: int) -> dict[str, object]:
    """Median and quartiles in milliseconds of a frame, by variant, as text."""
    config = LMANetConfig(backbone=backbone, num_classes=dataset_named(DEFAULT).classes.num_outputs)
    torch.manual_seed(0)
    model, frame = build_lmanet(config).eval(), torch.rand(1, 3, *size)
    calls = {_name(*variant): _call(model, frame, *variant) for variant in VARIANTS}
    runtime = onnx_runtime(build_lmanet(replace(config, baseline=True)).eval(), frame)
    if runtime is not None:
        calls[SINGLE] = runtime
    found = {name: spread(values) for name, values in seconds_in_turns(calls, rounds, WARM_UP).items()}
    return {name: "{median:.0f} ({quartile_1:.0f}-{quartile_3:.0f})".format_map(each) for name, each in found.items()}


def _name(engine: str, amp: torch.dtype | None) -> str:
    return f"{engine} {'float32' if amp is None else 'bfloat16'}"


def _call(model: LMANet, frame: torch.Tensor, engine: str, amp: torch.dtype | None) -> Call:
    """A call that runs one step with a full memory."""
    fast = fast_copy(model)
    if engine != TORCH:
        use_engine(fast, engine, (frame.shape[-2], frame.shape[-1]), amp)
        return streaming(fast, frame, model.config.memory_size)
    return partial(_autocast, streaming(fast, frame, model.config.memory_size), amp)


def _autocast(call: Call, amp: torch.dtype | None) -> object:
    with torch.autocast("cpu", amp or torch.bfloat16, enabled=amp is not None):
        return call()


if __name__ == "__main__":
    run_program(main)
