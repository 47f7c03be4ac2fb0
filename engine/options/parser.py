"""The options of ``main.py``, in groups. Imports no torch: ``--help`` and wrong options are answered at once."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Any

from datasets.registry import dataset_named, dataset_names
from engine.options.checks import checked
from engine.options.option import taken
from engine.options.plugins import load_plugins
from engine.options.settings import Settings
from engine.options.stream import AXES, BENCHMARKED, BENCHMARKS, add_stream_group
from engine.training.schedule import schedule_names
from models.backbone import backbone_forms, backbone_names
from models.choices import ATTENTION_BACKENDS, FUSION_WIDTH, MEMORY_STRATEGIES, STRUCTURES
from utils.addresses import without_secrets
from utils.command import OneLineParser
from utils.errors import OptionError, UserError
from utils.sizes import parse_size
from utils.yaml_files import is_yaml

PROGRAM = "main.py"
DEVICES = ("auto", "cpu", "cuda", "mps")
CONTROLS = ("repeated-frame", "other-clip", "other-labels")
DEFAULT_WEIGHTS = "trained_models/erfnet_pretrained.pth"

EXAMPLES = """\
examples:
  main.py --eval-mode --weights trained_models/lmanet_erf_best.pth --stm-queue-size 4 --savedir save/eval_lma_erf
  main.py --training --weights trained_models/erfnet_pretrained.pth --lr-start 2e-4 --lr-strategy plateau_08 \\
      --num-epochs 50 --batch-size 5 --savedir save/training_lma_erf
  main.py --training --resume ... the same options ...     resumes that training
  main.py --stream drive.mp4 --weights trained_models/lmanet_erf_best.pth --stm-queue-size 4 --save-video overlay \\
      --savedir save/drive
  main.py --eval-mode --baseline-mode --savedir save/eval_erf     the single-frame network alone
"""


def parse_options(argv: Sequence[str] | None = None) -> Settings:
    """The settings of a command line (default: ``sys.argv``), whose plugins are loaded first.

    Exits with one line on stderr and status 2 where options are invalid or contradict each other.
    """
    try:
        words = sys.argv[1:] if argv is None else list(argv)
        load_plugins(_plugins_in(words))
        parser = build_parser()
        arguments, typed = vars(parser.parse_args(words)), typed_options(parser, words)
        command = shlex.join(["python", "main.py", *map(without_secrets, words)])
        try:
            return checked(arguments, typed, command)
        except OptionError:
            # What does not go with the defaults may go with what the weight file says.
            from engine.network import arguments_with_file  # only here: it brings torch

            completed = arguments_with_file(arguments, typed)
            if completed is None:
                raise
            return checked(completed, typed, command, untouched=arguments)
    except UserError as error:
        OneLineParser(prog=PROGRAM).error(str(error))


def typed_options(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> frozenset[str]:
    """Names of the options on the command line, also of those with their default value."""
    defaults = {action: action.default for action in parser._actions}
    try:
        for action in defaults:
            action.default = argparse.SUPPRESS
        return frozenset(vars(parser.parse_args(argv)))
    finally:
        for action, default in defaults.items():
            action.default = default


def _plugins_in(argv: Sequence[str] | None) -> list[str]:
    """The plugins of a command line, read before the parser is built, as they register choices of its options."""
    parser = OneLineParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    _add_plugin(parser)
    plugins: list[str] = parser.parse_known_args(argv)[0].plugin
    return plugins


def build_parser() -> OneLineParser:
    """A parser of all options, with the choices that are registered so far."""
    parser = OneLineParser(
        prog=PROGRAM,
        description="LMANet: video semantic segmentation with a local memory attention. Trains and evaluates.",
        epilog=EXAMPLES,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    for add_group in (
        _add_mode,
        _add_run,
        _add_data,
        _add_network,
        add_stream_group,
        _add_training,
        _add_processes,
        _add_reports,
    ):
        try:
            add_group(parser)
        except argparse.ArgumentError as error:  # with an option that an output has declared
            raise taken(error.argument_name) from error
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults except empty ones, and keeps the lines of the examples."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=min(120, int(os.environ.get("COLUMNS", 110))))

    def _get_help_string(self, action: argparse.Action) -> str | None:
        silent = action.default in (None, "", False, [], argparse.SUPPRESS) or action.nargs == 0
        return action.help if silent else super()._get_help_string(action)


class _VersionAction(argparse.Action):
    """Prints versions and properties of the machine, and exits; only then is torch imported."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, **more)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from engine.version import version_text

        print(version_text())
        parser.exit()


