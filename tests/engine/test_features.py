"""Cached features: those of the encoder, to the bit; trainings with them; what is lost is made again."""

import importlib
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from datasets import cache_folder
from datasets.clip_dataset import ClipDataset
from datasets.clips import Clip
from datasets.feature_cache import FeatureCache
from datasets.sampling import seeded_generator
from datasets.transforms import Augmentation
from engine.features import FrozenEncoder, StoredFeatures
from engine.loading import ClipLoader
from main import main
from models import build_lmanet
from models.normalize import network_input
from tests.cityscapes import CITYSCAPES, IGNORED
from tests.engine.running import checkpoint_of, started
from tests.networks import LMANetConfig
from utils.errors import OptionError

CPU = torch.device("cpu")
SIZE = (32, 64)
FROZEN = ["--training", "--encoder-eval-mode", "--train-decoder", "--lr-start", "1e-3"]


class Levels(nn.Module):
    """Levels of several sizes, types and orders in memory, as networks of other libraries return them."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2, padding=1)

    def forward(self, x):
        first = self.conv(x)
        order = first.contiguous(memory_format=torch.channels_last)
        return order, first[:, :3, ::2, 1::2], x.mean((2, 3)).half(), (first > 0).long()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Three frames of a video and the label of the last."""
    folder, rs = tmp_path_factory.mktemp("frames"), np.random.RandomState(3)
    frames = [folder / f"a_000000_{number:06d}_leftImg8bit.png" for number in range(3)]
    for path in frames:
        Image.fromarray(rs.randint(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
    label = folder / "a_000000_000002_gtFine_labelIds.png"
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(label)
    return frames, label


def network(encoder: nn.Module | None = None):
    torch.manual_seed(0)
    model = build_lmanet(LMANetConfig(corr_size=3, memory_size=2)).to(memory_format=torch.channels_last)
    if encoder is not None:
        model.encoder = encoder
    model.encoder.eval()
    return model


def stored_in(folder, paths, model, variants: int | None = 4, halves: bool = False) -> StoredFeatures:
    frames, label = paths
    clips = [Clip(f"a_{number}", "a", tuple(frames), label) for number in range(2)]
    dataset = ClipDataset(CITYSCAPES, clips, SIZE, augmentation=Augmentation(IGNORED, variants=variants))
    encoder = FrozenEncoder(model, SIZE, CPU, halves=halves)
    return StoredFeatures(encoder, FeatureCache(folder / encoder.key, encoder.num_bytes), dataset)


def batch_of(stored: StoredFeatures, epoch: int):
    """Both clips of an epoch as a batch."""
    return next(iter(ClipLoader(stored.clips, batch_size=2, sampler=[(epoch, 0), (epoch, 1)])))


def entries(folder) -> list:
    return sorted(path for path in folder.rglob("*.raw"))


def same(first, second) -> bool:
    one, other = (each if isinstance(each, tuple) else (each,) for each in (first.levels, second.levels))
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("make", [None, Levels])
def test_features_are_the_encoder_s_to_the_bit_first_and_later(paths, tmp_path, make):
    model = network(make and make())
    stored = stored_in(tmp_path, paths, model)
    for epoch in range(6):
        made = stored.frames(batch_of(stored, epoch), epoch)
        second = batch_of(stored, epoch)
        assert second.has_features.all() and not second.frames.any()
        found = stored.frames(second, epoch)
        for number in range(2):
            # By the clips as they are without a cache, each frame alone, as a training on the CPU encodes it.
            plain = ClipDataset(CITYSCAPES, stored.clips.clips, SIZE, augmentation=stored.clips.augmentation)
            whole = network_input(plain[epoch, number].frames, model.config.traits, CPU)
            for place in range(3):
                alone = whole[place : place + 1]
                expected = model.encoder(alone)
                expected = expected if isinstance(expected, tuple) else (expected,)
                for frames in (made, found):
                    levels = frames[place].levels if make else (frames[place].levels,)
                    for level, right in zip(levels, expected, strict=True):
                        assert level.dtype == right.dtype
                        assert torch.equal(level[number : number + 1], right)
            assert frames[0].size == SIZE
    assert len(entries(tmp_path)) <= 3 * 4


def test_the_order_in_memory_is_the_encoder_s(paths, tmp_path):
    model = network()
    stored = stored_in(tmp_path, paths, model)
    expected = model.encoder(torch.zeros(1, 3, *SIZE)).stride()
    for _ in range(2):
        loaded = next(iter(ClipLoader(stored.clips, batch_size=1, sampler=[(0, 0)])))
        assert stored.frames(loaded)[0].levels.stride() == expected != (1024 * 4, 32, 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torchvision/lraspp_mobilenet_v3_large", "smp/Unet:resnet18", "smp/Segformer:mit_b0"])
def test_networks_of_other_libraries_predict_the_same_bits(paths, tmp_path, name):
    pytest.importorskip("torchvision" if name.startswith("torchvision") else "segmentation_models_pytorch")
    torch.manual_seed(0)
    config = LMANetConfig(backbone=name, corr_size=3, memory_size=2)
    model = build_lmanet(config).to(memory_format=torch.channels_last).eval()
    stored = stored_in(tmp_path, paths, model, variants=1)
    plain = ClipDataset(CITYSCAPES, stored.clips.clips, SIZE)[0]
    with torch.no_grad():
        expected = model(network_input(plain.frames[None], config.traits, CPU), selected=True)
        for _ in range(2):
            loaded = next(iter(ClipLoader(stored.clips, batch_size=1, sampler=[(0, 0)])))
            frames = stored.frames(loaded)
            assert isinstance(frames[0].levels, tuple) == name.startswith("smp/")
            assert torch.equal(model(frames, selected=True), expected)
    assert len(entries(tmp_path)) == 3


def test_half_precision_rounds_alike_whether_stored_or_not(paths, tmp_path):
    model = network()
    stored, exact = stored_in(tmp_path, paths, model, halves=True), stored_in(tmp_path, paths, model)
    made = stored.frames(batch_of(stored, 0), 0)
    found, right = stored.frames(batch_of(stored, 0), 0), exact.frames(batch_of(exact, 0), 0)
    for one, other, precise in zip(made, found, right, strict=True):
        assert torch.equal(one.levels, other.levels) and one.levels.dtype == torch.float32
        assert torch.equal(one.levels, precise.levels.half().float())
    assert stored.encoder.num_bytes * 2 == exact.encoder.num_bytes == 128 * 4 * 8 * 4
    assert stored.encoder.key != exact.encoder.key


def test_what_half_precision_does_not_hold_is_refused(paths, tmp_path):
    model = network()
    with torch.no_grad():
        model.encoder.layers[-1].bn2.bias += 7e4
    exact = stored_in(tmp_path, paths, model)
    assert exact.frames(batch_of(exact, 0))[0].levels.isfinite().all()
    with pytest.raises(OptionError, match=r"expected up to 65504: keep its features in float32"):
        stored_in(tmp_path, paths, model, halves=True).encoder.packed(torch.zeros(1, 3, *SIZE, dtype=torch.uint8))


def test_another_encoder_has_a_folder_of_its_own(paths, tmp_path):
    model = network()
    key = FrozenEncoder(model, SIZE, CPU).key
    assert FrozenEncoder(network(), SIZE, CPU).key == key
    assert FrozenEncoder(model, SIZE, CPU, amp="bfloat16").key != key
    with torch.no_grad():
        model.encoder.layers[3].bn1.running_mean[5] += 1e-6
    assert FrozenEncoder(model, SIZE, CPU).key != key


def test_an_encoder_of_other_code_has_a_folder_of_its_own(tmp_path, monkeypatch):
    file = tmp_path / "own_encoder.py"
    file.write_text("from torch import nn\nclass Own(nn.Identity):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = network(importlib.import_module("own_encoder").Own())
    key = FrozenEncoder(model, SIZE, CPU).key
    assert FrozenEncoder(model, SIZE, CPU).key == key
    file.write_text(file.read_text().replace("pass", "def forward(self, x):\n        return 2 * x"))
    assert FrozenEncoder(model, SIZE, CPU).key != key


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content[:99] + b"?" + content[100:]])
def test_damaged_features_are_made_again(paths, tmp_path, damage):
    stored = stored_in(tmp_path, paths, network())
    right = stored.frames(batch_of(stored, 0), 0)
    entry = entries(tmp_path)[0]
    content = entry.read_bytes()
    entry.write_bytes(damage(content))
    found = stored.frames(batch_of(stored, 0), 0)
    assert all(same(*pair) for pair in zip(found, right, strict=True))
    assert entry.read_bytes() == content


def test_features_of_a_changed_frame_are_made_again(paths, tmp_path):
    frames, label = paths
    own = [shutil.copy(path, tmp_path) for path in frames]
    stored = stored_in(tmp_path / "cache", ([Path(path) for path in own], label), network(), variants=1)
    before = stored.frames(batch_of(stored, 0), 0)
    late = batch_of(stored, 0)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(own[1])
    os.utime(own[1], ns=(0, 1))
    after = stored.frames(batch_of(stored, 0), 0)
    assert same(after[0], before[0]) and not same(after[1], before[1])
    assert same(stored.frames(late, 0)[1], before[1])  # what was loaded before


def test_a_frame_that_changes_before_it_is_stored_is_not_taken_for_the_new_one(paths, tmp_path):
    frames, label = paths
    own = [shutil.copy(path, tmp_path) for path in frames]
    stored = stored_in(tmp_path / "cache", ([Path(path) for path in own], label), network(), variants=1)
    loaded = batch_of(stored, 0)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(own[1])
    os.utime(own[1], ns=(0, 1))
    stored.frames(loaded, 0)
    assert batch_of(stored, 0).has_features.tolist() == [[True, False, True]] * 2


def test_a_full_disk_is_said_once_and_nothing_changes(paths, tmp_path, monkeypatch, caplog):
    stored = stored_in(tmp_path, paths, network(), variants=1)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(cache_folder.shutil, "disk_usage", lambda _: usage._replace(free=1 << 29))
    with caplog.at_level(logging.WARNING):
        first, second = (stored.frames(batch_of(stored, epoch), epoch) for epoch in range(2))
    assert all(same(*pair) for pair in zip(first, second, strict=True))
    assert entries(tmp_path) == []
    assert [each.message for each in caplog.records] == [
        f"cache folder {tmp_path / stored.encoder.key}: the disk is full; going on without storing more"
    ]


@pytest.mark.parametrize(("variants", "shifts"), [(1, 1), (2, 1), (4, 2), (10, 5), (50, 25)])
def test_variants_are_as_many_as_asked_for(variants, shifts):
    augmentation = Augmentation(IGNORED, variants=variants)
    for video in ("aachen", "bochum"):
        drawn = [augmentation.drawn(seeded_generator(epoch, 7), SIZE, video) for epoch in range(1000)]
        assert len(set(drawn)) == variants
        assert len({(each.down, each.right) for each in drawn}) == shifts
        assert (0, 0) in {(each.down, each.right) for each in drawn}
        flipped = sum(each.flip for each in drawn)
        assert flipped == 0 if variants == 1 else 440 < flipped < 560
        least = min(drawn.count(each) for each in set(drawn))
        assert least > 0.4 * 1000 / variants or variants == 50
    plain = Augmentation(IGNORED)
    if variants == 50:
        assert drawn == [plain.drawn(seeded_generator(epoch, 7), SIZE) for epoch in range(1000)]


def test_videos_have_shifts_of_their_own():
    augmentation = Augmentation(IGNORED, variants=4)
    sets = [
        frozenset(augmentation.drawn(seeded_generator(epoch), SIZE, f"video {number}") for epoch in range(50))
        for number in range(20)
    ]
    assert len(set(sets)) > 10


def state_of(folder) -> dict:
    content = checkpoint_of(folder)
    return {"rows": torch.tensor(content["rows"], dtype=torch.float64), **content["state_dict"]}


def assert_equal(one: dict, other: dict) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.fixture
def train(command, tmp_path):
    """Trains with further options into a folder of that name; returns its last state."""

    def trained(name: str, *options: str) -> dict:
        assert main(command(*FROZEN, *options, savedir=tmp_path / name)) == 0
        return state_of(tmp_path / name)

    return trained


@pytest.fixture
def cached(tmp_path):
    return ["--cache-features", str(tmp_path / "features")]


@pytest.mark.parametrize(
    "more",
    [["--stm-queue-size", "2"], pytest.param(["--baseline-mode", "--win-size", "3"], marks=pytest.mark.slow)],
)
def test_all_variants_train_as_no_cache_does(train, cached, more, tmp_path):
    plain = train("plain", "--num-epochs", "1", *more)
    first = train("first", "--num-epochs", "1", *cached, "--feature-variants", "50", *more)
    stored = entries(tmp_path / "features")
    again = train("again", "--num-epochs", "1", *cached, "--feature-variants", "50", *more)
    assert_equal(first, plain)
    assert_equal(again, plain)
    assert entries(tmp_path / "features") == stored  # the second training found all that it needed
    frames = 1 if more[0] == "--baseline-mode" else 3
    assert len(stored) == frames * (5 + 3)


@pytest.mark.slow
def test_a_resumed_training_ends_like_one_without_a_pause(train, cached, tmp_path):
    whole = train("whole", "--num-epochs", "3", *cached)
    shutil.rmtree(tmp_path / "features")
    train("halved", "--num-epochs", "1", *cached)
    for entry in entries(tmp_path / "features")[::3]:
        entry.unlink()
    resumed = train("halved", "--num-epochs", "3", "--resume", *cached)
    # The schedule of the first epoch was that of a training of one; rates do not depend on it at epoch 1.
    assert_equal(resumed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--gpus", "2", "--batch-size", "1"], ["--num-workers", "2"]])
def test_processes_and_workers_train_alike(command, train, cached, options, tmp_path):
    alone = train("alone", "--num-epochs", "2", "--feature-variants", "2", "--cache-features", str(tmp_path / "other"))
    run = started(
        command(*FROZEN, "--num-epochs", "2", "--feature-variants", "2", *cached, *options, savedir=tmp_path / "more")
    )
    _, error = run.communicate(timeout=400)
    assert run.returncode == 0, error
    assert_equal(state_of(tmp_path / "more"), alone)
    assert len(entries(tmp_path / "features")) == len(entries(tmp_path / "other"))


@pytest.mark.slow
def test_two_trainings_share_a_folder_at_the_same_time(command, train, cached, tmp_path):
    alone = train("alone", "--num-epochs", "3")
    options = [*FROZEN, "--num-epochs", "3", *cached, "--feature-variants", "50"]
    runs = [started(command(*options, savedir=tmp_path / name)) for name in ("one", "other")]
    for run in runs:
        _, error = run.communicate(timeout=400)
        assert run.returncode == 0, error
    assert_equal(state_of(tmp_path / "one"), alone)
    assert_equal(state_of(tmp_path / "other"), alone)


@pytest.mark.slow
def test_mixed_precision_keeps_its_features_apart_from_those_of_the_validation(train, cached, tmp_path):
    plain = train("plain", "--num-epochs", "2", "--amp", "bfloat16")
    amp = ["--amp", "bfloat16", "--feature-variants", "50"]
    assert_equal(train("cached", "--num-epochs", "2", *amp, *cached), plain)
    assert_equal(train("again", "--num-epochs", "2", *amp, *cached), plain)
    assert len(list((tmp_path / "features").iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--training --cache-features DIR", "add --encoder-eval-mode"),
        ("--training --cache-features DIR --encoder-eval-mode --train-encoder", "leave one of them out"),
        ("--training --cache-features DIR --encoder-eval-mode --random-crop", "leave --random-crop out"),
        ("--training --cache-features DIR --encoder-eval-mode --feature-variants 3", "an even number up to 50"),
        ("--training --cache-features DIR --encoder-eval-mode --feature-variants 52", "an even number up to 50"),
        ("--training --cache-features DIR --encoder-eval-mode --feature-variants 0", "expected 1, or an even"),
        ("--training --feature-variants 4", "belongs to --cache-features DIR"),
        ("--eval-mode --cache-features DIR", "belongs to --training"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(command, options, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(command(*options.replace("DIR", str(tmp_path / "features")).split()))
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert said in message and "Traceback" not in message and message.count("\n") == 1
    assert not (tmp_path / "features").exists()


def test_a_folder_that_cannot_be_written_is_refused(command, tmp_path, caplog, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(command(*FROZEN, "--cache-features", str(tmp_path / "file"))) == 2
    assert "--cache-features" in capsys.readouterr().err
