"""Whether there is anything to learn from the labels of a split."""

import pytest

from datasets.cityscapes import find_clips
from datasets.clip_dataset import ClipDataset
from datasets.registry import dataset_named
from utils.errors import DataError


@pytest.fixture
def clips_with(tree):
    """The clips of labels that are all of one value each: ids, or indices of classes."""

    def clips(*values: int, kind: str = "labelIds") -> ClipDataset:
        for number, value in enumerate(values):
            tree.frame(f"aachen_000000_{number:06d}")
            tree.label(f"aachen_000000_{number:06d}", value=value, kind=kind)
        return ClipDataset(dataset_named("Cityscapes"), find_clips(tree.roots, "train", 1), size=(8, 16))

    return clips


@pytest.mark.parametrize(
    ("values", "kind"), [((0,), "labelIds"), ((0, 3, 4), "labelIds"), ((255, 255), "labelTrainIds")]
)
def test_labels_without_a_class_are_said(clips_with, values, kind):
    with pytest.raises(DataError, match=rf"no pixel of the {len(values)} labels of split train has a class .*aachen"):
        clips_with(*values, kind=kind).check_labeled("train")


@pytest.mark.parametrize(
    ("values", "kind"), [((7,), "labelIds"), ((0, 0, 33), "labelIds"), ((255, 0), "labelTrainIds")]
)
def test_one_label_is_enough(clips_with, values, kind):
    clips_with(*values, kind=kind).check_labeled("train")


def test_no_more_labels_are_read_than_needed(clips_with, monkeypatch):
    clips = clips_with(0, 7, 7, 7)
    read = []
    labels = ClipDataset._labels
    monkeypatch.setattr(ClipDataset, "_labels", lambda self, path: read.append(path) or labels(self, path))
    clips.check_labeled("train")
    assert [path.name[:20] for path in read] == ["aachen_000000_000000", "aachen_000000_000001"]
