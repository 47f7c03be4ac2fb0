"""Class maps by hand."""

import numpy as np
import pytest

from utils.class_map import class_map_text, read_class_map
from utils.class_set import ClassSet
from utils.errors import DataError

FIVE = ClassSet(
    ("road", "sidewalk", "car", "bus", "sky"),
    tuple((i, i, i) for i in range(1, 6)),
    file_ids=(7, 8, 26, 28, 23),
    loss_weights=(2, 5, 6, 9, 7),
    shown_first=("car", "bus", "sidewalk", "road", "sky"),
)


def written(tmp_path, text: str):
    (tmp_path / "map.yaml").write_text(text)
    return read_class_map(str(tmp_path / "map.yaml"))


def test_merged_renamed_dropped_and_left_as_they_are(tmp_path):
    found = written(tmp_path, "vehicle: [bus, car]\nheaven: sky\nignored: [sidewalk]\n")
    classes = found.applied(FIVE)
    assert classes.names == ("vehicle", "heaven", "road")
    assert classes.colors == ((4, 4, 4), (5, 5, 5), (1, 1, 1))
    assert (classes.file_ids, classes.loss_weights) == ((28, 23, 7), (6, 7, 2))
    assert classes.shown_first == ("vehicle", "road", "heaven")
    assert found.new_indices(FIVE) == (2, 3, 0, 0, 1, 3)
    coding = found.mapped_coding(FIVE.file_id_coding, FIVE)
    assert coding.to_index[[7, 8, 26, 28, 23, 255]].tolist() == [2, 3, 0, 0, 1, 3]
    assert (coding.to_index.dtype, coding.valid) == (np.uint8, FIVE.file_id_coding.valid)
    content = found.to_json(FIVE)
    assert content["classes"] == {"vehicle": ["bus", "car"], "heaven": ["sky"], "road": ["road"]}
    assert content["ignored"] == ["sidewalk"]
    assert class_map_text(content).endswith("map.yaml: vehicle = bus + car; heaven = sky; ignored: sidewalk")


def test_the_rest_is_ignored(tmp_path):
    found = written(tmp_path, "drivable: road\nignored: rest\n")
    assert found.applied(FIVE).names == ("drivable",)
    assert found.new_indices(FIVE) == (0, 1, 1, 1, 1, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[a]", "holds a list: expected keys"),
        ("flat: [road, sidewlk]", "there is no class 'sidewlk': did you mean 'sidewalk'?"),
        ("flat: [road]\nother: [car, road]", "the class 'road' is listed twice, in 'flat' and in 'other'"),
        ("flat: []", "flat is []: expected a class or a list of classes"),
        ("flat: 3", "flat is 3: expected a class"),
        ("flat: road\nflat: car", "'flat' stands there twice"),
        ("car: [bus]", "'car' is a group, and a class that stays"),
        ("ignored: rest", "no class is left"),
        ("no: road", "the key False is no text"),
    ],
)
def test_what_is_wrong_is_one_line(text, message, tmp_path):
    with pytest.raises(DataError) as error:
        written(tmp_path, text).applied(FIVE)
    assert message in str(error.value) and "map.yaml" in str(error.value) and "\n" not in str(error.value)