def _add_plugin(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="FILE",
        help="a Python file that registers a data set, backbone, metric, output or schedule; may be repeated",
    )


def _add_mode(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("mode (one is required)")
    mode = group.add_mutually_exclusive_group()
    mode.add_argument("--training", action="store_true", help="train, with a validation after each epoch")
    mode.add_argument(
        "--stream",
        metavar="SOURCE",
        help="label a video frame by frame: a video file, a folder of frames, a pattern (frames/%%06d.png, 'a/*.jpg') "
        "of images or videos, - for a pipe, the number of a camera, or an address (rtsp://, http://, https://, udp://, tcp://)",
    )
    mode.add_argument("--eval-mode", action="store_true", help="evaluate on the validation split: one pass, batch 1")
    mode.add_argument(
        "--benchmark",
        choices=BENCHMARKS,
        help="measure the time of the attention, of a frame, of a frame of several --backbones, or how time and memory "
        "of a frame grow along --axes, with random weights",
    )
    group.add_argument(
        "--backbones",
        nargs="+",
        default=list(BENCHMARKED),
        metavar="NAME",
        help="with --benchmark backbones: the networks, as for --backbone",
    )
    group.add_argument(
        "--axes",
        nargs="+",
        default=list(AXES),
        choices=AXES,
        help="with --benchmark scaling: what is varied: frames in the memory (T), the window (n), the size of frames, "
        "the batch, the threads; axes of earlier calls with this --savedir stay",
    )
    group.add_argument(
        "--export-onnx",
        metavar="FILE",
        help="write one step of a stream, or with --baseline-mode the single-frame network, as ONNX, for frames of "
        "--work-size",
    )
    group.add_argument(
        "--export-openvino",
        metavar="FILE.xml",
        help="write the same as an OpenVINO model, FILE.xml and FILE.bin, with the memory as its state, so that it "
        "takes frames alone",
    )
    group.add_argument(
        "--export-weights",
        metavar="FILE",
        help="write --weights under the published names; alone or before --eval-mode",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--savedir", required=True, metavar="DIR", help="folder for all files of the run")
    group.add_argument(
        "--device",
        default="auto",
        choices=DEVICES,
        help="device to compute on; auto: the first available of CUDA, MPS, CPU",
    )
    group.add_argument(
        "--amp",
        nargs="?",
        const="bfloat16",
        choices=("bfloat16", "float16"),
        help="with --training and --stream: mixed precision; training in float16, with scaled gradients, needs CUDA",
    )
    group.add_argument(
        "--tf32",
        choices=("on", "off"),
        help="convolutions in TF32 on NVIDIA GPUs; default: off with --eval-mode, whose figures are those of float32, "
        "and on elsewhere",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of fresh weights, of the order of clips, and of augmentation",
    )
    group.add_argument("--resume", action="store_true", help="resume from the checkpoint in --savedir")
    _add_plugin(group)
    group.add_argument(
        "--version", action=_VersionAction, help="print versions and the machine, for bug reports, and exit"
    )


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        default=dataset_names()[0],
        type=_dataset,
        metavar="NAME",
        help="; ".join(f"{name}: {dataset_named(name).summary}" for name in dataset_names())
        + "; FILE.yaml: your own, described in that file (docs/data.md)",
    )
    group.add_argument(
        "--data-root",
        metavar="DIR",
        help="the data set's folder (default: $CITYSCAPES_DATASET, then the constants in datasets/cityscapes.py; "
        "data/synthetic for Synthetic)",
    )
    group.add_argument(
        "--classes",
        metavar="FILE",
        help="a YAML file that merges, renames or drops classes: lines such as `flat: [road, sidewalk]`, and "
        "`ignored: [train]` (docs/data.md)",
    )
    group.add_argument(
        "--work-size",
        type=_size,
        metavar="HxW",
        help="size that frames are resized to (default: the backbone's; Synthetic: that of the files, or the "
        "next that the backbone takes)",
    )
    group.add_argument(
        "--cache", metavar="DIR", help="cache of decoded, resized frames, which makes later epochs faster"
    )
    group.add_argument(
        "--cache-features",
        metavar="DIR",
        help="with --training: cache of what a frozen encoder in evaluation mode returns (--encoder-eval-mode without "
        "--train-encoder), which makes later epochs, and trainings with the same encoder, several times as fast",
    )
    group.add_argument(
        "--feature-variants",
        type=int,
        default=4,
        metavar="N",
        help="with --cache-features: flips and shifts of a frame that are kept; 1: the frame alone, 2: and flipped; "
        "50: all, as without the cache",
    )
    group.add_argument(
        "--feature-precision",
        default="float32",
        choices=("float32", "float16"),
        help="with --cache-features: float16 takes half of the disk, and rounds",
    )
    group.add_argument("--batch-size", type=int, default=6, metavar="N", help="clips per process per step")
    group.add_argument(
        "--num-workers", type=int, default=4, metavar="N", help="data loading processes, for each process"
    )
    group.add_argument(
        "--retries",
        type=int,
        default=4,
        metavar="N",
        help="retries to read a file whose file system does not answer, after 1, 4, 16, then 64 seconds each; a camera "
        "or network stream that went away is waited for as long, and tried every second",
    )
    group.add_argument("--random-crop", action="store_true", help="train on crops of 713x713")
    group.add_argument(
        "--control",
        choices=CONTROLS,
        help="control experiment: clips that repeat their labeled frame, or with earlier frames, or labels, of another "
        "clip",
    )


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--model", default="lmanet.py", metavar="FILE", help="file of the network in models/: lmanet.py")
    names = ", ".join((*backbone_names(), *backbone_forms()))
    group.add_argument("--backbone", default="erf", metavar="NAME", help=f"one of {names}")
    group.add_argument(
        "--weights",
        default=DEFAULT_WEIGHTS,
        metavar="FILE",
        help="weight file, or folder that transformers or smp saved; none: random weights",
    )
    group.add_argument("--baseline-mode", action="store_true", help="the single-frame network, without a memory")
    group.add_argument("--stm-queue-size", type=int, default=3, metavar="T", help="frames in the memory")
    group.add_argument(
        "--win-size", type=int, default=-1, metavar="S", help="frames of a clip; -1: those of the memory and one"
    )
    group.add_argument("--corr-size", type=int, default=21, metavar="N", help="side of the attention window, odd")
    group.add_argument(
        "--fusion-strategy", metavar="NAME", help=f"one of {', '.join(FUSION_WIDTH)} (default: the backbone's)"
    )
    group.add_argument(
        "--memory-strategy",
        default="all",
        choices=MEMORY_STRATEGIES,
        metavar="NAME",
        help="frames of a clip that are processed: all; skip_01 ... skip_05: every 2nd ... 6th; random: T of them",
    )
    group.add_argument(
        "--model-struct", default="original", choices=STRUCTURES, metavar="NAME", help=f"one of {', '.join(STRUCTURES)}"
    )
    _add_switch(group, "--local-correlation", "attention within a window; --no-: over whole frames")
    group.add_argument(
        "--learnable-constant",
        action="store_true",
        help="a learned score in the softmax of the attention, with value 0",
    )
    group.add_argument(
        "--mask-border",
        action="store_true",
        help="leave neighbors outside of the frame out of the attention (published: score 0 and value 0)",
    )
    group.add_argument(
        "--memorize-first", action="store_true", help="write a frame to the memory before the memory is read"
    )
    _add_switch(group, "--align-weights", "initialize the query's key head as a copy of the memory's")
    group.add_argument("--always-decode", action="store_true", help="decode every frame, not only the last one")
    group.add_argument(
        "--shallow-dec", action="store_true", help="a 1x1 convolution as decoder, at 1/8 of the size of frames"
    )
    group.add_argument("--backbone-nobn", action="store_true", help="leave out the backbone's batch norms")
    group.add_argument(
        "--attention-backend",
        default="auto",
        choices=ATTENTION_BACKENDS,
        help="implementation of the local attention; auto: the fastest that is available",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--num-epochs", type=int, default=150, metavar="N", help="epochs to train")
    group.add_argument("--lr-start", type=float, default=5e-5, metavar="RATE", help="initial learning rate of Adam")
    group.add_argument(
        "--lr-strategy",
        default="pow_09",
        choices=schedule_names(),
        metavar="NAME",
        help="learning-rate schedule: plateau_03 ... _09: times 0.3 ... 0.9 where the training loss stalls; pow_07, "
        "pow_09: polynomial decay over all epochs; pow_09_b: over 50 epochs, then constant",
    )
    group.add_argument("--train-encoder", action="store_true", help="train the encoder too")
    group.add_argument("--train-decoder", action="store_true", help="train the decoder too")
    group.add_argument(
        "--train-erfnet-shallow-dec", action="store_true", help="train the shallow decoder's 1x1 convolution"
    )
    group.add_argument(
        "--warm-start",
        type=int,
        default=0,
        metavar="N",
        help="initialize a fresh memory from the features of N training clips, such as 16, so that it starts as good "
        "as the single frame; 0: random weights, as published",
    )
    group.add_argument(
        "--encoder-eval-mode", action="store_true", help="encoder in evaluation mode (batch norm, dropout)"
    )
    group.add_argument("--decoder-eval-mode", action="store_true", help="decoder in evaluation mode")
    group.add_argument(
        "--epochs-save", type=int, default=0, metavar="N", help="keep the weights of every Nth epoch; 0: of none"
    )
    group.add_argument("--iouTrain", action="store_true", help="IoU on the training clips too")
    group.add_argument(
        "--steps-save",
        type=int,
        default=0,
        metavar="K",
        help="write a checkpoint also every K steps; 0: only after epochs",
    )
    group.add_argument(
        "--accumulate", type=int, default=1, metavar="K", help="batches per process per step (gradient accumulation)"
    )
    _add_switch(group, "--iouVal", "IoU on the validation clips; --no-: the best epoch is that of the lowest loss")
    group.add_argument(
        "--hold-out",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="validate on that share of the training clips, such as 0.1, instead of the split val, which is left for a "
        "test: whole videos, drawn by --seed, are held out of the training; 0: none",
    )
    group.add_argument(
        "--patience",
        type=int,
        default=0,
        metavar="N",
        help="early stopping: end the training once N epochs in a row were not better than the best one; 0: never",
    )
    group.add_argument("--steps-loss", type=int, default=100, metavar="N", help="log the loss every N steps; 0: never")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("processes (torchrun's environment takes precedence)")
    group.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="processes on this machine, one per GPU or all on the CPU"
    )
    group.add_argument("--nodes", type=int, default=1, metavar="N", help="machines; each runs the same command")
    group.add_argument("--nr", type=int, default=0, metavar="K", help="rank of this machine, from 0")
    group.add_argument("--master-addr", default="localhost", metavar="HOST", help="address of machine 0")
    group.add_argument("--mport", type=int, default=8888, metavar="PORT", help="port of machine 0 for the rendezvous")
    group.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="where a process fails, restart all from the last checkpoint, up to N times",
    )


