"""The settings of a command line, as frozen dataclasses. Imports no torch."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from models.choices import TORCH
from models.config import LMANetConfig
from utils.class_map import ClassMap
from utils.class_set import ClassSet

NO_WEIGHTS = "none"
AUTO = "auto"
SKIP_DAMAGE = "skip"
CROP = (713, 713)
SHIFT = 2  # pixels, the largest of the augmentation


@dataclass(frozen=True)
class NetworkSettings:
    """The network, the classes that it predicts, and the weights that it starts from (a file, or ``none``).

    ``work_size`` is the height and width of its frames. With ``other_classes`` weights for other classes may be loaded,
    and the classifier starts fresh; with ``resumes`` a checkpoint is read instead of the weights. ``class_map`` has
    made ``classes`` of others, those of a network that was trained without it.
    """

    config: LMANetConfig
    classes: ClassSet
    weights: str
    work_size: tuple[int, int]
    train_encoder: bool
    train_decoder: bool
    other_classes: bool
    resumes: bool
    class_map: ClassMap | None = None


@dataclass(frozen=True)
class FeatureSettings:
    """Where features of a frozen encoder are kept, of how many flips and shifts of a frame, and in which precision."""

    folder: str
    variants: int
    precision: str


@dataclass(frozen=True)
class DataSettings:
    """Which clips are read, and how.

    ``work_size`` is the height and width that frames are resized to, ``window`` the length of a clip in frames, the
    labeled one included, ``control`` the name of a control experiment, ``hold_out`` the share of the training clips
    that is validated on instead of the split val, 0 for none.
    """

    dataset: str
    root: str | None
    work_size: tuple[int, int]
    window: int
    cache: str | None
    batch_size: int
    num_workers: int
    retries: int
    crop: tuple[int, int] | None
    control: str | None
    original_labels: bool
    seed: int
    class_map: ClassMap | None = None
    features: FeatureSettings | None = None
    hold_out: float = 0.0


@dataclass(frozen=True)
class TrainSettings:
    """Epochs, learning rate, checkpoints and logs of a training; see the options of the same names."""

    num_epochs: int
    lr_start: float
    lr_strategy: str
    warm_start: int
    accumulate: int
    steps_loss: int
    epochs_save: int
    steps_save: int
    train_iou: bool
    val_iou: bool
    encoder_eval_mode: bool
    decoder_eval_mode: bool
    amp: str | None
    resume: bool
    seed: int
    patience: int = 0


@dataclass(frozen=True)
class StreamSettings:
    """The source, speed and outputs of a stream.

    With ``live`` the newest frame is taken; ``None`` leaves it to the source. One that goes away is waited for, as
    long as ``retries`` take. ``smooth`` is the kind of averaging over time and ``smooth_weight`` the share of the past
    (``AUTO``: chosen on training clips; ``None``: the default). ``int8`` names the source of calibration frames,
    and ``engine`` is one of ``ENGINES``;
    ``outputs`` are the values of the outputs' own options, by name.
    """

    source: str | None
    live: bool | None
    retries: int
    every: int
    detect_cuts: bool
    consistency: bool
    smooth: str | None
    smooth_weight: float | str | None
    compile: bool
    amp: str | None
    int8: str | None
    engine: str
    overwrite: bool
    skip_damage: bool
    outputs: Mapping[str, object]

    @property
    def is_for_cpu(self) -> bool:
        """Whether int8 or an engine was chosen that computes on the CPU alone."""
        return self.int8 is not None or self.engine != TORCH


@dataclass(frozen=True)
class ReportSettings:
    """The reports of an evaluation, or of the validations of a training."""

    iou: bool
    loss: bool
    original_size: bool
    consistency: bool
    save_images: bool
    save_predictions: bool
    baseline: str | None
    visualize: bool
    port: int
    steps_plot: int


@dataclass(frozen=True)
class ProcessSettings:
    """The number of processes, and where they rendezvous."""

    gpus: int
    nodes: int
    node: int
    master_addr: str
    port: int
    max_restarts: int


@dataclass(frozen=True)
class Settings:
    """One command line. ``training``, ``stream``, ``eval_mode``, ``benchmark`` and the three exports are the modes;
    ``backbones`` are those of ``--benchmark backbones``, ``axes`` those of ``--benchmark scaling``.

    ``command`` is the command line as it was typed. ``arguments`` are the values of all options by name, as files of a
    run hold them; ``untouched`` are those before any was derived from another, and ``typed`` the names of the options
    that were typed.
    """

    training: bool
    eval_mode: bool
    benchmark: str | None
    backbones: tuple[str, ...]
    axes: tuple[str, ...]
    export_onnx: str | None
    export_openvino: str | None
    export_weights: str | None
    savedir: str
    device: str
    tf32: str | None
    seed: int
    shallow: bool
    network: NetworkSettings
    data: DataSettings
    train: TrainSettings
    stream: StreamSettings
    report: ReportSettings
    processes: ProcessSettings
    plugins: tuple[str, ...]
    command: str
    arguments: Mapping[str, Any]
    untouched: Mapping[str, Any]
    typed: frozenset[str]


def settings_of(
    options: argparse.Namespace,
    config: LMANetConfig,
    classes: ClassSet,
    untouched: Mapping[str, Any],
    typed: frozenset[str],
    output_names: frozenset[str],
    command: str,
    class_map: ClassMap | None,
) -> Settings:
    """The settings of checked options."""
    return Settings(
        training=options.training,
        eval_mode=options.eval_mode,
        benchmark=options.benchmark,
        backbones=tuple(options.backbones),
        axes=tuple(options.axes),
        export_onnx=options.export_onnx,
        export_openvino=options.export_openvino,
        export_weights=options.export_weights,
        savedir=options.savedir,
        device=options.device,
        tf32=options.tf32,
        seed=options.seed,
        shallow=options.shallow_dec,
        network=NetworkSettings(
            config=config,
            classes=classes,
            weights=options.weights,
            work_size=options.work_size,
            train_encoder=options.train_encoder,
            train_decoder=options.train_decoder or options.train_erfnet_shallow_dec,
            other_classes=options.training,
            resumes=options.resume,
            class_map=class_map,
        ),
        data=DataSettings(
            dataset=options.dataset,
            root=options.data_root,
            work_size=options.work_size,
            window=options.win_size,
            cache=options.cache,
            features=FeatureSettings(options.cache_features, options.feature_variants, options.feature_precision)
            if options.cache_features
            else None,
            hold_out=options.hold_out,
            batch_size=options.batch_size,
            num_workers=options.num_workers,
            retries=options.retries,
            crop=CROP if options.random_crop else None,
            control=options.control,
            original_labels=options.use_orig_res,
            seed=options.seed,
            class_map=class_map,
        ),
        train=TrainSettings(
            num_epochs=options.num_epochs,
            lr_start=options.lr_start,
            lr_strategy=options.lr_strategy,
            warm_start=options.warm_start,
            accumulate=options.accumulate,
            steps_loss=options.steps_loss,
            epochs_save=options.epochs_save,
            steps_save=options.steps_save,
            train_iou=options.iouTrain,
            val_iou=options.iouVal,
            encoder_eval_mode=options.encoder_eval_mode,
            decoder_eval_mode=options.decoder_eval_mode,
            amp=options.amp,
            resume=options.resume,
            seed=options.seed,
            patience=options.patience,
        ),
        stream=StreamSettings(
            source=options.stream,
            live=options.live,
            retries=options.retries,
            every=options.every,
            detect_cuts=not options.no_cut_detection,
            consistency=options.consistency,
            smooth=options.smooth,
            smooth_weight=options.smooth_weight,
            compile=options.compile,
            amp=options.amp,
            int8=options.int8,
            engine=options.engine,
            overwrite=options.overwrite,
            skip_damage=options.on_damage == SKIP_DAMAGE,
            outputs={name: getattr(options, name) for name in sorted(output_names)},
        ),
        report=ReportSettings(
            iou=options.iouVal,
            loss=options.loss,
            original_size=options.use_orig_res,
            consistency=options.consistency,
            save_images=options.save_images,
            save_predictions=options.save_all_vals,
            baseline=options.baseline_path,
            visualize=options.visualize,
            port=options.port,
            steps_plot=options.steps_plot,
        ),
        processes=ProcessSettings(
            gpus=options.gpus,
            nodes=options.nodes,
            node=options.nr,
            master_addr=options.master_addr,
            port=options.mport,
            max_restarts=options.max_restarts,
        ),
        plugins=tuple(options.plugin),
        command=command,
        arguments=vars(options),
        untouched=untouched,
        typed=typed,
    )
