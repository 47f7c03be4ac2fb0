"""Every option of ``main.py``, in groups, and all checks that need no network. Nothing here imports torch."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from engine.stream_options import BENCHMARKS, NO_WEIGHTS, add_stream_group, check_stream
from models.config import ATTENTION_BACKENDS, BACKBONES, FUSION_WIDTH, MEMORY_STRATEGIES, STRUCTURES, LMANetConfig
from utils.errors import OptionError, UserError

DATASETS = ("Cityscapes", "Synthetic")
LR_STRATEGIES = (
    *(f"plateau_{factor}" for factor in ("03", "05", "07", "08", "09")),
    "pow_07",
    "pow_09",
    "pow_09_b",
)
DEFAULT_WEIGHTS = "trained_models/erfnet_pretrained.pth"
CROP = (713, 713)
SYNTHETIC_ROOT = "data/synthetic"
SYNTHETIC_SIZE = (128, 256)

EXAMPLES = """\
examples:
  main.py --eval-mode --weights trained_models/lmanet_erf_best.pth --stm-queue-size 4 --savedir save/eval_lma_erf
  main.py --training --weights trained_models/erfnet_pretrained.pth --lr-start 2e-4 --lr-strategy plateau_08 \\
      --num-epochs 50 --batch-size 5 --savedir save/training_lma_erf
  main.py --training --resume ... the same options ... goes on where that training stopped
  main.py --stream drive.mp4 --weights trained_models/lmanet_erf_best.pth --stm-queue-size 4 --save-video overlay \\
      --savedir save/drive
  main.py --eval-mode --baseline-mode --savedir save/eval_erf     the single-frame network alone
"""


class OneLineParser(argparse.ArgumentParser):
    """Says what is wrong in one line and exits with status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (all options: {self.prog} --help)\n")


