"""The table of classes against the reference file and the numbers of the benchmark."""

import json
import subprocess
import sys

import pytest

from tests import cityscapes as classes


def test_table_equals_the_reference(shared):
    reference = json.loads((shared / "golden" / "classes.json").read_text())
    assert [c["train_id"] for c in reference] == list(range(classes.NUM_CLASSES))
    assert [c["name"] for c in reference] == list(classes.CLASS_NAMES)
    assert [tuple(c["color"]) for c in reference] == list(classes.PALETTE)
    assert [c["weight"] for c in reference] == list(classes.LOSS_WEIGHTS)
    assert [c["weight_shallow_decoder"] for c in reference] == list(classes.LOSS_WEIGHTS_SHALLOW)
    assert [c["label_id"] for c in reference[:19]] == [c.label_id for c in classes.CLASSES]


def test_label_ids_become_train_ids():
    lookup = classes.label_ids_to_train_ids
    assert (lookup.dtype, lookup.shape) == ("uint8", (256,))
    # road, sidewalk, bicycle | unlabeled, ego vehicle, parking, caravan, license plate
    assert lookup[[7, 8, 33]].tolist() == [0, 1, 18]
    assert lookup[[0, 1, 9, 29, 255]].tolist() == [19] * 5
    assert sorted(set(lookup.tolist())) == list(range(20))


def test_train_ids_become_label_ids_again():
    inverse = classes.train_ids_to_label_ids
    assert inverse[[0, 13, 18, 19]].tolist() == [7, 26, 33, 0]
    assert classes.label_ids_to_train_ids[inverse[:20]].tolist() == list(range(20))


@pytest.mark.parametrize("lookup", [classes.label_ids_to_train_ids, classes.train_ids_to_label_ids])
def test_lookups_cannot_be_changed(lookup):
    with pytest.raises(ValueError, match="read-only"):
        lookup[0] = 3


def test_import_without_torch():
    command = "import sys, datasets.cityscapes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", command], check=False).returncode == 0
