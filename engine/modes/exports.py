"""``--export-weights`` and ``--export-onnx``: the network in files for other programs."""

import torch

from engine.network import with_network
from engine.options.settings import Settings
from models.inference.onnx import export_step
from models.inference.segmenter import refuse_untrained
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
    settings, model = with_network(settings, torch.device("cpu"))
    refuse_untrained(model)
    content = export_step(model, settings.data.work_size)
    try:
        with written_whole(path) as file:
            file.write(content)
    except OSError as error:
        raise OptionError(
            f"--export-onnx {path}: cannot be written ({error.strerror}): expected a file such as step.onnx"
        ) from error
    print(printable(f"{path}: written for frames of {format_size(settings.data.work_size, ' x ')}"))
