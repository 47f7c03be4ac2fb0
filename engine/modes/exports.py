"""``--export-weights`` and ``--export-onnx``: the network as files for other programs."""

import argparse

import torch

from engine import build
from models.inference.onnx import export_step
from models.inference.segmenter import refuse_untrained_memory
from models.weights.files import export_weights
from utils.errors import OptionError
from utils.files import written_whole


def run_export(options: argparse.Namespace) -> None:
    model = build.model_with_weights(options, torch.device("cpu"))
    kind = export_weights(model, options.export_weights, trained=False)
    print(f"{options.export_weights}: written as {kind}")


def run_onnx_export(options: argparse.Namespace) -> None:
    model = build.model_with_weights(options, torch.device("cpu"))
    refuse_untrained_memory(model)
    content = export_step(model, options.work_size)
    try:
        with written_whole(options.export_onnx) as file:
            file.write(content)
    except OSError as error:
        raise OptionError(
            f"--export-onnx {options.export_onnx}: cannot be written ({error.strerror}): "
            "expected a file such as step.onnx"
        ) from error
    print(f"{options.export_onnx}: written for frames of {' x '.join(str(side) for side in options.work_size)}")
