"""The options of ``--stream`` and their checks. Imports no torch."""

import argparse

from engine.options.option import add_to
from engine.options.settings import AUTO, NO_WEIGHTS, SKIP_DAMAGE
from engine.streaming.output import output_options, registered_outputs
from models.choices import DEFAULT_SMOOTHING_WEIGHT, ENGINES, SMOOTHINGS, TORCH
from utils.errors import OptionError

BENCHMARKS = ("attention", "stream", "backbones", "scaling")
AXES = ("T", "n", "size", "batch", "threads")  # of --benchmark scaling
# Networks of --benchmark backbones that take few milliseconds a frame, of all libraries.
BENCHMARKED = (
    "erf",
    "lraspp_small",
    "torchvision/lraspp_mobilenet_v3_large@classifier.scale",
    "torchvision/lraspp_mobilenet_v3_large",
    "smp/Unet:tu-mobilenetv3_small_100",
    "smp/DeepLabV3Plus:tu-mobilenetv3_large_100",
    "smp/FPN:resnet18",
    "smp/Segformer:mit_b0",
)
STREAM_DEFAULTS = {
    "live": None,
    "every": 1,
    "no_cut_detection": False,
    "on_damage": SKIP_DAMAGE,
    "overwrite": False,
}


def add_stream_group(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``--stream`` and of its outputs to a parser."""
    group = parser.add_argument_group("stream")
    group.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        help="take the newest frame and drop older ones, so that labels do not fall behind; a recording is played at "
        "its pace; --no-: label every frame (default: on for cameras and network streams)",
    )
    group.add_argument("--every", type=int, default=1, metavar="K", help="memorize every Kth frame")
    group.add_argument("--no-cut-detection", action="store_true", help="do not clear the memory at detected scene cuts")
    add_to(group, output_options())
    group.add_argument(
        "--on-damage",
        choices=(SKIP_DAMAGE, "stop"),
        default=SKIP_DAMAGE,
        metavar="WHAT",
        help="frames that cannot be decoded: skip (leave them out, count them, and end with status 1) or stop there",
    )
    group.add_argument(
        "--consistency",
        action="store_true",
        help="measure temporal consistency, with and without the memory; also with --eval-mode",
    )
    group.add_argument(
        "--smooth",
        choices=SMOOTHINGS,
        metavar="KIND",
        help="average the probabilities over time: average (where they are) or flow (along the motion of the video, "
        "by optical flow); also with --eval-mode --consistency",
    )
    group.add_argument(
        "--smooth-weight",
        type=_weight,
        metavar="W",
        help="with --smooth: weight of the past, 0 or more and below 1, or auto, with --eval-mode: the best one on "
        "training clips (default: "
        + ", ".join(f"{kind} {weight:g}" for kind, weight in DEFAULT_SMOOTHING_WEIGHT.items())
        + ")",
    )
    group.add_argument(
        "--compile", action="store_true", help="compile the network first, which takes a minute; then it is faster"
    )
    group.add_argument(
        "--int8",
        nargs="?",
        const="",
        metavar="SOURCE",
        help="compute in 8-bit integers, on the CPU by ONNX Runtime, calibrated on frames of SOURCE (as for --stream); "
        "also with --eval-mode, and without SOURCE with --benchmark stream",
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default=TORCH,
        help="what computes the network between reads of its memory, on the CPU; OpenVINO also in bfloat16, with "
        "--amp; also with --eval-mode and --benchmark stream",
    )
    group.add_argument("--overwrite", action="store_true", help="replace what an earlier stream wrote in --savedir")


def check_stream(options: argparse.Namespace) -> None:
    """Raises ``OptionError`` for options of streams that are invalid or contradict others."""
    if options.int8 is not None:
        _check_int8(options)
    if options.engine != TORCH:
        _check_engine(options)
    _check_smooth(options)
    if options.every < 1:
        raise OptionError(f"--every is {options.every}: expected 1 or more")
    for output in registered_outputs():
        output.check_options(vars(options))
    if options.every > 1 and (options.memorize_first or options.baseline_mode):
        other = "--memorize-first" if options.memorize_first else "--baseline-mode"
        raise OptionError(f"--every {options.every} does not go with {other}: leave one of them out")
    if options.backbones != list(BENCHMARKED) and options.benchmark != "backbones":
        raise OptionError("--backbones belongs to --benchmark backbones: leave it out, or name one by --backbone")
    if options.axes != list(AXES) and options.benchmark != "scaling":
        raise OptionError("--axes belongs to --benchmark scaling: leave it out")
    if options.stream:
        for name in ("use_orig_res", "save_images", "save_all_vals", "loss", "baseline_path", "cache"):
            if getattr(options, name):
                raise OptionError(f"--{name.replace('_', '-')} belongs to labeled data: leave it out with --stream")
        if options.weights == NO_WEIGHTS:
            raise OptionError("--weights none leaves --stream nothing to label with: give a weight file")
        return
    if options.consistency and not options.eval_mode:
        raise OptionError("--consistency belongs to --stream and --eval-mode: leave it out")
    if options.compile and not options.benchmark:
        raise OptionError("--compile belongs to --stream and --benchmark: leave it out")
    if options.benchmark and options.baseline_mode:
        raise OptionError("--benchmark measures the single frame beside the LMANet: leave --baseline-mode out")
    for name, default in {**STREAM_DEFAULTS, **{option.dest: option.default for option in output_options()}}.items():
        if getattr(options, name) != default:
            raise OptionError(f"--{name.replace('_', '-')} belongs to --stream: leave it out")


def _check_smooth(options: argparse.Namespace) -> None:
    weight = options.smooth_weight
    if options.smooth is None:
        if weight is not None:
            raise OptionError(f"--smooth-weight {weight} belongs to --smooth: add --smooth {SMOOTHINGS[-1]}")
        return
    if not (options.stream or (options.eval_mode and options.consistency)):
        missing = "add --consistency" if options.eval_mode else "leave it out"
        raise OptionError(f"--smooth belongs to --stream and --eval-mode --consistency: {missing}")
    if weight == AUTO:
        if options.stream:
            raise OptionError("--smooth-weight auto chooses on labeled clips, with --eval-mode: give --stream a number")
    elif weight is not None and not 0 <= weight < 1:
        raise OptionError(f"--smooth-weight is {weight:g}: expected 0 or more and below 1, for example 0.5")


def _weight(text: str) -> float | str:
    try:
        return AUTO if text == AUTO else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor {AUTO}: expected 0.5 or so") from None


def _check_int8(options: argparse.Namespace) -> None:
    benchmarked = options.benchmark == "stream"
    if not (options.stream or options.eval_mode or benchmarked):
        raise OptionError("--int8 belongs to --stream, --eval-mode and --benchmark stream: leave it out")
    if benchmarked and options.int8:
        raise OptionError(f"--int8 {options.int8}: --benchmark stream takes random frames: write --int8 alone")
    if not benchmarked and not options.int8:
        raise OptionError("--int8 without frames to be calibrated on: expected a video or a folder, --int8 drive.mp4")
    if options.amp or (options.compile and not benchmarked):
        other = "--amp" if options.amp else "--compile"
        raise OptionError(f"--int8 does not go with {other}: leave one of them out")
    _check_cpu(options, "--int8")


def _check_engine(options: argparse.Namespace) -> None:
    benchmarked, typed = options.benchmark == "stream", f"--engine {options.engine}"
    if not (options.stream or options.eval_mode or benchmarked):
        raise OptionError(f"{typed} belongs to --stream, --eval-mode and --benchmark stream: leave it out")
    if (options.int8 is not None or options.compile) and not benchmarked:
        other = "--compile" if options.compile else "--int8"
        raise OptionError(f"{typed} does not go with {other}: leave one of them out")
    if options.amp and (options.engine, options.amp) != ("openvino", "bfloat16"):
        raise OptionError(f"{typed} does not go with --amp {options.amp}: take --engine openvino --amp bfloat16")
    _check_cpu(options, typed)


def _check_cpu(options: argparse.Namespace, typed: str) -> None:
    if options.device not in ("auto", "cpu"):
        raise OptionError(f"{typed} is for the CPU and does not go with --device {options.device}: add --device cpu")
    if options.gpus * options.nodes > 1:
        raise OptionError(f"{typed} runs in one process: leave --gpus and --nodes out")
