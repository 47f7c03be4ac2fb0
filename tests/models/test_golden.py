"""The networks against reference tensors that the published ones gave (``../shared/golden/README.md``)."""

import numpy as np
import pytest
import torch

from models import build_lmanet, load_weights
from tests.networks import LMANetConfig

BIGGEST_DIFFERENCE = 2e-4  # of the tensor's standard deviation
EQUAL_PREDICTIONS = 0.9999


def assert_agrees(found: torch.Tensor, expected: np.ndarray):
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() <= BIGGEST_DIFFERENCE * expected.std()


def assert_logits_agree(logits: torch.Tensor, golden):
    assert_agrees(logits[..., ::4, ::4], golden["logits_every_4th_pixel"])
    assert (logits.argmax(2).numpy() == golden["prediction"]).mean() >= EQUAL_PREDICTIONS


def loaded(config: LMANetConfig, weights: dict[str, torch.Tensor]):
    model = build_lmanet(config).eval()
    load_weights(model, weights)
    return model


@pytest.fixture(scope="module")
def lmanet_erf(published):
    config = LMANetConfig(backbone="erf", memory_size=3, corr_size=21, fusion="sigmoid-do1")
    return loaded(config, published("lmanet_erf"))


@pytest.mark.parametrize(
    ("backbone", "file", "encoded", "channels", "size"),
    [
        ("erf", "erfnet", "encoder", 1, (128, 256)),
        ("psp101", "lmanet_psp101", "encoder_every_16th_channel", 16, (105, 137)),
    ],
)
def test_single_frame_network_agrees(shared, published, made_clip, backbone, file, encoded, channels, size):
    golden = np.load(shared / "golden" / f"{'erf' if backbone == 'erf' else 'psp101'}_baseline.npz")
    model = loaded(LMANetConfig(backbone=backbone, baseline=True), published(file))
    clip = made_clip(1, 1, *size)
    with torch.inference_mode():
        assert_agrees(model.encoder(clip[:, -1])[:, ::channels], golden[encoded])
        assert_logits_agree(model(clip), golden)


def assert_every_stage_agrees(model, clip, golden, channels: int, suffix: str):
    with torch.inference_mode():
        memory = None
        for frame in clip[:, :-1].unbind(1):
            memory = model.push(memory, *model.memory_head(model.encoder(frame)))
        features = model.encoder(clip[:, -1])
        key, value = model.query_head(features)
        read = model.read(key, memory)
        assert_agrees(features[:, ::channels], golden[f"encoder{suffix}"])
        assert_agrees(model.memory_head(features)[0], golden["memory_key"])
        assert_agrees(key, golden["query_key"])
        assert_agrees(read[:, ::channels], golden[f"read{suffix}"])
        assert_agrees(model.fusion(value, read)[:, ::channels], golden[f"fused{suffix}"])
        assert_logits_agree(model(clip), golden)


def test_lmanet_erfnet_agrees_at_every_stage(shared, lmanet_erf, made_clip):
    golden = np.load(shared / "golden" / "erf.npz")
    assert_every_stage_agrees(lmanet_erf, made_clip(2, 4, 128, 256), golden, channels=1, suffix="")


def test_lmanet_pspnet_agrees_at_every_stage(shared, published, made_clip):
    golden = np.load(shared / "golden" / "psp101.npz")
    config = LMANetConfig(backbone="psp101", memory_size=2, corr_size=21, fusion="sigmoid-down1")
    model = loaded(config, published("lmanet_psp101"))
    assert_every_stage_agrees(model, made_clip(1, 3, 105, 137), golden, 16, "_every_16th_channel")


def test_stepping_through_a_clip_ends_in_the_clips_logits(lmanet_erf, made_clip):
    clip = made_clip(1, 6, 64, 96)  # six frames, so that the queue of three overflows
    with torch.inference_mode():
        expected, memory = lmanet_erf(clip)[:, 0], None
        for frame in clip.unbind(1):
            logits, memory = lmanet_erf.step(frame, memory)
    assert memory.keys.shape == (1, 16, 3, 8, 12)
    assert (logits - expected).abs().max() <= 1e-5
