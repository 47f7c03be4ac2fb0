"""Boundary IoU by hand, and against erosion class by class."""

import cv2
import numpy as np
import pytest
import torch

from engine.evaluation.metric import registered_metrics
from utils.class_set import ClassSet, default_colors

(METRIC,) = (metric for metric in registered_metrics() if metric.name == "boundary_iou")
THREE = ClassSet(("a", "b", "c"), default_colors(3))


def counted(prediction, label) -> list[list[int]]:
    arrays = (torch.from_numpy(np.array(each, np.uint8)) for each in (prediction, label))
    return METRIC.counts(*arrays, THREE).tolist()


def test_an_edge_by_hand():
    # The boundary of each class is the column at the edge; one pixel of reach.
    label = [[0, 0, 0, 1, 1, 1]] * 4
    assert counted(label, label) == [[4, 4, 0], [4, 4, 0]]
    assert METRIC.value(None, torch.tensor([[4, 4, 0], [4, 4, 0]])) == 1
    # Moved by one: a has column 2 in the label and 3 in the prediction, b has 3 and 4.
    assert counted([[0, 0, 0, 0, 1, 1]] * 4, label) == [[0, 0, 0], [8, 8, 0]]


def test_neither_the_frame_nor_what_is_ignored_is_a_boundary():
    assert counted([[1] * 6] * 4, [[1] * 6] * 4) == [[0, 0, 0], [0, 0, 0]]
    assert counted([[1, 1, 1, 2, 2, 2]] * 4, [[1, 1, 1, 3, 3, 3]] * 4) == [[0, 0, 0], [0, 0, 0]]
    assert np.isnan(METRIC.value(None, torch.zeros(2, 3))) and np.isnan(METRIC.value(None, None))


def test_as_erosion_class_by_class():
    rs = np.random.RandomState(0)
    label, prediction = (
        cv2.resize(rs.randint(0, 3, (12, 20)).astype(np.uint8), (300, 180), interpolation=cv2.INTER_NEAREST)
        for _ in range(2)
    )
    reach = round(0.005 * np.hypot(180, 300))
    assert reach == 2
    expected = [[], []]
    for index in range(3):
        bands = []
        for indices in (label, prediction):
            mask = (indices == index).astype(np.uint8)
            bands.append((mask - cv2.erode(mask, np.ones((3, 3), np.uint8), iterations=reach)).astype(bool))
        expected[0].append(int((bands[0] & bands[1]).sum()))
        expected[1].append(int((bands[0] | bands[1]).sum()))
    assert counted(prediction, label) == expected
    assert METRIC.value(None, torch.tensor(expected)) == pytest.approx(np.mean(np.divide(*expected)))


def test_a_thin_pole_that_is_missed_counts_more_than_in_iou():
    label = np.zeros((100, 200), np.uint8)
    label[:, 50:52] = 1
    shifted = np.roll(label, 2, 1)
    assert METRIC.value(None, torch.tensor(counted(shifted, label))) < 0.3
