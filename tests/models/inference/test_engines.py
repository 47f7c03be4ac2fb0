"""A stream that ONNX Runtime or OpenVINO computes: the logits of PyTorch."""

import importlib.util

import numpy as np
import pytest
import torch

from models import VideoSegmenter, build_lmanet
from models.inference import engines
from models.inference.fast_copy import fast_copy
from models.inference.openvino import openvino_module
from tests.networks import LMANetConfig
from utils.errors import OptionError

SIZE = (32, 64)
TOLERANCE = 1e-3  # of the spread of the logits
ENGINES = ("onnxruntime", "openvino")

pytestmark = pytest.mark.usefixtures("one_thread")


def network(**fields):
    torch.manual_seed(0)
    return build_lmanet(LMANetConfig(**{"corr_size": 5, "memory_size": 2, "num_classes": 3} | fields)).eval()


@pytest.fixture
def installed():
    for name in ("onnx", "onnxscript", *ENGINES):  # found and not imported: openvino's telemetry would report that
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@pytest.fixture
def graphs(monkeypatch):
    """Parts are exported once for both engines."""
    made, export = {}, engines.exported

    def exported(part, inputs, names):
        weights = sum(each.double().sum().item() for each in part.parameters())
        key = type(part).__name__, tuple(tuple(each.shape) for each in inputs), weights
        if key not in made:
            made[key] = export(part, inputs, names)
        return made[key]

    monkeypatch.setattr(engines, "exported", exported)


def worst(expected, found, frames=5):
    """The largest difference of two segmenters in spreads of the logits, over a video, and of a frame alone."""
    differences, random = [], np.random.default_rng(0)
    expected.reset()
    for number in range(frames):
        image = expected.prepare(random.integers(0, 256, (*SIZE, 3), np.uint8))
        pair = [each.step(image, use_memory=number < frames - 1).logits for each in (expected, found)]
        differences.append(((pair[0] - pair[1]).abs().max() / pair[0].std()).item())
    return max(differences)


@pytest.mark.usefixtures("installed", "graphs")
@pytest.mark.parametrize(
    "fields",
    [
        {},
        *(
            pytest.param(each, marks=pytest.mark.slow)
            for each in (
                {"baseline": True},
                {"structure": "mem_only"},
                {"structure": "original_kv_fusion"},
                {"fusion": "concat", "memorize_first": True},
                {"fusion": "residual", "mask_border": True},
                {"local": False},
                {"shallow_decoder": True},
                {"backbone": "torchvision/lraspp_mobilenet_v3_large"},
                {"backbone": "smp/Unet:resnet18"},
            )
        ),
    ],
    ids=str,
)
def test_a_video_gives_the_logits_of_pytorch(fields):
    if fields.get("backbone", "").startswith("smp/"):
        pytest.importorskip("segmentation_models_pytorch")
    model = network(**fields)
    expected = VideoSegmenter(model, work_size=SIZE)
    for engine in ENGINES:
        found = VideoSegmenter(model, work_size=SIZE, engine=engine)
        assert worst(expected, found) < TOLERANCE
        parts = [type(found.model.encoder).__name__, type(found.model.decoder).__name__]
        assert parts == [{"onnxruntime": "RuntimePart", "openvino": "OpenVinoPart"}[engine]] * 2
        with pytest.raises(ValueError, match=r"input has shape \(1, 3, 64, 64\): expected \(1, 3, 32, 64\)"):
            found.model.encoder(torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_bfloat16_rounds_and_float32_does_not():
    model = network(baseline=True)
    expected, found = (VideoSegmenter(model, work_size=SIZE, engine="openvino", amp=amp) for amp in (False, "bfloat16"))
    difference = worst(expected, found)
    openvino = openvino_module("a test")
    has_bfloat16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert difference < 0.1
    assert difference > 1e-4 or not has_bfloat16  # 8 bits of mantissa


@pytest.mark.usefixtures("installed")
def test_graphs_run_in_the_threads_of_pytorch(monkeypatch):
    asked = []
    core = type("Core", (), {"read_model": lambda self, content: content})
    core.compile_model = lambda self, graph, device, settings: asked.append((device, settings)) or _Compiled()
    module = type("Module", (), {"Core": core, "Tensor": None})
    monkeypatch.setattr(engines, "openvino_module", lambda user: module)
    engines.OpenVinoPart(b"", "f32")
    (device, settings), threads = asked[0], torch.get_num_threads()
    assert (device, settings["INFERENCE_NUM_THREADS"], settings["INFERENCE_PRECISION_HINT"]) == ("CPU", threads, "f32")


class _Compiled:
    inputs = outputs = ()

    def create_infer_request(self):
        return None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": "tensorrt"}, "engine is 'tensorrt': expected one of torch, onnxruntime, openvino"),
        ({"engine": "openvino", "compiled": True}, "engine openvino is for the CPU and does not go with compiled"),
        ({"engine": "onnxruntime", "device": "meta"}, "does not go with device meta"),
        ({"engine": "openvino", "int8_frames": []}, "does not go with int8"),
        ({"engine": "onnxruntime", "amp": True}, "engine onnxruntime does not compute in bfloat16: leave amp out"),
        ({"engine": "openvino", "amp": "float16"}, "engine openvino does not compute in float16"),
    ],
)
def test_what_does_not_go_together_is_said(settings, message):
    with pytest.raises(OptionError, match=message):
        VideoSegmenter(network(baseline=True), work_size=SIZE, **settings)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_installed_is_said(monkeypatch, engine):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == engine else True)
    with pytest.raises(OptionError, match=f"^engine {engine} needs .*: pip install {engine}$"):
        engines.use_engine(fast_copy(network(baseline=True)), engine, SIZE)


@pytest.mark.usefixtures("installed")
def test_a_part_that_has_no_graph_is_named(monkeypatch):
    def fails(*_):
        raise RuntimeError("no operator for unfold3d\nmore")

    monkeypatch.setattr(engines, "exported", fails)
    with pytest.raises(OptionError, match=r"the encoder of erf has no graph for frames of 32 x 64 \(no operator for"):
        engines.use_engine(fast_copy(network(baseline=True)), "onnxruntime", SIZE)
