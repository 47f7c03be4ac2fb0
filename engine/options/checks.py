"""Checks of options, and the configuration of the network that they describe. Imports no torch."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets.mapped_dataset import dataset_of
from datasets.registry import VideoDatasetBase
from engine.options.settings import CROP, NO_WEIGHTS, SHIFT, Settings, settings_of
from engine.options.stream import check_stream
from engine.streaming.output import output_options
from models.config import LMANetConfig
from utils.class_map import read_class_map
from utils.class_set import ClassSet
from utils.errors import OptionError
from utils.modules import check_importable
from utils.sizes import FLOW_SIDE, format_size

MOST = 1_000_000_000  # of any count: more is taken for a typing error

# Fields of LMANetConfig and their options.
OPTION_OF_FIELD = {
    "backbone": "backbone",
    "memory_size": "stm_queue_size",
    "corr_size": "corr_size",
    "fusion": "fusion_strategy",
    "structure": "model_struct",
    "memory_strategy": "memory_strategy",
    "local": "local_correlation",
    "learnable_constant": "learnable_constant",
    "mask_border": "mask_border",
    "memorize_first": "memorize_first",
    "align_weights": "align_weights",
    "always_decode": "always_decode",
    "baseline": "baseline_mode",
    "shallow_decoder": "shallow_dec",
    "batch_norm": "backbone_nobn",
    "attention_backend": "attention_backend",
}


def checked(
    arguments: Mapping[str, Any],
    typed: frozenset[str],
    command: str,
    classes: ClassSet | None = None,
    untouched: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings of parsed options; ``classes`` default to those of the data set, ``untouched`` to ``arguments``.

    Raises a ``UserError`` for invalid options and for options that contradict each other.
    """
    options = argparse.Namespace(**arguments)
    class_map = read_class_map(options.classes) if options.classes else None
    # A stream reads no labels: its classes are those of the weight file, unless the data set is named.
    dataset = dataset_of(options.dataset, None if options.stream and "dataset" not in typed else class_map)
    classes = classes or dataset.classes
    config = network_config(options, classes)
    options.fusion_strategy = config.fusion
    options.data_root = options.data_root or dataset.default_root
    outputs = frozenset(option.dest for option in output_options())
    _check_numbers(options)
    _check_mode(options, typed)
    _check_window(options, config)
    _check_work_size(options, config, dataset)
    _check_paths(options)
    return settings_of(options, config, classes, dict(untouched or arguments), typed, outputs, command, class_map)


def with_fields(
    settings: Settings,
    fields: Mapping[str, object],
    classes: ClassSet | None = None,
    work_size: tuple[int, int] | None = None,
) -> Settings:
    """The settings with other fields of ``LMANetConfig``, classes and size of frames, as if they had been typed.

    Values that depend on them are derived anew. Raises what ``checked`` does.
    """
    arguments = with_values(settings.untouched, fields, work_size)
    return checked(arguments, settings.typed, settings.command, classes or settings.network.classes)


