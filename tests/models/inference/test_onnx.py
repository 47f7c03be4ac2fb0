"""ONNX files in ONNX Runtime against the network itself."""

import json

import numpy as np
import pytest
import torch

from models import build_lmanet
from models.inference.onnx import empty_memory, export_step
from models.local_attention import local_attention
from models.local_attention.portable import portable_attention_of
from tests.networks import LMANetConfig
from utils.class_set import ClassSet
from utils.errors import OptionError

SIZE = (32, 64)

pytestmark = pytest.mark.usefixtures("one_thread")


def session_of(content: bytes):
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(
    "kind",
    [
        {},
        pytest.param({"memorize_first": True, "learnable_constant": True, "corr_size": 21}, marks=pytest.mark.slow),
        {"mask_border": True, "memory_size": 1},
        pytest.param({"backbone": "torchvision/lraspp_mobilenet_v3_large"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_ten_frames_give_the_logits_of_step(kind):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(**{"corr_size": 5, "memory_size": 3} | kind)).eval()
    if model.config.learnable_constant:
        torch.nn.init.constant_(model.attention_constant, 2.0)
    session = session_of(export_step(model, SIZE))
    state, memory = [tensor.numpy() for tensor in empty_memory(model, SIZE)], None
    for number in range(10):
        frame = torch.rand(1, 3, *SIZE)
        with torch.inference_mode():
            expected, memory = model.step(frame, memory)
        inputs = dict(zip(("frame", "keys", "values", "filled"), [frame.numpy(), *state], strict=True))
        logits, *state = session.run(["logits", "new_keys", "new_values", "new_filled"], inputs)
        # Fresh weights give small logits: their spread is the measure.
        assert np.abs(logits - expected.numpy()).max() < 1e-3 * min(1, expected.std().item())
        assert state[2] == min(number + 1, model.config.memory_size)
    assert np.abs(state[0] - memory.keys.numpy()).max() < 1e-3


def test_a_size_that_the_backbone_does_not_take_is_refused():
    with pytest.raises(ValueError, match="the frame's height is 41: erf takes 40 or 48"):
        export_step(build_lmanet(LMANetConfig()), (41, 64))


def test_a_single_frame_network_too():
    pytest.importorskip("onnxscript")
    model = build_lmanet(LMANetConfig(baseline=True)).eval()
    frame = torch.rand(1, 3, *SIZE)
    (logits,) = session_of(export_step(model, SIZE)).run(None, {"frame": frame.numpy()})
    with torch.inference_mode():
        assert np.abs(logits - model.step(frame)[0].numpy()).max() < 1e-3


@pytest.mark.parametrize("window", [3, 9, 41])
@pytest.mark.parametrize("with_sink", [False, True])
def test_absent_frames_are_as_if_they_were_not_there(window, with_sink):
    torch.manual_seed(0)
    sizes = (1, 4, 9, 18), (1, 4, 3, 9, 18), (1, 5, 3, 9, 18)
    query, keys, values = (torch.randn(size, dtype=torch.float64) for size in sizes)
    sink = torch.tensor([0.7]) if with_sink else None
    for filled in (1, 2, 3):
        present = torch.arange(3) >= 3 - filled
        found = portable_attention_of(present, query, keys, values, window, sink)
        expected = local_attention(query, keys[:, :, -filled:], values[:, :, -filled:], window, sink, "reference")
        assert torch.allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("kind", [{"structure": "mem_only"}, {"local": False}])
def test_networks_without_such_a_form_are_refused(kind):
    with pytest.raises(OptionError, match="--export-onnx does not go with --"):
        export_step(build_lmanet(LMANetConfig(**kind)), SIZE)


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(OptionError, match="pip install onnx onnxscript"):
        export_step(build_lmanet(LMANetConfig(baseline=True)), SIZE)


def test_the_file_says_which_network_and_classes_it_is_for():
    classes = ClassSet(("sky", "sea"), ((0, 0, 255), (0, 128, 128)))
    config = LMANetConfig(corr_size=3, memory_size=2, num_classes=3)
    session = session_of(export_step(build_lmanet(config, classes), SIZE))
    properties = session.get_modelmeta().custom_metadata_map
    assert json.loads(properties["classes"])["names"] == ["sky", "sea"]
    network = json.loads(properties["network"])
    assert (network["corr_size"], network["memory_size"]) == (3, 2)
