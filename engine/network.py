"""Builds the network of the settings, with the options that its weight file holds."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from datasets.registry import dataset_named
from engine.options.checks import OPTION_OF_FIELD, fields_of, option_text, with_fields, with_values
from engine.options.settings import NO_WEIGHTS, NetworkSettings, Settings
from models.backbone import backbone_card, is_registered
from models.lmanet import LMANet, build_lmanet
from models.merged_classes import merge_classes
from models.weights.load import WeightFile, load_weights, read_weights
from models.weights.saved_options import SavedOptions, options_in
from utils.class_set import ClassSet
from utils.errors import OptionError, WeightsError
from utils.sizes import format_size

log = logging.getLogger(__name__)


def with_network(settings: Settings, device: torch.device) -> tuple[Settings, LMANet]:
    """The settings, completed by the options of the weight file, and the network on its device.

    Options in the file that were not typed are taken from it, which is logged. Raises ``WeightsError`` where typed
    options contradict the file, and ``OptionError`` where its classes are not those of the data set.
    """
    network = settings.network
    if network.weights == NO_WEIGHTS or network.resumes:
        return settings, _built(network, None, device)
    file = read_weights(network.weights)
    settings = _inherited(settings, file)
    network = settings.network
    before = _classes_before_map(settings, file)
    if before is None or network.class_map is None:
        return settings, _built(network, file, device)
    config = replace(network.config, num_classes=before.num_outputs)
    model = _built(replace(network, config=config, classes=before), file, device)
    merge_classes(model, network.class_map.new_indices(before), network.classes)
    return settings, model


def arguments_with_file(arguments: Mapping[str, Any], typed: frozenset[str]) -> dict[str, Any] | None:
    """Values of options by name, completed by what ``--weights`` says of its network; ``None`` where it says nothing.

    Raises ``WeightsError`` where typed options contradict the file.
    """
    path = arguments["weights"]
    if arguments["resume"] or arguments["benchmark"] or not Path(path).exists():
        return None
    try:
        options = read_weights(path).options
    except WeightsError:
        return None  # said where the network is built
    if options is None:
        return None
    return with_values(arguments, *_taken(options, path, arguments, typed))


def _taken(
    options: SavedOptions, label: str, arguments: Mapping[str, Any], typed: frozenset[str]
) -> tuple[dict[str, object], tuple[int, int] | None]:
    """Fields of ``LMANetConfig`` and the size of frames that a file knows and that were not typed."""

    def contradiction(field: str, wanted: object, found: object) -> str:
        return (
            f"{option_text(field, wanted)} contradicts {label}, whose network was trained "
            f"{option_text(field, found, 'with ')}: leave it out"
        )

    trains = bool(arguments["training"])
    taken = options.inherited(fields_of(arguments, typed), trains, contradiction)
    return taken, None if "work_size" in typed or trains else options.work_size


def with_checkpoint(settings: Settings, content: Mapping[str, object], label: str) -> Settings:
    """The settings, completed by the options of a checkpoint that is resumed, as far as they were not typed.

    Typed ones that differ are refused where the training is resumed.
    """
    options, typed = options_in(content, label), fields_of(settings.untouched, settings.typed)
    if options is None:
        return settings
    taken = {name: value for name, value in options.network.items() if name in OPTION_OF_FIELD and name not in typed}
    completed = with_fields(settings, taken)
    _log_taken(settings, completed, label, taken)
    return completed


def _built(network: NetworkSettings, file: WeightFile | None, device: torch.device) -> LMANet:
    """The network with its weights; encoder and decoder are frozen unless they are trained."""
    model = build_lmanet(network.config, network.classes, network.work_size)
    if file is not None:
        load_weights(model, file, network.other_classes)
        if not network.train_decoder and network.other_classes and model.starts_fresh("decoder."):
            log.warning("%s: the decoder's fresh layers are not trained: add --train-decoder", file.label)
    if not network.train_encoder:
        model.encoder.requires_grad_(False)
    if not network.train_decoder:
        model.decoder.requires_grad_(False)
    return model.to(device).to(memory_format=torch.channels_last)


def _inherited(settings: Settings, file: WeightFile) -> Settings:
    """The settings with the classes and options of a weight file where they were not typed."""
    options = file.options
    classes = _classes(settings, file)
    if options is None:
        return settings if classes is None else with_fields(settings, {}, classes)

    taken, work_size = _taken(options, file.label, settings.untouched, settings.typed)
    completed = _with_file(settings, file.label, taken, classes, work_size)
    _log_taken(settings, completed, file.label, taken)
    trained, runs = options.network.get("memory_size"), completed.network.config.memory_size
    if options.holds_memory and "stm_queue_size" in settings.typed and trained != runs:
        log.info("%s: was trained with %s frames in the memory, runs with %s as typed", file.label, trained, runs)
    return completed


def _with_file(
    settings: Settings,
    label: str,
    taken: dict[str, object],
    classes: ClassSet | None,
    work_size: tuple[int, int] | None,
) -> Settings:
    """The settings with what is taken from a file; raises ``OptionError`` that says so where that cannot be."""
    backbone = taken.get("backbone")
    if backbone is not None and not is_registered(str(backbone)):
        raise OptionError(
            f"{label}: its network is on --backbone {backbone}, which is not known: add the --plugin that registers it"
        )
    try:
        return with_fields(settings, taken, classes, work_size)
    except OptionError as error:
        raise OptionError(f"{error} ({label} says {', '.join(_changed(settings, taken))})") from error


def _classes(settings: Settings, file: WeightFile) -> ClassSet | None:
    """The file's classes where they replace those of the data set, as no labels are read; else ``None``."""
    theirs, own, class_map = file.classes, settings.network.classes, settings.network.class_map
    if class_map is not None and _is_own_stream(settings):
        return class_map.applied(theirs or own)
    if theirs is None or theirs.names == own.names or settings.training:
        return None
    if class_map is not None and theirs.names == dataset_named(settings.data.dataset).classes.names:
        return None  # they are merged once the network is built
    if settings.eval_mode or "dataset" in settings.typed:
        raise OptionError(
            f"{file.label}: predicts {len(theirs.names)} classes ({_some(theirs)}), --dataset {settings.data.dataset} "
            f"has {len(own.names)} ({_some(own)}): expected weights for these, or the data set of the training"
        )
    return theirs