def with_values(
    arguments: Mapping[str, Any], fields: Mapping[str, object], work_size: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Values of options by name, with other ones for fields of ``LMANetConfig`` and for the size of frames."""
    values = {**arguments}
    for field, value in fields.items():
        values[OPTION_OF_FIELD[field]] = not value if field == "batch_norm" else value
    if work_size is not None:
        values["work_size"] = work_size
    return values


def fields_of(arguments: Mapping[str, Any], typed: frozenset[str] | None = None) -> dict[str, object]:
    """Fields of ``LMANetConfig`` as options give them; only of those that were ``typed``, where that is given."""
    found = {field: arguments[option] for field, option in OPTION_OF_FIELD.items() if typed is None or option in typed}
    return {field: not value if field == "batch_norm" else value for field, value in found.items()}


def option_text(field: str, value: object, preposition: str = "") -> str:
    """The option for a value of a field, after a preposition: ``with --corr-size 5``, ``without --mask-border``."""
    name = OPTION_OF_FIELD[field].replace("_", "-")
    if not isinstance(value, bool):
        return f"{preposition}--{name} {value}"
    if field == "local":
        return f"{preposition}--{'' if value else 'no-'}{name}"
    return f"{preposition}--{name}" if value != (field == "batch_norm") else f"without --{name}"


def network_config(options: argparse.Namespace, classes: ClassSet) -> LMANetConfig:
    """The network that the options describe. Raises ``OptionError`` where they do not go together."""
    fields: dict[str, Any] = fields_of(vars(options))
    return LMANetConfig(**{**fields, "fusion": fields["fusion"] or ""}, num_classes=classes.num_outputs)


def _check_numbers(options: argparse.Namespace) -> None:
    least = {
        **dict.fromkeys(("num_epochs", "batch_size", "gpus", "nodes", "accumulate", "mport", "steps_plot"), 1),
        **dict.fromkeys(
            (
                *("num_workers", "epochs_save", "steps_loss", "steps_save", "max_restarts", "nr"),
                *("warm_start", "retries", "patience"),
            ),
            0,
        ),
    }
    for name, bound in least.items():
        value = getattr(options, name)
        if value < bound:
            raise OptionError(f"--{name.replace('_', '-')} is {value}: expected {bound} or more")
        if value > MOST:
            raise OptionError(f"--{name.replace('_', '-')} is {value}: expected {MOST} or less")
    if not 0 < options.lr_start < 1:
        raise OptionError(f"--lr-start is {options.lr_start}: expected a rate between 0 and 1, for example 2e-4")
    if not 0 <= options.hold_out < 1:
        raise OptionError(f"--hold-out is {options.hold_out}: expected a share from 0 to below 1, for example 0.1")
    if not 0 < options.port < 65536:
        raise OptionError(f"--port is {options.port}: expected a port between 1 and 65535, for example 8097")
    if options.nr >= options.nodes:
        raise OptionError(
            f"--nr is {options.nr}: expected 0 to {options.nodes - 1}, as there are --nodes {options.nodes}"
        )
    if options.mport > 65535:
        raise OptionError(f"--mport is {options.mport}: expected a port up to 65535, for example 8888")
    if not 0 <= options.seed <= MOST:
        raise OptionError(f"--seed is {options.seed}: expected 0 to {MOST}")


def _check_mode(options: argparse.Namespace, typed: frozenset[str]) -> None:
    exports = options.export_weights or options.export_onnx or options.export_openvino
    if not (options.training or options.eval_mode or options.stream or options.benchmark or exports):
        raise OptionError(
            "no mode is given: expected one of --training, --eval-mode, --stream, --benchmark, --export-weights FILE, "
            "--export-onnx FILE, --export-openvino FILE.xml"
        )
    check_stream(options)
    if options.visualize:
        advice = "pip install visdom, or leave --visualize out"
        check_importable("websocket", "--visualize needs websocket-client, which visdom brings", advice)
    if options.classes and not (options.training or options.eval_mode or options.stream):
        raise OptionError("--classes belongs to --training, --eval-mode and --stream: leave it out")
    if options.training and options.export_weights:
        raise OptionError("--export-weights does not go with --training, which writes model_best.pth: leave it out")
    for name in ("onnx", "openvino"):
        if options.training and getattr(options, f"export_{name}"):
            raise OptionError(f"--export-{name} does not go with --training: export its model_best.pth afterwards")
    if options.export_openvino and not options.export_openvino.endswith(".xml"):
        raise OptionError(
            f"--export-openvino {options.export_openvino}: expected a name that ends with .xml, for example step.xml"
        )
    if options.export_weights and options.weights == NO_WEIGHTS:
        raise OptionError("--export-weights has nothing to write with --weights none: give a weight file")
    if not options.training:
        training_only = (
            "resume train_encoder train_decoder train_erfnet_shallow_dec encoder_eval_mode decoder_eval_mode "
            "random_crop iouTrain epochs_save steps_save max_restarts warm_start cache_features hold_out "
            "patience"
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
    if options.control and options.consistency:
        raise OptionError("--consistency follows whole videos, --control changes clips: leave one of them out")
    _check_features(options, typed)
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


def _check_features(options: argparse.Namespace, typed: frozenset[str]) -> None:
    if not options.cache_features:
        for name in ("feature_variants", "feature_precision"):
            if name in typed:
                raise OptionError(
                    f"--{name.replace('_', '-')} belongs to --cache-features DIR: add it, or leave it out"
                )
        return
    if options.train_encoder:
        raise OptionError(
            "--cache-features keeps what the encoder returns, --train-encoder changes it: leave one of them out"
        )
    if not options.encoder_eval_mode:
        raise OptionError(
            "--cache-features keeps what the encoder returns, which batch norms and dropout change in training mode: "
            "add --encoder-eval-mode"
        )
    if options.random_crop:
        raise OptionError("--cache-features keeps features of whole frames: leave --random-crop out")
    most, found = 2 * (2 * SHIFT + 1) ** 2, options.feature_variants
    if found != 1 and not (found in range(2, most + 1) and found % 2 == 0):
        raise OptionError(
            f"--feature-variants is {found}: expected 1, or an even number up to {most}, half of them flips, such as 4"
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


def _check_work_size(options: argparse.Namespace, config: LMANetConfig, dataset: VideoDatasetBase) -> None:
    if options.work_size is None:
        own = dataset.work_size(options.data_root)
        options.work_size = config.traits.work_size if own is None else config.traits.size_above(own)
    by_flow = "--consistency" if options.consistency else "--smooth flow" if options.smooth == "flow" else None
    if by_flow and max(options.work_size) < FLOW_SIDE:
        raise OptionError(
            f"{by_flow} follows pixels by optical flow, which frames of {format_size(options.work_size)} are too "
            f"small for: expected a side of {FLOW_SIDE} or more"
        )
    sizes = {"--work-size": options.work_size}
    if options.random_crop:
        if any(side < crop for side, crop in zip(options.work_size, CROP, strict=True)):
            raise OptionError(
                f"--random-crop takes 713x713 of frames that are {format_size(options.work_size)}: they must be larger"
            )
        sizes["--random-crop"] = CROP
    for option, size in sizes.items():
        config.check_work_size(size, option)


def _check_paths(options: argparse.Namespace) -> None:
    if options.model != "lmanet.py":
        raise OptionError(f"--model {options.model}: expected lmanet.py, the network in models/")
    if (
        options.weights != NO_WEIGHTS
        and not options.resume
        and not options.benchmark
        and not Path(options.weights).is_file()
        and not (Path(options.weights) / "config.json").is_file()
    ):
        found = "is a folder without config.json" if Path(options.weights).is_dir() else "there is no such file"
        raise OptionError(f"--weights {options.weights}: {found}; give one, or --weights none to start fresh")
    if options.eval_mode and options.weights == NO_WEIGHTS:
        raise OptionError("--weights none leaves --eval-mode nothing to evaluate: give a weight file")
    if options.baseline_path and not (Path(options.baseline_path) / "report.json").is_file():
        raise OptionError(
            f"--baseline-path {options.baseline_path}: holds no report.json: expected the --savedir of an evaluation"
        )
