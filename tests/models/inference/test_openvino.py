"""OpenVINO models with the memory as state against the network itself."""

import importlib.util
import json
import sys

import numpy as np
import pytest
import torch

from models import build_lmanet
from models.inference.openvino import PACKAGES, export_stateful_step, openvino_module
from tests.networks import LMANetConfig
from utils.class_set import ClassSet
from utils.errors import OptionError

SIZE = (32, 64)
TOLERANCE = 1e-3  # of the spread of the logits
CLASSES = ClassSet(("sky", "sea"), ((0, 0, 255), (0, 128, 128)))

pytestmark = pytest.mark.usefixtures("one_thread")


def network(**fields):
    """A network whose logits depend on what is in its memory."""
    torch.manual_seed(0)
    config = LMANetConfig(**{"corr_size": 5, "memory_size": 3, "num_classes": 3} | fields)
    model = build_lmanet(config, CLASSES).eval()
    if not config.baseline:
        with torch.no_grad():
            for head in (model.memory_head, model.query_head):
                head.key.weight.mul_(20)
                if hasattr(head.value, "weight"):
                    head.value.weight.mul_(20)
    return model


@pytest.fixture(scope="module", autouse=True)
def installed():
    for name in PACKAGES:  # found and not imported: the telemetry of openvino would report that
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="module")
def exported():
    """A network, and its model as files hold it."""
    model = network()
    return model, export_stateful_step(model, SIZE, "1.2.3")


def loaded(files, folder):
    openvino = openvino_module("a test")
    (folder / "step.xml").write_bytes(files[0])
    (folder / "step.bin").write_bytes(files[1])
    return openvino.Core().read_model(folder / "step.xml")


def request_of(files, folder):
    openvino = openvino_module("a test")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    return openvino.Core().compile_model(loaded(files, folder), "CPU", settings).create_infer_request()


def largest_difference(model, request, frames, resets=()):
    """The largest difference to ``step`` in spreads of its logits, over random frames, with resets before some."""
    memory, found = None, []
    for number in range(frames):
        if number in resets:
            request.reset_state()
            memory = None
        frame = torch.rand(1, 3, *SIZE)
        with torch.inference_mode():
            expected, memory = model.step(frame, memory)
        logits = request.infer({"frame": frame.numpy()})["logits"]
        found.append(np.abs(logits - expected.numpy()).max() / expected.std().item())
    return max(found)


def test_the_memory_fills_overflows_and_begins_anew_as_that_of_step(exported, tmp_path):
    model, files = exported
    request = request_of(files, tmp_path)
    assert largest_difference(model, request, 12, resets=[7]) < TOLERANCE
    # A memory that is not emptied tells: what is compared depends on it.
    assert largest_difference(model, request, 1) > 10 * TOLERANCE


@pytest.mark.slow
def test_a_thousand_frames_with_resets(exported, tmp_path):
    model, files = exported
    assert largest_difference(model, request_of(files, tmp_path), 1000, resets=[2, 500]) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"memorize_first": True, "learnable_constant": True},
        {"mask_border": True, "memory_size": 1},
        {"fusion": "residual"},
        {"backbone": "torchvision/lraspp_mobilenet_v3_large"},
        {"backbone": "smp/FPN:resnet18"},
    ],
    ids=str,
)
def test_other_networks(fields, tmp_path):
    if fields.get("backbone", "").startswith("smp/"):
        pytest.importorskip("segmentation_models_pytorch")
    model = network(**fields)
    assert largest_difference(model, request_of(export_stateful_step(model, SIZE, "1"), tmp_path), 8, [5]) < TOLERANCE


def test_a_single_frame_network_has_no_state(tmp_path):
    model = network(baseline=True)
    request = request_of(export_stateful_step(model, SIZE, "1"), tmp_path)
    assert request.query_state() == []
    assert largest_difference(model, request, 2) < TOLERANCE


def test_the_model_says_what_it_is(exported, tmp_path):
    graph = loaded(exported[1], tmp_path)
    assert [each.any_name for each in (*graph.inputs, *graph.outputs)] == ["frame", "logits"]
    found = {name: graph.get_rt_info(["lmanet", name]).astype(str) for name in graph.get_rt_info("lmanet").astype(dict)}
    assert json.loads(found["classes"])["names"] == ["sky", "sea"]
    assert json.loads(found["network"])["memory_size"] == 3
    assert (json.loads(found["mean"]), json.loads(found["frame_size"])) == (None, [32, 64])
    assert found["program_version"] == "1.2.3"
    assert {each.get_info().variable_id for each in graph.get_variables()} == {"keys", "values", "filled"}


def test_no_telemetry_is_imported():
    openvino_module("a test")
    assert "openvino_telemetry" not in sys.modules
    assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__ == "openvino.tools.ovc.telemetry_stub"


def test_networks_without_such_a_form_are_refused():
    with pytest.raises(OptionError, match="--export-openvino does not go with --model-struct mem_only"):
        export_stateful_step(network(structure="mem_only"), SIZE, "1")


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else True)
    with pytest.raises(OptionError, match=r"needs onnx, onnxscript, openvino: pip install openvino$"):
        export_stateful_step(network(baseline=True), SIZE, "1")