def parse_options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The checked options; ends the program with one line and status 2 where they are wrong or contradict another."""
    parser = build_parser()
    options = parser.parse_args(argv)
    try:
        check_options(options)
    except UserError as error:
        parser.error(str(error))
    return options


def network_config(options: argparse.Namespace) -> LMANetConfig:
    """The network that the options describe; raises ``OptionError`` where they do not go together."""
    return LMANetConfig(
        backbone=options.backbone,
        memory_size=options.stm_queue_size,
        corr_size=options.corr_size,
        fusion=options.fusion_strategy or "",
        structure=options.model_struct,
        memory_strategy=options.memory_strategy,
        local=options.local_correlation,
        learnable_constant=options.learnable_constant,
        memorize_first=options.memorize_first,
        align_weights=options.align_weights,
        always_decode=options.always_decode,
        baseline=options.baseline_mode,
        shallow_decoder=options.shallow_dec,
        batch_norm=not options.backbone_nobn,
        attention_backend=options.attention_backend,
    )


def check_options(options: argparse.Namespace) -> None:
    """Fills in what follows from other options and raises a ``UserError`` for what cannot be done."""
    config = network_config(options)
    options.fusion_strategy = config.fusion
    _check_numbers(options)
    _check_mode(options)
    _check_window(options, config)
    _check_work_size(options, config)
    _check_paths(options)


def build_parser() -> OneLineParser:
    parser = OneLineParser(
        prog="main.py",
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
        add_group(parser)
    return parser


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults where they say something, and examples as they are typed."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=min(120, int(os.environ.get("COLUMNS", 110))))

    def _get_help_string(self, action: argparse.Action) -> str:
        silent = action.default in (None, "", False, argparse.SUPPRESS) or action.nargs == 0
        return action.help if silent else super()._get_help_string(action)


def _add_mode(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("mode (one is required)")
    mode = group.add_mutually_exclusive_group()
    mode.add_argument("--training", action="store_true", help="train, with a validation after each epoch")
    mode.add_argument(
        "--stream",
        metavar="SOURCE",
        help="label a video frame by frame: a video file, a folder of frames, a pattern (frames/%%06d.png, 'a/*.jpg'), "
        "or the number of a camera",
    )
    mode.add_argument("--eval-mode", action="store_true", help="evaluate on the validation split: one pass, batch 1")
    mode.add_argument(
        "--benchmark", choices=BENCHMARKS, help="measure the time of a frame, with weights that need not be there"
    )
    group.add_argument(
        "--export-onnx",
        metavar="FILE",
        help="write one step of a stream, or the single-frame network of --baseline-mode, for frames of --work-size",
    )
    group.add_argument(
        "--export-weights",
        metavar="FILE",
        help="write --weights under the published names; alone, or before --eval-mode",
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("run")
    group.add_argument("--savedir", required=True, metavar="DIR", help="folder for everything that this run writes")
    group.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cpu", "cuda", "mps"),
        help="where to compute; auto takes CUDA, then MPS, then the CPU",
    )
    group.add_argument(
        "--amp",
        nargs="?",
        const="bfloat16",
        choices=("bfloat16", "float16"),
        help="with --training and --stream: compute in 16 bits where that is precise enough; training with float16, "
        "whose gradients are scaled, needs CUDA",
    )
    group.add_argument("--seed", type=int, default=0, help="of weights that start fresh, of order and augmentation")
    group.add_argument("--resume", action="store_true", help="go on from the checkpoint in --savedir")


def _add_data(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset", default="Cityscapes", choices=DATASETS, help="Synthetic: street clips drawn on first use"
    )
    group.add_argument(
        "--data-root",
        metavar="DIR",
        help="the data set's folder (default: $CITYSCAPES_DATASET, then the constants in datasets/cityscapes.py; "
        "data/synthetic for Synthetic)",
    )
    group.add_argument(
        "--work-size",
        type=_size,
        metavar="HxW",
        help="frames are resized to this (default: the backbone's; Synthetic: as drawn)",
    )
    group.add_argument(
        "--cache", metavar="DIR", help="keep decoded, resized frames here, so that later epochs are fast"
    )
    group.add_argument("--batch-size", type=int, default=6, metavar="N", help="clips a step and process")
    group.add_argument("--num-workers", type=int, default=4, metavar="N", help="processes that read the data")
    group.add_argument("--random-crop", action="store_true", help="train on crops of 713x713")


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument("--model", default="lmanet.py", metavar="FILE", help="the network's file in models/")
    group.add_argument("--backbone", default="erf", metavar="NAME", help=f"one of {', '.join(BACKBONES)}")
    group.add_argument(
        "--weights", default=DEFAULT_WEIGHTS, metavar="FILE", help="weights to start from; none: all start fresh"
    )
    group.add_argument("--baseline-mode", action="store_true", help="the single-frame network alone, without a memory")
    group.add_argument("--stm-queue-size", type=int, default=3, metavar="T", help="frames in the memory")
    group.add_argument("--win-size", type=int, default=-1, metavar="S", help="frames of a clip; -1: the memory and one")
    group.add_argument("--corr-size", type=int, default=21, metavar="N", help="side of the attention's window, odd")
    group.add_argument(
        "--fusion-strategy", metavar="NAME", help=f"one of {', '.join(FUSION_WIDTH)} (default: the backbone's)"
    )
    group.add_argument(
        "--memory-strategy",
        default="all",
        choices=MEMORY_STRATEGIES,
        metavar="NAME",
        help="which frames of the window are processed: all; skip_01 ... skip_05: every 2nd ... 6th; random: T of them",
    )
    group.add_argument(
        "--model-struct", default="original", choices=STRUCTURES, metavar="NAME", help=f"one of {', '.join(STRUCTURES)}"
    )
    _add_switch(group, "--local-correlation", "attention within the window; --no-: over whole frames")
    group.add_argument("--learnable-constant", action="store_true", help="one learned score that no value belongs to")
    group.add_argument("--memorize-first", action="store_true", help="a frame enters the memory before it is read")
    _add_switch(group, "--align-weights", "query keys start as a copy of the memory's")
    group.add_argument("--always-decode", action="store_true", help="logits for every frame, not for the last only")
    group.add_argument("--shallow-dec", action="store_true", help="a 1x1 convolution as decoder, at 1/8 of the size")
    group.add_argument("--backbone-nobn", action="store_true", help="leave the backbone's batch norms out")
    group.add_argument(
        "--attention-backend",
        default="auto",
        choices=ATTENTION_BACKENDS,
        help="how the local attention is computed; auto takes the fastest that can",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    group.add_argument("--num-epochs", type=int, default=150, metavar="N")
    group.add_argument(
        "--lr-start", type=float, default=5e-5, metavar="RATE", help="learning rate of Adam at the start"
    )
    group.add_argument(
        "--lr-strategy",
        default="pow_09",
        choices=LR_STRATEGIES,
        metavar="NAME",
        help="plateau_03 ... _09: times 0.3 ... 0.9 when the training loss stalls; pow_07, pow_09: polynomial decay to "
        "--num-epochs; pow_09_b: over 50 epochs, then constant",
    )
    group.add_argument("--train-encoder", action="store_true", help="do not freeze the encoder")
    group.add_argument("--train-decoder", action="store_true", help="do not freeze the decoder")
    group.add_argument("--train-erfnet-shallow-dec", action="store_true", help="train the shallow decoder's 1x1 output")
    group.add_argument("--encoder-eval-mode", action="store_true", help="batch norm and dropout as in evaluation")
    group.add_argument("--decoder-eval-mode", action="store_true", help="the same for the decoder")
    group.add_argument(
        "--epochs-save", type=int, default=0, metavar="N", help="keep the weights of every Nth epoch; 0: no"
    )
    group.add_argument("--iouTrain", action="store_true", help="IoU on the training clips too")
    group.add_argument(
        "--steps-save", type=int, default=0, metavar="K", help="a checkpoint every K steps too; 0: after epochs only"
    )
    group.add_argument(
        "--accumulate", type=int, default=1, metavar="K", help="batches of each process that make one step"
    )
    _add_switch(group, "--iouVal", "IoU on the validation clips; --no-: the best epoch is that of the lowest loss")
    group.add_argument("--steps-loss", type=int, default=100, metavar="N", help="log the loss every N steps; 0: never")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("processes (under torchrun, what it says counts instead)")
    group.add_argument(
        "--gpus", type=int, default=1, metavar="N", help="processes on this machine, one for each GPU, or on its CPU"
    )
    group.add_argument("--nodes", type=int, default=1, metavar="N", help="machines, all with the same command")
    group.add_argument("--nr", type=int, default=0, metavar="K", help="number of this machine, from 0")
    group.add_argument("--master-addr", default="localhost", metavar="HOST", help="address of machine 0")
    group.add_argument("--mport", type=int, default=8888, metavar="PORT", help="port of machine 0 where all meet")
    group.add_argument(
        "--max-restarts",
        type=int,
        default=0,
        metavar="N",
        help="where a process fails, start all again up to N times, from the last checkpoint",
    )


def _add_reports(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("reports")
    group.add_argument(
        "--loss", action="store_true", help="with --eval-mode: report the loss too (training always does)"
    )
    group.add_argument(
        "--use-orig-res", action="store_true", help="also score predictions enlarged to the labels' size"
    )
    group.add_argument("--save-images", action="store_true", help="frame, label, prediction, overlay, errors as PNG")
    group.add_argument(
        "--save-all-vals", action="store_true", help="predictions as label ids at the labels' size, for the benchmark"
    )
    group.add_argument(
        "--baseline-path", metavar="DIR", help="an earlier evaluation's --savedir: its IoU and the gain are shown"
    )
    group.add_argument("--visualize", action="store_true", help="show the run in visdom, where its server runs")
    group.add_argument("--port", type=int, default=8097, metavar="PORT", help="of the visdom server")
    group.add_argument(
        "--steps-plot", type=int, default=50, metavar="N", help="with --visualize: a point of the loss every N steps"
    )


def _add_switch(group: argparse._ArgumentGroup, name: str, text: str) -> None:
    group.add_argument(name, action=argparse.BooleanOptionalAction, default=True, help=f"{text} (default: on)")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) > 0 and int(width) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: expected HxW, for example 512x1024")
    return int(height), int(width)


def _check_numbers(options: argparse.Namespace) -> None:
    least = {
        **dict.fromkeys(("num_epochs", "batch_size", "gpus", "nodes", "accumulate", "mport", "steps_plot"), 1),
        **dict.fromkeys(("num_workers", "epochs_save", "steps_loss", "steps_save", "max_restarts", "nr"), 0),
    }
    for name, bound in least.items():
        value = getattr(options, name)
        if value < bound:
            raise OptionError(f"--{name.replace('_', '-')} is {value}: expected {bound} or more")
    if not 0 < options.lr_start < 1:
        raise OptionError(f"--lr-start is {options.lr_start}: expected a rate between 0 and 1, for example 2e-4")
    if not 0 < options.port < 65536:
        raise OptionError(f"--port is {options.port}: expected a port between 1 and 65535, for example 8097")
    if options.nr >= options.nodes:
        raise OptionError(
            f"--nr is {options.nr}: expected 0 to {options.nodes - 1}, as there are --nodes {options.nodes}"
        )
    if options.mport > 65535:
        raise OptionError(f"--mport is {options.mport}: expected a port up to 65535, for example 8888")
    if options.seed < 0:
        raise OptionError(f"--seed is {options.seed}: expected 0 or more")


def _check_mode(options: argparse.Namespace) -> None:
    exports = options.export_weights or options.export_onnx
    if not (options.training or options.eval_mode or options.stream or options.benchmark or exports):
        raise OptionError(
            "no mode is given: expected one of --training, --eval-mode, --stream, --benchmark, --export-weights FILE, "
            "--export-onnx FILE"
        )
    check_stream(options)
    if options.training and options.export_weights:
        raise OptionError("--export-weights does not go with --training, which writes model_best.pth: leave it out")
    if options.training and options.export_onnx:
        raise OptionError("--export-onnx does not go with --training: export its model_best.pth afterwards")
    if options.export_weights and options.weights == NO_WEIGHTS:
        raise OptionError("--export-weights has nothing to write with --weights none: give a weight file")
    if not options.training:
        training_only = (
            "resume train_encoder train_decoder train_erfnet_shallow_dec encoder_eval_mode decoder_eval_mode "
            "random_crop iouTrain epochs_save steps_save max_restarts"
        )
        for name in training_only.split():
            if getattr(options, name):
                raise OptionError(f"--{name.replace('_', '-')} belongs to --training: leave it out")
        if options.eval_mode and options.amp:
            raise OptionError("--amp belongs to --training and --stream: leave it out, as figures are those of float32")
        if options.eval_mode and not options.iouVal and not options.loss:
            raise OptionError("--no-iouVal leaves --eval-mode nothing to report: add --loss or leave it out")
    if options.gpus * options.nodes > 1 and not (options.training or options.eval_mode):
        raise OptionError("--gpus and --nodes belong to --training and --eval-mode: leave them out, one process runs")
    if options.gpus * options.nodes > 1 and options.consistency:
        raise OptionError(
            "--consistency follows videos from frame to frame in one process: leave out --gpus and --nodes"
        )
    if options.train_erfnet_shallow_dec and not options.shallow_dec:
        raise OptionError("--train-erfnet-shallow-dec trains the shallow decoder: add --shallow-dec")
    trains_baseline = options.train_encoder or options.train_decoder or options.train_erfnet_shallow_dec
    if options.training and options.baseline_mode and not trains_baseline:
        raise OptionError(
            "--training --baseline-mode has nothing to train: add --train-decoder, --train-encoder or both"
        )
    if options.use_orig_res and options.shallow_dec:
        raise OptionError(
            "--use-orig-res compares full-size labels, --shallow-dec labels at 1/8: leave one of them out"
        )


def _check_window(options: argparse.Namespace, config: LMANetConfig) -> None:
    if options.win_size == -1:
        options.win_size = 1 if config.baseline else config.memory_size + 1
    smallest = config.smallest_window()
    if options.win_size < smallest:
        raise OptionError(
            f"--win-size is {options.win_size}: --memory-strategy {config.memory_strategy} with --stm-queue-size "
            f"{config.memory_size} needs {smallest} frames or more, for example --win-size "
            f"{config.window_that_fills_the_memory()}"
        )


def _check_work_size(options: argparse.Namespace, config: LMANetConfig) -> None:
    if options.work_size is None:
        options.work_size = _synthetic_size(options) if options.dataset == "Synthetic" else config.traits.work_size
    sizes = {"--work-size": options.work_size}
    if options.random_crop:
        if any(side < crop for side, crop in zip(options.work_size, CROP, strict=True)):
            raise OptionError(
                f"--random-crop takes 713x713 of frames that are {_shown(options.work_size)}: they must be larger"
            )
        sizes["--random-crop"] = CROP
    for option, size in sizes.items():
        allowed = [config.traits.nearest_sides(side) for side in size]
        if any(side not in sides for side, sides in zip(size, allowed, strict=True)):
            nearest = f"{_shown(sides[0] for sides in allowed)} or {_shown(sides[-1] for sides in allowed)}"
            raise OptionError(f"{option} {_shown(size)} does not fit --backbone {config.backbone}: try {nearest}")


def _synthetic_size(options: argparse.Namespace) -> tuple[int, int]:
    """The size that synthetic clips were, or will be, drawn in."""
    options.data_root = options.data_root or SYNTHETIC_ROOT
    try:
        description = json.loads((Path(options.data_root) / "dataset.json").read_text())
        return description["height"], description["width"]
    except (OSError, ValueError, KeyError, TypeError):
        return SYNTHETIC_SIZE  # not drawn yet; what is wrong with the folder is said where it is opened


def _check_paths(options: argparse.Namespace) -> None:
    if options.model != "lmanet.py":
        raise OptionError(f"--model {options.model}: expected lmanet.py, the network in models/")
    if (
        options.weights != NO_WEIGHTS
        and not options.resume
        and not options.benchmark
        and not Path(options.weights).is_file()
    ):
        raise OptionError(
            f"--weights {options.weights}: there is no such file; give one, or --weights none to start fresh"
        )
    if options.eval_mode and options.weights == NO_WEIGHTS:
        raise OptionError("--weights none leaves --eval-mode nothing to evaluate: give a weight file")
    if options.baseline_path and not (Path(options.baseline_path) / "report.json").is_file():
        raise OptionError(
            f"--baseline-path {options.baseline_path}: holds no report.json: expected the --savedir of an evaluation"
        )


def _shown(size: Sequence[int]) -> str:
    return "x".join(str(side) for side in size)
