"""Densely labeled videos as streams: the figures of clip by clip, with each frame encoded once."""

import numpy as np
import pytest
import torch

from datasets.registry import dataset_named
from datasets.streamed_clips import StreamedClips, streamed
from engine.data import clips_of, evaluation_loader_of, loader_of
from engine.evaluation.evaluate import evaluate
from engine.options.settings import DataSettings
from engine.training.setup import loss_function
from models import LMANetConfig, build_lmanet
from models.normalize import network_input
from tests import farm

CPU = torch.device("cpu")
COUNT = len(farm.NAMES)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return farm.write_folders(tmp_path_factory.mktemp("dense"), dense=True)


def settings_for(file, window: int) -> DataSettings:
    return DataSettings(
        dataset=str(file), root=None, work_size=(farm.HEIGHT, farm.WIDTH), window=window, cache=None, batch_size=1,
        num_workers=0, retries=0, crop=None, control=None, original_labels=True, seed=0,
    )  # fmt: skip


def network(**fields):
    torch.manual_seed(0)
    config = LMANetConfig(**{"corr_size": 3, "memory_size": 2, "num_classes": COUNT + 1, **fields})
    return build_lmanet(config, farm.CLASSES).eval()


def evaluated(model, file, window: int, is_streamed: bool):
    """The evaluation, the number of encoder calls, and what was told of each clip."""
    data = settings_for(file, window)
    clips = clips_of(data, model.config, "val")
    loader = (
        evaluation_loader_of(data, clips, model, "val", CPU) if is_streamed else loader_of(data, clips, CPU, False)[0]
    )
    assert isinstance(loader.dataset, StreamedClips) == is_streamed
    calls, told = [], []
    hook = model.encoder.register_forward_hook(lambda *_: calls.append(1))
    loss = loss_function(farm.CLASSES, False, CPU)
    result = evaluate(
        model, loader, loss, CPU, lambda number, *rest: told.append((number, *rest)), original_labels=True
    )
    hook.remove()
    return result, len(calls), told


@pytest.mark.parametrize(
    ("fields", "window", "calls"),
    [
        ({}, 3, 2 * farm.FRAMES),
        ({"memory_strategy": "skip_01"}, 5, 2 * farm.FRAMES),
        pytest.param({"memory_size": 4}, 5, 2 * farm.FRAMES, marks=pytest.mark.slow),
        pytest.param({}, 5, 2 * farm.FRAMES, marks=pytest.mark.slow),  # of which the memory keeps two
        pytest.param({"memorize_first": True}, 3, 2 * farm.FRAMES, marks=pytest.mark.slow),
        pytest.param({"structure": "mem_only"}, 3, 2 * farm.FRAMES, marks=pytest.mark.slow),
    ],
)
def test_figures_are_those_of_clip_by_clip(file, fields, window, calls):
    model = network(**fields)
    expected, calls_by_clip, told_by_clip = evaluated(model, file, window, is_streamed=False)
    found, calls_of_stream, told = evaluated(model, file, window, is_streamed=True)
    assert found.confusion.counts.sum() > 0
    assert torch.equal(found.confusion.counts, expected.confusion.counts)
    assert torch.equal(found.original_confusion.counts, expected.original_confusion.counts)
    assert (found.loss, found.clips) == (expected.loss, expected.clips)
    assert all(torch.equal(found.metric_counts[name], counts) for name, counts in expected.metric_counts.items())
    assert [each[0] for each in told] == [each[0] for each in told_by_clip] == list(range(found.clips))
    for one, other in zip(told, told_by_clip, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[1:], other[1:], strict=True))
    assert calls_of_stream == calls
    assert calls_by_clip == found.clips * len(model.config.frame_positions(window))


def test_what_depends_on_the_clip_is_not_streamed(file):
    for fields in ({"structure": "original_kv_fusion"}, {"memory_strategy": "random"}):
        model, data = network(**fields), settings_for(file, 3)
        loader = evaluation_loader_of(data, clips_of(data, model.config, "val"), model, "val", CPU)
        assert not isinstance(loader.dataset, StreamedClips)