def _add_reports(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reports")
    group.add_argument("--loss", action="store_true", help="with --eval-mode: report the loss (training always does)")
    group.add_argument(
        "--use-orig-res", action="store_true", help="also score predictions enlarged to the labels' own size"
    )
    group.add_argument(
        "--save-images", action="store_true", help="write frame, label, prediction, overlay and errors as PNG"
    )
    group.add_argument(
        "--save-all-vals",
        action="store_true",
        help="write predictions as ids of label files, at the labels' own size, for the benchmark",
    )
    group.add_argument(
        "--baseline-path",
        metavar="DIR",
        help="--savedir of an earlier evaluation, whose IoU and the gain over it are shown",
    )
    group.add_argument("--visualize", action="store_true", help="show the run in visdom, where a server is running")
    group.add_argument("--port", type=int, default=8097, metavar="PORT", help="port of the visdom server")
    group.add_argument(
        "--steps-plot", type=int, default=50, metavar="N", help="with --visualize: plot the loss every N steps"
    )


def _add_switch(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    group.add_argument(name, action=argparse.BooleanOptionalAction, default=True, help=f"{text} (default: on)")


def _dataset(text: str) -> str:
    if text in dataset_names() or is_yaml(text):
        return text
    names = ", ".join(dataset_names())
    raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {names}, or name a YAML file: farm.yaml)")


def _size(text: str) -> tuple[int, int]:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
