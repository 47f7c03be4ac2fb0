import math

import pytest
import torch

from engine.evaluation.confusion_matrix import ConfusionMatrix, iou_of_counts


def counted(label, prediction, num_classes):
    confusion = ConfusionMatrix(num_classes)
    confusion.update(torch.tensor(prediction, dtype=torch.uint8), torch.tensor(label, dtype=torch.uint8))
    return confusion


def test_three_classes_worked_out_by_hand():
    # Class 3 is the ignored one. Counted pixels: label 0 0 0 1 1 2, predicted 0 0 1 1 2 2.
    confusion = counted([[0, 0, 0, 1], [1, 2, 3, 3]], [[0, 0, 1, 1], [2, 2, 0, 3]], 4)
    assert confusion.iou().tolist() == [2 / 3, 1 / 3, 1 / 2]
    assert confusion.mean_iou() == pytest.approx(1 / 2)
    assert confusion.accuracy() == pytest.approx(4 / 6)


def test_iou_of_counts_by_hand():
    # Class 0: 2 in common of 2 + 1 + 3; class 1: none of 4; nobody has class 2.
    iou = iou_of_counts(torch.tensor([[2, 1, 0], [3, 0, 0], [0, 0, 0]]))
    assert iou.dtype == torch.float64
    assert iou[:2].tolist() == [2 / 6, 0] and iou[2].isnan()


def test_absent_class_is_left_out_and_a_predicted_one_scores_zero():
    iou = counted([0, 0, 0], [0, 0, 1], 4).iou()
    assert iou[0] == 2 / 3
    assert iou[1] == 0
    assert math.isnan(iou[2])


def test_predicting_the_ignored_class_is_a_miss_but_no_false_alarm():
    # The last pixel is not counted, whatever is predicted there.
    assert counted([0, 0, 1, 3], [0, 3, 1, 0], 4).iou().tolist()[:2] == [1 / 2, 1]


def test_counts_add_up_over_updates():
    confusion = counted([0, 1], [0, 0], 3)
    confusion.update(torch.tensor([1, 1]), torch.tensor([1, 2]))
    assert confusion.counts.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]]


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match="differ in shape"):
        counted([0, 1], [0], 3)


def test_nothing_counted_gives_nan():
    assert math.isnan(counted([2], [0], 3).mean_iou())