def _classes_before_map(settings: Settings, file: WeightFile) -> ClassSet | None:
    """The classes that a file's network predicts and ``--classes`` maps; ``None`` where it predicts what it maps to."""
    network, theirs = settings.network, file.classes
    if network.class_map is None or settings.training:
        return None
    whole = dataset_named(settings.data.dataset).classes
    if _is_own_stream(settings):
        return theirs or whole
    if theirs is not None:
        return None if theirs.names == network.classes.names else whole
    count = file.num_classes(network.config.backbone, network.config.shallow_decoder)
    return None if count == network.config.num_classes != whole.num_outputs else whole


def _is_own_stream(settings: Settings) -> bool:
    """Whether the classes are those of the weight file alone."""
    return settings.stream.source is not None and "dataset" not in settings.typed


def _some(classes: ClassSet) -> str:
    return ", ".join(classes.names[:3]) + (", ..." if len(classes.names) > 3 else "")


def _log_taken(before: Settings, after: Settings, label: str, taken: dict[str, object]) -> None:
    """Logs what a file has changed in the options as they were parsed."""
    texts = _changed(before, taken)
    if before.data.work_size != after.data.work_size:
        texts.append(f"--work-size {format_size(after.data.work_size)}")
    if texts:
        log.info("%s: %s taken from the file", label, ", ".join(texts))
    if after.network.classes is not before.network.classes:
        log.info("%s: predicts %s", label, _some(after.network.classes))


def _changed(settings: Settings, taken: dict[str, object]) -> list[str]:
    """The options that a file says otherwise than they were parsed."""
    parsed = fields_of(settings.untouched)
    if "fusion" in taken and parsed["fusion"] is None:
        backbone = str(taken.get("backbone", parsed["backbone"]))
        parsed["fusion"] = backbone_card(backbone).traits.default_fusion
    return [option_text(field, value) for field, value in taken.items() if parsed[field] != value]