def test_sparse_labels_are_clips(tmp_path):
    data, model = settings_for(farm.write_folders(tmp_path), 3), network()
    loader = evaluation_loader_of(data, clips_of(data, model.config, "val"), model, "val", CPU)
    assert not isinstance(loader.dataset, StreamedClips)


def test_every_second_label_goes_on_with_the_memory(tmp_path):
    """Labels of frames 1, 3 and 5: each brings two new frames."""
    file = farm.write_folders(tmp_path, dense=True)
    for label in tmp_path.glob("masks/*/*/*[024].png"):
        label.unlink()
    dataset = dataset_named(str(file))
    videos, clips = dataset.videos(dataset.root(None), "val"), dataset.clips(dataset.root(None), "val", 3)
    stream = streamed(videos[:1], clips[:2], 3, range(3), 2)
    assert [(len(each.clip.frames), each.number, each.after, each.follows) for each in stream] == [
        (2, None, None, False),
        (2, 0, 0, False),
        (2, 1, 1, False),
    ]


def test_a_short_window_does_not_read_a_longer_memory(file):
    """Clips of two frames with a memory for four: a stream would have filled it."""
    dataset = dataset_named(str(file))
    videos, clips = dataset.videos(dataset.root(None), "val"), dataset.clips(dataset.root(None), "val", 2)
    stream = streamed(videos[:1], [clip for clip in clips if clip.group == videos[0].name], 2, range(2), 4)
    assert [len(each.clip.frames) for each in stream] == [1, 1, 2, 2, 2, 2]


def test_all_labeled_frames_by_an_independent_computation(file):
    """Frame after frame of each video with PyTorch alone; IoU and mVC from their definitions."""
    model = network(memory_size=3)
    result, _, _ = evaluated(model, file, 4, is_streamed=True)
    report = result.dense.report()
    confusions, windows = {}, {n: {} for n in (2, 8)}
    for video in farm.VIDEOS["val"]:
        past, right, labels = [], [], []
        confusion = np.zeros((COUNT, COUNT + 1), int)
        for frame, label in farm.pictures(video):
            past = [*past, torch.from_numpy(frame).permute(2, 0, 1)][-4:]
            with torch.inference_mode():
                logits = model(network_input(torch.stack(past)[None], model.config.traits, CPU))
            prediction = logits[0, -1].argmax(0).numpy()
            for row, column in np.argwhere(label != farm.NONE):
                confusion[label[row, column], prediction[row, column]] += 1
            labels.append(label)
            right.append(prediction == label)
        confusions[video] = confusion
        for n in windows:
            shares = []
            for start in range(farm.FRAMES - n + 1):
                part = np.stack(labels[start : start + n])
                steady = (part == part[0]).all(0) & (part[0] != farm.NONE)
                shares.append((np.stack(right[start : start + n]).all(0) & steady).sum() / steady.sum())
            windows[n][video] = np.mean(shares) if shares else None

    def mean_iou(confusion) -> float:
        hits = np.diag(confusion)
        union = confusion.sum(1) + confusion.sum(0)[:COUNT] - hits
        return np.mean(hits[union > 0] / union[union > 0])

    assert report["frames"] == 2 * farm.FRAMES
    assert report["mean_iou"] == pytest.approx(mean_iou(sum(confusions.values())), abs=1e-12)
    assert report["videos"] == pytest.approx({name: mean_iou(each) for name, each in confusions.items()}, abs=1e-12)
    assert report["mvc"] == {"mVC8": None, "mVC16": None}


def test_processes_share_whole_videos(file):
    model, data = network(), settings_for(file, 3)
    clips = evaluation_loader_of(data, clips_of(data, model.config, "val"), model, "val", CPU).dataset
    of_video = [[i for i, each in enumerate(clips.stream) if each.video == name] for name in ("five", "four")]
    assert [len(positions) for positions in of_video] == [farm.FRAMES, farm.FRAMES]
    assert [clips.share(rank, 2) for rank in range(2)] == of_video
    shares = [clips.share(rank, 3) for rank in range(3)]
    assert sorted(position for share in shares for position in share) == list(range(2 * farm.FRAMES))
    assert clips.share(0, 1) == list(range(2 * farm.FRAMES))
