"""``--export-weights``, ``--export-onnx`` and ``--export-openvino``: the network in files for other programs."""

from pathlib import Path

import torch

from engine.network import with_network
from engine.options.settings import Settings
from engine.version import program_version
from models.inference.onnx import export_step
from models.inference.openvino import export_stateful_step
from models.inference.segmenter import refuse_untrained
from models.lmanet import LMANet
from models.weights.export import export_weights
from utils.errors import OptionError
from utils.files import written_whole
from utils.printable import printable
from utils.sizes import format_size


def run_export(settings: Settings, path: str) -> None:
    """Writes the weights to ``path``, under the published names."""
    _, model = with_network(settings, torch.device("cpu"))
    kind = export_weights(model, path, trained=False)
    print(printable(f"{path}: written as {kind}"))


def run_onnx_export(settings: Settings, path: str) -> None:
    """Writes one step of a stream, or the single-frame network, to ``path`` as ONNX.

    Raises ``OptionError`` where the file cannot be written.
    """
    settings, model = _trained_network(settings)
    content = export_step(model, settings.data.work_size)
    try:
        with written_whole(path) as file:
            file.write(content)
    except OSError as error:
        raise _unwritable("--export-onnx", path, error, "step.onnx") from error
    print(printable(f"{path}: written for frames of {format_size(settings.data.work_size, ' x ')}"))


def run_openvino_export(settings: Settings, path: str) -> None:
    """Writes the same as an OpenVINO model: ``path``, which ends with ``.xml``, and its weights beside it, ``.bin``.

    Raises ``OptionError`` where a file cannot be written, or is there and no part of an earlier model.
    """
    xml = Path(path)
    weights = xml.with_suffix(".bin")
    if weights.is_dir() or (weights.exists() and not xml.exists()):
        raise OptionError(
            f"--export-openvino {path}: {weights} is no part of an earlier model, as {xml.name} is not there or it is "
            "a folder, and is not replaced: expected another name"
        )
    settings, model = _trained_network(settings)
    content, weights_content = export_stateful_step(model, settings.data.work_size, program_version())
    try:
        with written_whole(xml) as file:
            file.write(content)
            file.flush()
            with written_whole(weights) as weights_file:
                weights_file.write(weights_content)
                weights_file.flush()
                xml.unlink(missing_ok=True)  # a model is never there with the weights of another
    except OSError as error:
        raise _unwritable("--export-openvino", path, error, "step.xml") from error
    print(printable(f"{xml}, {weights}: written for frames of {format_size(settings.data.work_size, ' x ')}"))


def _trained_network(settings: Settings) -> tuple[Settings, LMANet]:
    settings, model = with_network(settings, torch.device("cpu"))
    refuse_untrained(model)
    return settings, model


def _unwritable(option: str, path: str, error: OSError, example: str) -> OptionError:
    return OptionError(f"{option} {path}: cannot be written ({error.strerror}): expected a file such as {example}")
