"""A class set: its defaults, tables and codings, what files hold of it, and what is refused."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from utils.class_set import MOST_CLASSES, ClassSet
from utils.errors import ClassSetError

COLORS = ((10, 20, 30), (40, 50, 60), (70, 80, 90))
PLAIN = ClassSet(("road", "car", "sky"), COLORS)
# File values other than the indices; 7 is a class, so it cannot be one of the ignored values as well.
CODED = ClassSet(
    names=("road", "car", "sky"),
    colors=COLORS,
    file_ids=(7, 0, 200),
    ignored_file_ids=frozenset({3, 7, 255}),
    written_ignored=3,
    loss_weights=(2.0, 0.0, 0.5),
    shown_first=("sky", "car"),
)


def test_names_and_colors_are_enough():
    assert (PLAIN.ignored, PLAIN.num_outputs) == (3, 4)
    assert PLAIN.output_names == ("road", "car", "sky", "ignored")
    assert PLAIN.palette == (*COLORS, (0, 0, 0))
    assert (PLAIN.file_ids, PLAIN.ignored_file_ids, PLAIN.written_ignored) == ((0, 1, 2), {255}, 255)
    assert PLAIN.output_weights() == PLAIN.output_weights(shallow=True) == (1.0, 1.0, 1.0, 0.0)
    assert PLAIN.shown_first == ("road", "car", "sky")


def test_weights_hold_for_the_shallow_decoder_unless_it_has_its_own():
    assert CODED.output_weights() == CODED.output_weights(shallow=True) == (2.0, 0.0, 0.5, 0.0)
    own = replace(CODED, shallow_loss_weights=(3.0, 4.0, 5.0))
    assert (own.output_weights(), own.output_weights(shallow=True)) == ((2.0, 0.0, 0.5, 0.0), (3.0, 4.0, 5.0, 0.0))


def test_indices_are_written_as_file_ids_or_as_they_are():
    assert (CODED.to_file_id.dtype, CODED.to_file_id.shape) == ("uint8", (256,))
    assert CODED.to_file_id[[0, 1, 2, 3, 4, 255]].tolist() == [7, 0, 200, 3, 3, 3]
    assert CODED.to_file_index[[0, 1, 2, 3, 4, 255]].tolist() == [0, 1, 2, 255, 255, 255]
    assert PLAIN.to_file_id.tolist() == PLAIN.to_file_index.tolist() == [0, 1, 2, *[255] * 253]


def test_file_ids_are_read_as_indices():
    coding = CODED.file_id_coding
    assert coding.to_index[[7, 0, 200, 3, 255, 1]].tolist() == [0, 1, 2, 3, 3, 3]
    assert coding.valid == {0, 3, 7, 200, 255}
    assert coding.to_index[CODED.to_file_id[:4]].tolist() == [0, 1, 2, 3]
    # What is written can be read.
    assert replace(CODED, written_ignored=99).file_id_coding.valid == {0, 3, 7, 99, 200, 255}


def test_files_of_indices_are_read_as_they_are():
    coding = CODED.index_coding
    assert coding.to_index[[0, 1, 2, 3, 7, 200, 255]].tolist() == [0, 1, 2, 3, 3, 3, 3]
    assert coding.valid == {0, 1, 2, 3, 7, 200, 255}
    # 255 is what is written for the ignore index, whatever the file ids are.
    assert replace(CODED, ignored_file_ids=frozenset({3})).index_coding.valid == {0, 1, 2, 3, 7, 200, 255}


@pytest.mark.parametrize("table", [CODED.to_file_id, CODED.to_file_index, CODED.file_id_coding.to_index])
def test_tables_cannot_be_changed(table):
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 1


@pytest.mark.parametrize("classes", [PLAIN, CODED])
def test_json_and_back(classes):
    text = json.dumps(classes.to_json())
    assert ClassSet.from_json(json.loads(text)) == classes
    assert ClassSet.from_json(json.loads(text) | {"of_a_later_version": 1}) == classes


def test_json_is_plain():
    assert CODED.to_json() == {
        "names": ["road", "car", "sky"],
        "colors": [[10, 20, 30], [40, 50, 60], [70, 80, 90]],
        "file_ids": [7, 0, 200],
        "ignored_file_ids": [3, 255],
        "written_ignored": 3,
        "loss_weights": [2.0, 0.0, 0.5],
        "shallow_loss_weights": [2.0, 0.0, 0.5],
        "shown_first": ["sky", "car"],
    }
    assert ClassSet.from_json({"names": ["road", "car", "sky"], "colors": [list(color) for color in COLORS]}) == PLAIN


def test_lists_are_as_good_as_tuples():
    listed = ClassSet(["road", "car", "sky"], [list(color) for color in COLORS], loss_weights=[1, 1, 1])
    assert listed == PLAIN and hash(listed) == hash(PLAIN)


@pytest.mark.parametrize(
    "content",
    [
        {"names": ["road"]},
        {"colors": [[1, 2, 3]]},
        {"names": "road", "colors": [list(color) for color in (*COLORS, (1, 2, 3))]},
        {"names": ["road"], "colors": 3},
        {"names": ["road"], "colors": [3]},
        {"names": ["road"], "colors": [[1, 2, 3]], "loss_weights": ["heavy"]},
        {"names": ["road"], "colors": [[1, 2, 3]], "ignored_file_ids": 255},
        ["road"],
    ],
    ids=str,
)
def test_content_that_is_no_class_set_is_refused(content):
    with pytest.raises(ClassSetError) as error:
        ClassSet.from_json(content)
    assert "class set" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"names": ("road", "car", "road")},
            "classes 'road' and 'road' have the same name (road): expected another one for each",
        ),
        (
            {"colors": (COLORS[0], COLORS[1], COLORS[1])},
            "classes 'car' and 'sky' have the same color ((40, 50, 60)): expected another one for each",
        ),
        (
            {"file_ids": (4, 5, 4)},
            "classes 'road' and 'sky' have the same id (4): expected another one for each",
        ),
        ({"names": (), "colors": ()}, "a class set has no class left: expected one or more"),
        ({"names": ("road", " ", "sky")}, "a class set has the name ' ': expected a text such as 'road'"),
        ({"names": ("road", 3, "sky")}, "a class set has the name 3: expected a text such as 'road'"),
        ({"colors": COLORS[:2]}, "a class set has 3 names and 2 colors: expected one each"),
        ({"file_ids": (0, 1)}, "a class set has 3 names and 2 file_ids: expected one each"),
        ({"loss_weights": (1.0,) * 4}, "a class set has 3 names and 4 loss_weights: expected one each"),
        ({"shallow_loss_weights": (1.0,)}, "a class set has 3 names and 1 shallow_loss_weights: expected one each"),
        (
            {"colors": (*COLORS[:2], (0, 256, 0))},
            "class 'sky' has the color (0, 256, 0): expected red, green and blue from 0 to 255",
        ),
        (
            {"colors": (*COLORS[:2], (0.5, 0.5, 0.5))},
            "class 'sky' has the color (0.5, 0.5, 0.5): expected red, green and blue from 0 to 255",
        ),
        ({"file_ids": (0, 1, 256)}, "a class set has the id 256: expected whole numbers from 0 to 255"),
        ({"file_ids": (0, 1, -1)}, "a class set has the id -1: expected whole numbers from 0 to 255"),
        ({"file_ids": (0, 1, 2.0)}, "a class set has the id 2.0: expected whole numbers from 0 to 255"),
        ({"ignored_file_ids": {300}}, "a class set has the id 300: expected whole numbers from 0 to 255"),
        ({"written_ignored": -1}, "a class set has the id -1: expected whole numbers from 0 to 255"),
        (
            {"file_ids": (0, 1, 255)},
            "class 'sky' has the id 255, which is written for ignored pixels: expected another written_ignored, such "
            "as 2",
        ),
        (
            {"loss_weights": (1.0, -0.5, 1.0)},
            "a class set has the loss weight -0.5: expected 0 or more, such as 1.0",
        ),
        (
            {"loss_weights": (1.0, float("nan"), 1.0)},
            "a class set has the loss weight nan: expected 0 or more, such as 1.0",
        ),
        (
            {"shallow_loss_weights": (1.0, float("inf"), 1.0)},
            "a class set has the loss weight inf: expected 0 or more, such as 1.0",
        ),
        (
            {"shown_first": ("sky", "ski")},
            "a class set shows 'ski' first: expected one of its names, such as 'road'",
        ),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_one_line(change, message):
    with pytest.raises(ClassSetError) as error:
        ClassSet(**{"names": ("road", "car", "sky"), "colors": COLORS} | change)
    assert str(error.value) == message


def test_indices_have_8_bits():
    def classes(count: int) -> ClassSet:
        return ClassSet(tuple(f"class {i}" for i in range(count)), tuple((i, 0, 0) for i in range(count)))

    assert classes(MOST_CLASSES).ignored == 254
    with pytest.raises(ClassSetError, match="a class set has 255 classes: expected at most 254, as labels have 8 bits"):
        classes(MOST_CLASSES + 1)


def test_import_without_numpy():
    command = "import sys, utils.class_set; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "long" * 30, "ignored"])
def test_names_that_a_line_of_output_cannot_hold_are_refused(name):
    with pytest.raises(ClassSetError, match="a class set has the name "):
        ClassSet((name,), ((1, 2, 3),))


def test_weights_that_are_no_numbers_are_refused():
    with pytest.raises(ClassSetError, match="loss weight"):
        ClassSet(("a",), ((1, 2, 3),), loss_weights=([1.0],))
