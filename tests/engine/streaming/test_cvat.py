"""Drafts for CVAT: read as its format says, and by Datumaro, which CVAT reads it with, where that is installed."""

import zipfile

import cv2
import numpy as np
import pytest

from engine.streaming.output import LabeledFrame
from engine.streaming.outputs.cvat import CvatOutput, label_map
from tests import farm
from utils.class_set import ClassSet


def written(folder, classes=farm.CLASSES):
    """Two frames of labels, and the ZIP that holds them."""
    output = CvatOutput(folder, classes)
    maps = {"a_1": farm.pictures("four")[0][1], "b": farm.pictures("five")[3][1]}
    for name, labels in maps.items():
        labels[labels == farm.NONE] = classes.ignored
        output.write(LabeledFrame(name, np.zeros((*labels.shape, 3), np.uint8), labels, 0.0))
    return output, maps


def test_masks_are_read_by_the_table_of_colors(tmp_path):
    output, maps = written(tmp_path)
    output.close()
    assert [path.name for path in tmp_path.iterdir()] == ["cvat.zip"]
    with zipfile.ZipFile(tmp_path / "cvat.zip") as file:
        lines = [line for line in file.read("labelmap.txt").decode().splitlines() if not line.startswith("#")]
        assert file.read("ImageSets/Segmentation/default.txt").decode().split() == ["a_1", "b"]
        table = {}
        for line in lines:
            name, color, parts, actions = line.split(":")
            assert (parts, actions) == ("", "")
            table[tuple(map(int, color.split(",")))] = name
        assert set(table.values()) == {"background", *farm.NAMES}
        for name, labels in maps.items():
            content = np.frombuffer(file.read(f"SegmentationClass/{name}.png"), np.uint8)
            pixels = cv2.imdecode(content, cv2.IMREAD_COLOR_RGB)
            names = [[table[tuple(color)] for color in row] for row in pixels.tolist()]
            assert names == [[(*farm.NAMES, "background")[index] for index in row] for row in labels.tolist()]


def test_a_class_may_be_black_or_called_background():
    lines = label_map(ClassSet(("background", "a:b"), ((0, 0, 0), (1, 2, 3)))).splitlines()[1:]
    assert lines == ["ignored:128,0,0::", "background:0,0,0::", "a_b:1,2,3::"]


def test_what_is_there_of_a_stream_that_broke_off(tmp_path):
    output, maps = written(tmp_path)
    assert output.abandon() == "the frames until then are in cvat.partial.zip"
    with zipfile.ZipFile(tmp_path / "cvat.partial.zip") as file:
        assert file.testzip() is None
        assert f"SegmentationClass/{list(maps)[1]}.png" in file.namelist()


def test_datumaro_reads_it(tmp_path):
    datumaro = pytest.importorskip("datumaro")
    output, maps = written(tmp_path)
    output.close()
    with zipfile.ZipFile(tmp_path / "cvat.zip") as file:
        file.extractall(tmp_path / "voc")
    found = datumaro.Dataset.import_from(str(tmp_path / "voc"), "voc_segmentation")
    names = [label.name for label in found.categories()[datumaro.AnnotationType.label].items]
    for item in found:
        labels = maps[item.id]
        for mask in item.annotations:
            wanted = (*farm.NAMES, "background").index(names[mask.label])
            assert np.array_equal(mask.image.astype(bool), labels == wanted)
    assert len(found) == 2
