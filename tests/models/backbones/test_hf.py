"""``--backbone hf/FOLDER``: folders that transformers saved as video networks."""

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import datasets
from models import LMANetConfig, VideoSegmenter, build_lmanet, load_weights
from models.backbone import backbone_card
from models.weights.load import read_weights
from utils.errors import OptionError, WeightsError

transformers = pytest.importorskip("transformers", reason="requirements-networks.txt is not installed")
pytestmark = pytest.mark.usefixtures("one_thread")

LABELS = {0: "road", 1: "car", 2: "tree", 3: "sky"}
NAMES = {"id2label": LABELS, "label2id": {name: number for number, name in LABELS.items()}}
STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32]}
TOKENS = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
PATCHES = TOKENS | {"image_size": 64, "patch_size": 16}


def segformer():
    heads = {"num_attention_heads": [1, 2, 3, 4], "decoder_hidden_size": 16}
    return transformers.SegformerForSemanticSegmentation(transformers.SegformerConfig(**STAGES, **heads, **NAMES))


def upernet():
    body = transformers.ConvNextConfig(**STAGES, out_features=["stage1", "stage2", "stage3", "stage4"])
    config = transformers.UperNetConfig(backbone_config=body, hidden_size=16, auxiliary_channels=8, **NAMES)
    return transformers.UperNetForSemanticSegmentation(config)


def mobilenet():
    config = transformers.MobileNetV2Config(depth_multiplier=0.25, **NAMES)
    return transformers.MobileNetV2ForSemanticSegmentation(config)


def mobilevit():
    sizes = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 24, 24, 32]}
    return transformers.MobileViTForSemanticSegmentation(transformers.MobileViTConfig(**sizes, **NAMES))


def dpt():
    neck = {"neck_hidden_sizes": [8, 8, 16, 16], "fusion_hidden_size": 8, "backbone_out_indices": [0, 1, 2, 3]}
    return transformers.DPTForSemanticSegmentation(transformers.DPTConfig(**PATCHES, **neck, **NAMES))


def beit():
    return transformers.BeitForSemanticSegmentation(
        transformers.BeitConfig(**PATCHES, out_indices=[1, 2, 3, 4], **NAMES)
    )


def data2vec():
    config = transformers.Data2VecVisionConfig(**PATCHES, out_indices=[1, 2, 3, 4], **NAMES)
    return transformers.Data2VecVisionForSemanticSegmentation(config)


@pytest.fixture
def saved(tmp_path):
    """Saves a network with its preprocessing in a folder, and returns both."""

    def save(make, **preprocessing):
        torch.manual_seed(0)
        network, folder = make().eval(), tmp_path / make.__name__
        network.save_pretrained(folder)
        if preprocessing:
            (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
        return network, folder

    return save


def checked(network, folder):
    backbone = f"hf/{folder}"
    fields = {"backbone": backbone, "memory_size": 2, "corr_size": 3, "num_classes": 5}
    model = build_lmanet(LMANetConfig(**fields)).eval()
    report = load_weights(model, folder)
    assert not [name for name in report.fresh if name.startswith(("encoder.", "decoder."))]
    assert all(name.startswith("auxiliary_head.") for name in report.unused)
    size = tuple(model.config.traits.nearest_sides(side)[-1] for side in (64, 64))
    clip = torch.rand(1, 3, 3, *size)
    with torch.inference_mode():
        expected = network(clip[:, 0]).logits
        if expected.shape[-2:] != size:
            expected = F.interpolate(expected, size, mode="bilinear", align_corners=False)
        assert torch.equal(model.single_frame(clip[:, 0])[:, :4], expected)
        last, memory = model(clip)[:, 0], None
        for frame in clip.unbind(1):
            logits, memory = model.step(frame, memory)
        assert (logits - last).abs().max() < 1e-5 * max(1, last[:, :4].abs().max())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    losses = []
    for _ in range(2):
        loss = F.cross_entropy(model(clip)[:, 0], torch.ones(1, *size, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]


def test_segformer_says_its_classes_and_normalization(saved):
    network, folder = saved(segformer, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    checked(network, folder)
    traits = backbone_card(f"hf/{folder}").traits
    assert (traits.mean, traits.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (traits.features, traits.stride) == (24, 16)
    segmenter = VideoSegmenter(folder)
    assert segmenter.classes.names == tuple(LABELS.values()) and segmenter.model.config.baseline
    # The project's folder of that name is what it was, although transformers looks for a package called so.
    assert Path(sys.modules["datasets"].__file__).parent == Path(datasets.__file__).parent
    assert not hasattr(datasets, "Dataset")


@pytest.mark.slow
@pytest.mark.parametrize("make", [upernet, mobilenet, mobilevit, dpt, beit, data2vec])
def test_other_models_of_transformers(make, saved):
    checked(*saved(make))


def edited(folder, **values):
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | values))


def test_folders_that_are_refused(saved, tmp_path):
    _, folder = saved(segformer)
    with pytest.raises(OptionError, match="there is no such file: expected a folder as save_pretrained writes it"):
        backbone_card(f"hf/{tmp_path}")
    for values, reason in (
        ({"auto_map": {"AutoModel": "code.Network"}}, "its auto_map names code of the folder, which is not run"),
        ({"auto_map": None, "architectures": ["Mask2FormerForUniversalSegmentation"]}, "predicts masks by queries"),
        ({"architectures": ["SegformersForSemanticSegmentation"]}, "expected SegformerForSemanticSegmentation"),
        ({"architectures": "no list"}, "architectures is 'no list': expected a list of one name"),
    ):
        edited(folder, **values)
        with pytest.raises(OptionError) as error:
            backbone_card(f"hf/{folder}")
        assert reason in str(error.value) and "\n" not in str(error.value)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot be read"):
        read_weights(folder)


def test_a_pickle_is_read_as_data_only(saved):
    network, folder = saved(segformer)
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"is a folder without model\.safetensors"):
        read_weights(folder)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    assert set(read_weights(folder).tensors) == set(network.state_dict())
    torch.save({"weights": network}, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="holds more than tensors and could run code"):
        read_weights(folder)
