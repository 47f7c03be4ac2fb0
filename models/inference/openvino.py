"""OpenVINO files: one step of a stream whose memory is the state of the model, or the single-frame network.

A program feeds frames and reads logits; ``reset_state()`` of an inference request empties the memory. The graph is that
of the ONNX export, whose memory becomes variables that are read before and assigned after each frame.
"""

import importlib.util
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from models.inference.onnx import NEEDED, STREAM_INPUTS, STREAM_OUTPUTS, export_step, metadata
from models.lmanet import LMANet
from utils.errors import OptionError
from utils.modules import check_importable, left_out

if TYPE_CHECKING:
    from openvino import Model

PACKAGES = (*NEEDED, "openvino")
SECTION = "lmanet"  # of the model's rt_info


def openvino_module(user: str) -> ModuleType:
    """The package, without its telemetry, which would report each import over the network.

    ``user`` is what needs it. Raises ``OptionError`` where it, or what writes its graphs, is not installed.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise OptionError(f"{user} needs {', '.join(PACKAGES)}: pip install {' '.join(missing)}")
    with left_out("openvino_telemetry"):
        check_importable("openvino", f"{user} needs openvino", "pip install openvino")
        import openvino
        import openvino.passes
    return openvino


def export_stateful_step(
    model: LMANet, size: tuple[int, int], program_version: str, option: str = "--export-openvino"
) -> tuple[bytes, bytes]:
    """The XML and the weights of one streaming step for frames of that size, or of the single frame in baseline mode.

    Its input is ``frame`` ``1 3 H W``, its output ``logits`` ``1 K H W``; keys, values and ``filled`` are its state.
    Errors are those of the ONNX export.
    """
    openvino = openvino_module(option)
    graph = openvino.Core().read_model(export_step(model, size, option))
    if not model.config.baseline:
        _keep_as_state(openvino, graph)
    for name, text in {**metadata(model), "frame_size": list(size), "program_version": program_version}.items():
        graph.set_rt_info(str(text), [SECTION, name])
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder) / "step.xml", Path(folder) / "step.bin"
        openvino.serialize(graph, xml, weights)
        return xml.read_bytes(), weights.read_bytes()


def _keep_as_state(openvino: ModuleType, graph: "Model") -> None:
    """Makes the memory's inputs and outputs variables, which begin and after a reset begin again with zeros."""
    passes = openvino.passes.Manager()
    pairs = dict(zip(STREAM_INPUTS[1:], STREAM_OUTPUTS[1:], strict=True))
    passes.register_pass(openvino.passes.MakeStateful(pairs))
    passes.run_passes(graph)
    for variable in graph.get_variables():
        info = variable.get_info()
        info.variable_id = next(name for name, new in pairs.items() if info.variable_id == name + new)
        variable.update(info)
