"""Clips from trees on disk: pairing by name, layouts, windows, samples, and every kind of wrong folder."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datasets import cityscapes
from datasets.cache import FrameCache
from datasets.cityscapes import Roots, find_clips, find_videos, resolve_roots
from datasets.sampling import EpochSampler, clean_worker_error
from datasets.sets.cityscapes import Cityscapes
from tests.cityscapes import CityscapesAugmentation as Augmentation
from tests.cityscapes import CityscapesClips
from utils.class_set import ClassSet
from utils.errors import DataError

SIZE = (8, 16)


def frame_numbers(clip) -> list[int]:
    return [int(path.name.split("_")[2]) for path in clip.frames]


class TestRoots:
    @pytest.fixture(autouse=True)
    def folders(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("CITYSCAPES_DATASET", raising=False)
        for name in ("option", "variable", "data/cityscapes", "sequences"):
            (tmp_path / name).mkdir(parents=True)

    def test_option_wins_over_environment_over_constants(self, monkeypatch):
        assert resolve_roots() == Roots(Path("data/cityscapes"), Path("data/cityscapes"))
        monkeypatch.setattr(cityscapes, "CITYSCAPES_SEQ_ROOT", "sequences")
        assert resolve_roots(None) == Roots(Path("data/cityscapes"), Path("sequences"))
        monkeypatch.setenv("CITYSCAPES_DATASET", "variable")
        assert resolve_roots(None) == Roots(Path("variable"), Path("variable"))
        assert resolve_roots("option") == Roots(Path("option"), Path("option"))
        monkeypatch.setenv("CITYSCAPES_DATASET", "")
        assert resolve_roots(None) == Roots(Path("data/cityscapes"), Path("sequences"))

    def test_default_below_the_project(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cityscapes, "_PROJECT", tmp_path)
        monkeypatch.chdir("/")
        assert resolve_roots().root == tmp_path / "data" / "cityscapes"

    def test_no_root(self, monkeypatch):
        with pytest.raises(DataError, match=r"no data folder nowhere \(from --data-root\): .* CITYSCAPES_DATASET"):
            resolve_roots("nowhere")
        monkeypatch.setenv("CITYSCAPES_DATASET", "nowhere")
        with pytest.raises(DataError, match=r"no data folder nowhere \(from CITYSCAPES_DATASET\): .* --data-root"):
            resolve_roots()
        monkeypatch.delenv("CITYSCAPES_DATASET")
        monkeypatch.setattr(cityscapes, "CITYSCAPES_SEQ_ROOT", "nowhere")
        with pytest.raises(DataError, match=r"no data folder .*nowhere \(the default\): .* --data-root"):
            resolve_roots()

    def test_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert resolve_roots("~/option").root == tmp_path / "option"


def test_window_ends_at_the_labelled_frame(tree):
    tree.frames("aachen_000000", range(30))
    label = tree.label("aachen_000000_000019")
    (clip,) = find_clips(tree.roots, "train", 4)
    assert (clip.name, clip.group, clip.label) == ("aachen_000000_000019", "aachen", label)
    folder = tree.root / "leftImg8bit_sequence" / "train" / "aachen"
    assert clip.frames == tuple(folder / f"aachen_000000_0000{number}_leftImg8bit.png" for number in (16, 17, 18, 19))


def test_pairing_is_by_name_and_order_by_city(tree):
    # Frames without a label come before, between and after: sorted positions would pair wrongly.
    tree.frames("bonn_000000", range(5))
    tree.frames("aachen_000002", range(5))
    tree.frames("aachen_000001", range(5))
    tree.label("bonn_000000_000003")
    tree.label("aachen_000002_000004")
    clips = find_clips(tree.roots, "train", 2)
    assert [clip.name for clip in clips] == ["aachen_000002_000004", "bonn_000000_000003"]
    assert [frame_numbers(clip) for clip in clips] == [[3, 4], [2, 3]]
    assert all(clip.name in clip.label.name and clip.name in clip.frames[-1].name for clip in clips)


def test_several_labelled_frames_of_one_sequence_far_apart(tree):
    tree.frames("hanover_000000", range(145, 175))
    tree.frames("hanover_000000", range(362, 392))
    tree.label("hanover_000000_000164")
    tree.label("hanover_000000_000381")
    assert [frame_numbers(clip)[0] for clip in find_clips(tree.roots, "train", 20)] == [145, 362]
    with pytest.raises(DataError, match=r"--win-size 21: .* the longest window that works is 20"):
        find_clips(tree.roots, "train", 21)


def test_sequences_are_snippets_of_their_own(tree):
    tree.frames("aachen_000000", range(5))
    tree.frames("aachen_000001", range(3, 8))
    tree.label("aachen_000001_000007")
    with pytest.raises(DataError, match=r"--win-size 6: .* the longest window that works is 5"):
        find_clips(tree.roots, "train", 6)


def test_label_in_every_frame(tree, caplog):
    for sequence in ("town_000000", "town_000001"):
        tree.frames(sequence, range(5))
        for number in range(5):
            tree.label(f"{sequence}_{number:06d}")
    with caplog.at_level(logging.INFO):
        clips = find_clips(tree.roots, "train", 3)
    assert [frame_numbers(clip) for clip in clips] == [[0, 1, 2], [1, 2, 3], [2, 3, 4]] * 2
    assert [record.getMessage() for record in caplog.records] == [
        "train: 4 of 10 labeled frames left out, as their snippet begins later than a window of 3 frames"
    ]
    caplog.clear()
    find_clips(tree.roots, "train", 1)
    assert not caplog.records
    with pytest.raises(DataError, match=r"--win-size 6: .* the longest window that works is 5"):
        find_clips(tree.roots, "train", 6)


def test_positions_need_only_their_frames(tree):
    tree.frames("aachen_000000", [13, 15, 17, 19])
    tree.label("aachen_000000_000019")
    (clip,) = find_clips(tree.roots, "train", 7, positions=[6, 0, 2, 4])
    assert frame_numbers(clip) == [13, 15, 17, 19]
    with pytest.raises(DataError, match=r"aachen_000000_000018_leftImg8bit.png .* is missing inside"):
        find_clips(tree.roots, "train", 7)


@pytest.mark.parametrize(("window", "positions"), [(0, None), (4, []), (4, [0, 1]), (4, [-1, 3]), (4, [3, 4])])
def test_wrong_positions(tree, window, positions):
    with pytest.raises(ValueError, match="always the last"):
        find_clips(tree.roots, "train", window, positions)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".jpeg"])
def test_frame_endings(tree, ending):
    paths = tree.frames("aachen_000000", range(2), ending=ending)
    tree.label("aachen_000000_000001")
    (clip,) = find_clips(tree.roots, "train", 2)
    assert clip.frames == tuple(paths)


def test_train_ids_and_png_are_preferred(tree):
    tree.frames("aachen_000000", range(2), ending=".jpg")
    (png,) = tree.frames("aachen_000000", [1])
    for kind in ("labelIds", "labelTrainIds", "instanceIds", "color"):
        tree.label("aachen_000000_000001", kind=kind)
    (clip,) = find_clips(tree.roots, "train", 2)
    assert clip.label.name == "aachen_000000_000001_gtFine_labelTrainIds.png"
    assert clip.frames[-1] == png
    assert clip.frames[0].suffix == ".jpg"


def test_single_frames_come_from_their_own_folder_where_it_is_there(tree):
    tree.frames("aachen_000000", range(3))
    tree.frames("bonn_000000", range(3))
    tree.label("aachen_000000_000002")
    tree.label("bonn_000000_000002")
    parts = lambda: [clip.frames[0].parts[-4] for clip in find_clips(tree.roots, "train", 1)]  # noqa: E731
    assert parts() == ["leftImg8bit_sequence"] * 2
    tree.frame("aachen_000000_000002", part="leftImg8bit")
    assert parts() == ["leftImg8bit", "leftImg8bit_sequence"]
    assert find_clips(tree.roots, "train", 2)[0].frames[-1].parts[-4] == "leftImg8bit_sequence"


def test_single_frames_without_sequences(tree):
    path = tree.frame("aachen_000000_000019", part="leftImg8bit")
    tree.label("aachen_000000_000019")
    (clip,) = find_clips(tree.roots, "train", 1)
    assert clip.frames == (path,)
    with pytest.raises(DataError, match=r"no folder leftImg8bit_sequence in .*cityscapes.*--data-root"):
        find_clips(tree.roots, "train", 2)


def test_sequences_in_a_root_of_their_own(tree, tmp_path):
    tree.frames("aachen_000000", range(2))
    tree.label("aachen_000000_000001")
    (tree.root / "leftImg8bit_sequence").rename(tmp_path / "leftImg8bit_sequence")
    (clip,) = find_clips(Roots(tree.root, tmp_path), "train", 2)
    assert clip.frames[0].is_file() and clip.frames[0].is_relative_to(tmp_path / "leftImg8bit_sequence")


def numbers_and_labels(videos) -> list[tuple[str, list[int], list[int]]]:
    """Of each video its name, the numbers of its frames, and those that are labeled."""
    numbered = [(video, [int(frame.stem.split("_")[2]) for frame in video.frames]) for video in videos]
    return [
        (video.name, numbers, [number for number, label in zip(numbers, video.labels, strict=True) if label])
        for video, numbers in numbered
    ]


def test_videos_have_all_frames_around_their_labels_and_end_at_gaps(tree):
    tree.frames("bonn_000003", [*range(8, 13), *range(20, 22), *range(30, 33)])
    tree.frames("aachen_000000", range(5))
    tree.frames("aachen_000001", range(5))  # without a label
    for name in ("bonn_000003_000010", "bonn_000003_000021", "aachen_000000_000000", "aachen_000000_000003"):
        tree.label(name)
    assert numbers_and_labels(find_videos(tree.roots, "train")) == [
        ("aachen_000000", [0, 1, 2, 3, 4], [0, 3]),
        ("bonn_000003", [8, 9, 10, 11, 12], [10]),
        ("bonn_000003", [20, 21], [21]),
    ]


def test_videos_of_single_frames_have_one_frame(tree):
    path = tree.frame("aachen_000000_000019", part="leftImg8bit")
    label = tree.label("aachen_000000_000019")
    (video,) = find_videos(tree.roots, "train")
    assert (video.frames, video.labels) == ((path,), (label,))


def test_a_labeled_frame_of_a_video_is_the_one_of_its_sequence(tree):
    tree.frames("aachen_000000", range(3))
    tree.frame("aachen_000000_000002", part="leftImg8bit")
    tree.label("aachen_000000_000002")
    (video,) = find_videos(tree.roots, "train")
    assert {frame.parts[-4] for frame in video.frames} == {"leftImg8bit_sequence"}


class TestWrongFolders:
    def test_no_root(self, tmp_path):
        with pytest.raises(DataError, match=r"no data folder .*gone: .*--data-root or CITYSCAPES_DATASET"):
            find_clips(Roots(tmp_path / "gone", tmp_path), "train", 1)

    def test_no_ground_truth(self, tree):
        tree.frames("aachen_000000", range(2))
        with pytest.raises(DataError, match=r"no folder gtFine in .*cityscapes.*--data-root or CITYSCAPES_DATASET"):
            find_clips(tree.roots, "train", 1)

    def test_no_frames(self, tree):
        tree.label("aachen_000000_000001")
        with pytest.raises(DataError, match=r"no folder leftImg8bit in .*cityscapes.*--data-root"):
            find_clips(tree.roots, "train", 1)

    def test_no_split(self, tree):
        tree.frames("aachen_000000", range(2))
        tree.label("aachen_000000_000001")
        with pytest.raises(DataError, match=r"no split val in .*gtFine \(there is: train\)"):
            find_clips(tree.roots, "val", 1)
        tree.label("aachen_000000_000001", split="val")
        with pytest.raises(DataError, match=r"no split val in .*leftImg8bit_sequence \(there is: train\)"):
            find_clips(tree.roots, "val", 2)

    @pytest.mark.parametrize("kind", [None, "color"])
    def test_empty_split(self, tree, kind):
        tree.frames("aachen_000000", range(2))
        (tree.root / "gtFine" / "train" / "aachen").mkdir(parents=True)
        if kind:
            tree.label("aachen_000000_000001", kind=kind)
        with pytest.raises(DataError, match=r"no labels in .*gtFine.train: expected .*_gtFine_labelIds.png"):
            find_clips(tree.roots, "train", 2)

    @pytest.mark.parametrize("window", [1, 2])
    def test_label_without_frame(self, tree, window):
        tree.frames("aachen_000000", range(2))
        tree.label("aachen_000000_000001")
        tree.label("aachen_000000_000007")
        with pytest.raises(DataError, match=r"no frame .*train.aachen.aachen_000000_000007_leftImg8bit.png"):
            find_clips(tree.roots, "train", window)

    # 2: nothing earlier lies inside of the window, but the snippet does go on before it.
    @pytest.mark.parametrize("window", [2, 4, 10])
    def test_missing_frame_inside_of_a_snippet(self, tree, window):
        paths = tree.frames("aachen_000000", range(30))
        paths[18].unlink()
        tree.label("aachen_000000_000019")
        with pytest.raises(DataError, match=r"aachen_000000_000018_leftImg8bit.png .* at most 1$"):
            find_clips(tree.roots, "train", window)
        assert len(find_clips(tree.roots, "train", 1)) == 1

    def test_nearest_missing_frame_is_named(self, tree):
        tree.frames("aachen_000000", [0, 1, 3, 4, 6, 7])
        tree.label("aachen_000000_000007")
        with pytest.raises(DataError, match=r"aachen_000000_000005_leftImg8bit.png .* --win-size of at most 2$"):
            find_clips(tree.roots, "train", 7)


class TestSamples:
    @pytest.fixture
    def clips(self, tree):
        tree.frames("aachen_000000", range(6))
        for number, value in ((3, 7), (4, 8), (5, 26)):
            tree.label(f"aachen_000000_{number:06d}", value=value)
        return find_clips(tree.roots, "train", 3)

    def test_sample_by_hand(self, clips):
        sample = CityscapesClips(clips, SIZE)[1]
        assert (sample.frames.dtype, tuple(sample.frames.shape)) == (torch.uint8, (3, 3, 8, 16))
        assert sample.frames[:, 0, 0, 0].tolist() == [2, 3, 4]  # the red value is the frame's number
        # Halving the green values 0 1 2 3 4 ...: (1*1 + 3*2 + 3*3 + 1*4) / 8 = 2.5, rounded up.
        assert sample.frames[0, 1, 0, 1].item() == 3
        assert (sample.label.dtype, tuple(sample.label.shape)) == (torch.uint8, SIZE)
        assert sample.label.unique().tolist() == [1]
        assert (sample.original_label.numel(), sample.clip_index) == (0, 1)

    def test_original_label_is_full_size_and_not_augmented(self, clips):
        plain = CityscapesClips(clips, SIZE, original_labels=True)[2]
        moved = CityscapesClips(clips, SIZE, augmentation=Augmentation(shift=2), original_labels=True)
        assert tuple(plain.original_label.shape) == (16, 32)
        assert plain.original_label.unique().tolist() == [13]
        assert all(torch.equal(moved[epoch, 2].original_label, plain.original_label) for epoch in range(5))

    def test_label_of_the_shallow_decoder(self, clips, tree):
        ids = np.arange(512, dtype=np.uint8).reshape(16, 32) % 19
        Image.fromarray(ids).save(tree.label("aachen_000000_000005", kind="labelTrainIds"))
        clips = find_clips(tree.roots, "train", 3)
        label = CityscapesClips(clips, (16, 32), label_divisor=8)[2].label
        assert torch.equal(label, torch.from_numpy(ids[[4, 12]][:, [4, 12, 20, 28]]))

    def test_cache_changes_nothing(self, clips, tmp_path):
        cached = CityscapesClips(clips, SIZE, cache=FrameCache(tmp_path / "cache"))
        plain = CityscapesClips(clips, SIZE)
        for index in (0, 1, 2, 0, 1, 2):
            for ours, theirs in zip(cached[index], plain[index], strict=True):
                assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))
        # five frames of three clips of three, and three labels
        assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 5 + 3

    def test_augmentation_follows_from_seed_epoch_and_index(self, clips):
        def frames(seed, item):
            return CityscapesClips(clips, SIZE, Augmentation(), seed=seed)[item].frames

        assert torch.equal(frames(0, (3, 1)), frames(0, (3, 1)))
        assert torch.equal(frames(0, 1), frames(0, (0, 1)))
        plain = CityscapesClips(clips, SIZE)[1].frames
        variants = {frames(0, (epoch, 1)).numpy().tobytes() for epoch in range(20)}
        assert len(variants) > 10 and any(variant != plain.numpy().tobytes() for variant in variants)
        assert any(not torch.equal(frames(0, (epoch, 1)), frames(1, (epoch, 1))) for epoch in range(5))

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_workers_change_nothing(self, clips, tmp_path, method):
        dataset = CityscapesClips(clips, SIZE, Augmentation(), FrameCache(tmp_path / "cache"), seed=7)
        sampler = EpochSampler(len(dataset), seed=7)
        sampler.set_epoch(2)
        expected = list(DataLoader(dataset, batch_size=2, sampler=sampler))
        workers = 2 if method == "fork" else 1
        loader = DataLoader(dataset, 2, sampler=sampler, num_workers=workers, multiprocessing_context=method)
        batches = list(loader)
        assert [tuple(batch.frames.shape) for batch in batches] == [(2, 3, 3, 8, 16), (1, 3, 3, 8, 16)]
        for ours, theirs in zip(batches, expected, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
        sampler.set_epoch(2, start=2)
        (rest,) = DataLoader(dataset, batch_size=2, sampler=sampler)
        assert torch.equal(rest.frames, expected[1].frames)

    def test_label_of_another_size(self, clips, tree):
        tree.label("aachen_000000_000004", size=(8, 16))
        with pytest.raises(DataError, match=r"000004_gtFine_labelIds.png has 16x8 pixels, its frame .* 32x16"):
            CityscapesClips(clips, SIZE)[1]

    @pytest.mark.parametrize("workers", [0, 2])
    def test_truncated_png_ends_in_one_line(self, clips, workers):
        path = clips[1].frames[0]
        path.write_bytes(path.read_bytes()[:-30])
        with pytest.raises(DataError) as caught:
            list(DataLoader(CityscapesClips(clips, SIZE), num_workers=workers))
        error = clean_worker_error(caught.value)
        assert str(error).startswith(f"image {path} cannot be read: cut short after ")
        assert "\n" not in str(error)


def test_real_clips(shared):
    roots = resolve_roots(str(shared / "real" / "cityscapes"))
    assert [clip.name for clip in find_clips(roots, "train", 1)] == ["aachen_000000_000019", "aachen_000001_000019"]
    (clip,) = find_clips(roots, "val", 4)
    assert frame_numbers(clip) == [16, 17, 18, 19]
    sample = CityscapesClips([clip], (512, 1024), original_labels=True)[0]
    image = Image.open(clip.frames[1]).resize((1024, 512), Image.Resampling.BILINEAR)
    difference = sample.frames[1].permute(1, 2, 0).int().numpy() - np.asarray(image).astype(int)
    assert np.abs(difference).max() <= 1
    ids = np.asarray(Image.open(clip.label))
    assert int((sample.original_label == 13).sum()) == int((ids == 26).sum()) > 0
    assert len(sample.label.unique()) == 14  # 13 classes and what is ignored


def test_listing_does_not_slow_down_with_the_number_of_frames(tmp_path):
    folder = tmp_path / "leftImg8bit_sequence" / "train" / "aachen"
    labels = tmp_path / "gtFine" / "train" / "aachen"
    folder.mkdir(parents=True)
    labels.mkdir(parents=True)
    for snippet in range(20):
        (labels / f"aachen_{snippet:06d}_000019_gtFine_labelIds.png").touch()
        for number in range(30):
            (folder / f"aachen_{snippet:06d}_{number:06d}_leftImg8bit.png").touch()
    stats = []
    original = Path.stat
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "stat", lambda self, **options: stats.append(self) or original(self, **options))
        assert len(find_clips(Roots(tmp_path, tmp_path), "train", 20)) == 20
    assert len(stats) < 20


def test_a_data_set_in_the_same_layout_reads_its_own_classes():
    class TwoClasses(Cityscapes):
        name = "Two"
        classes = ClassSet(("road", "sky"), ((1, 2, 3), (4, 5, 6)), file_ids=(7, 23))

    coding = TwoClasses().label_coding(Path("a_gtFine_labelIds.png"))
    assert coding.to_index[[7, 23, 8]].tolist() == [0, 1, 2]
