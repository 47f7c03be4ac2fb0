"""The networks against reference tensors that the published ones gave (``../shared/golden/README.md``)."""

import json
import zlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import LMANetConfig, build_lmanet, load_weights
from models.memory import pushed

BIGGEST_DIFFERENCE = 2e-4  # of the tensor's standard deviation
EQUAL_PREDICTIONS = 0.9999


def made_tensor(name: str, shape: list[int]) -> torch.Tensor:
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape).astype("float32")
    if "num_batches_tracked" in name:
        return torch.tensor(0)
    if "running_var" in name:
        x = np.exp(0.1 * x)
    elif "running_mean" in name or "bias" in name:
        x = 0.1 * x
    elif name.endswith("const"):
        x = 0.5 * x
    elif len(shape) == 1:
        x = (1 + 0.1 * x) * (0.25 if ".bn3." in name else 1)
    else:
        x = x * np.sqrt(1.5 / np.prod(shape[1:])) * (0.25 if ".Key." in name else 1)
    return torch.from_numpy(np.asarray(x, dtype="float32"))


def made_file(keys: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return {name: made_tensor(name.removeprefix("module."), shape) for name, shape in keys.items()}


def made_clip(batch: int, frames: int, height: int, width: int) -> torch.Tensor:
    rs = np.random.RandomState(0)
    base = torch.from_numpy(rs.rand(batch, 3, height // 8 + 2, width // 8 + 2).astype("float32"))
    base = F.interpolate(base, size=(height + 16, width + 16), mode="bilinear", align_corners=False)
    moved = [base[:, :, 8 + t : 8 + t + height, 8 - 2 * t % 8 : 8 - 2 * t % 8 + width] for t in range(frames)]
    noise = torch.from_numpy(rs.rand(batch, frames, 3, height, width).astype("float32"))
    return 0.9 * torch.stack(moved, 1) + 0.1 * noise


def assert_agrees(found: torch.Tensor, expected: np.ndarray):
    assert found.shape == expected.shape
    assert np.abs(found.numpy() - expected).max() <= BIGGEST_DIFFERENCE * expected.std()


def golden_model(shared, config: LMANetConfig, keys: str):
    model = build_lmanet(config).eval()
    load_weights(model, made_file(json.loads((shared / "golden" / f"{keys}.json").read_text())))
    return model


@pytest.fixture(scope="module")
def lmanet(shared):
    config = LMANetConfig(backbone="erf", memory_size=3, corr_size=21, fusion="sigmoid-do1")
    return golden_model(shared, config, "keys_lmanet_erf")


def test_erfnet_baseline_agrees(shared):
    model = golden_model(shared, LMANetConfig(baseline=True), "keys_erfnet")
    golden = np.load(shared / "golden" / "erf_baseline.npz")
    clip = made_clip(1, 1, 128, 256)
    with torch.inference_mode():
        assert_agrees(model.encoder(clip[:, -1]), golden["encoder"])
        logits = model(clip)
    assert_agrees(logits[..., ::4, ::4], golden["logits_every_4th_pixel"])
    assert (logits.argmax(2).numpy() == golden["prediction"]).mean() >= EQUAL_PREDICTIONS


def test_lmanet_erfnet_agrees_at_every_stage(shared, lmanet):
    golden = np.load(shared / "golden" / "erf.npz")
    clip = made_clip(2, 4, 128, 256)
    with torch.inference_mode():
        memory = None
        for frame in clip[:, :-1].unbind(1):
            memory = pushed(memory, *lmanet.memory_head(lmanet.encoder(frame)), 3)
        features = lmanet.encoder(clip[:, -1])
        key, value = lmanet.query_head(features)
        read = lmanet.read(key, memory)
        assert_agrees(features, golden["encoder"])
        assert_agrees(lmanet.memory_head(features)[0], golden["memory_key"])
        assert_agrees(key, golden["query_key"])
        assert_agrees(read, golden["read"])
        assert_agrees(lmanet.fusion(value, read), golden["fused"])
        logits = lmanet(clip)
    assert_agrees(logits[..., ::4, ::4], golden["logits_every_4th_pixel"])
    assert (logits.argmax(2).numpy() == golden["prediction"]).mean() >= EQUAL_PREDICTIONS


def test_stepping_through_a_clip_ends_in_the_clips_logits(lmanet):
    clip = made_clip(1, 6, 64, 96)  # six frames, so that the queue of three overflows
    with torch.inference_mode():
        expected, memory = lmanet(clip)[:, 0], None
        for frame in clip.unbind(1):
            logits, memory = lmanet.step(frame, memory)
    assert memory.keys.shape == (1, 16, 3, 8, 12)
    assert (logits - expected).abs().max() <= 1e-5
