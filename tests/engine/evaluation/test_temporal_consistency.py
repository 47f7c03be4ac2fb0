"""TC and mVC against numbers worked out by hand, on flows that are known."""

import pickle

import numpy as np
import pytest

from engine.evaluation.temporal_consistency import TemporalConsistency, VideoConsistency

SHIFT = 4


def textured(height: int = 96, width: int = 160) -> np.ndarray:
    """A smooth random picture, which optical flow can follow."""
    import cv2

    noise = np.random.RandomState(0).randint(0, 256, (height // 4, width // 4, 3)).astype(np.uint8)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def test_labels_that_move_with_the_picture_are_consistent_and_those_that_stay_are_not():
    scene = textured()
    first, second = scene[:, :128], scene[:, SHIFT : 128 + SHIFT]  # the picture moves to the left
    stripes = (np.arange(160) // 16 % 2).astype(np.uint8)[None].repeat(96, 0)
    moving = (stripes[:, :128], stripes[:, SHIFT : 128 + SHIFT])
    consistency = TemporalConsistency(("moving", "still"), 2)
    for image, labels in zip((first, second), moving, strict=True):
        consistency.update(np.ascontiguousarray(image), {"moving": labels, "still": stripes[:, :128]})
    assert consistency.mean_iou("moving") > 0.98
    # Of 124 columns that stay, the first 4 of each stripe but the leftmost fall on the other class: 28. Each class has
    # 48 in common and 48 + 28 in the union.
    assert consistency.mean_iou("still") == pytest.approx(48 / 76, abs=0.005)
    report = consistency.report()
    assert report["pairs"] == 1
    # What leaves the frame on the left does not count.
    assert 0.85 < report["share_of_pixels_compared"] < 1 - SHIFT / 128 + 0.005
    assert "DIS" in report["flow"] and "forward-backward" in report["occlusions"]


def test_still_pictures_compare_pixel_by_pixel():
    image = textured()
    before = np.zeros((96, 160), np.uint8)
    after = before.copy()
    after[:24] = 1  # a quarter changes: IoU of class 0 is 3/4, of class 1 is 0, class 2 is nowhere
    consistency = TemporalConsistency(("a",), 3)
    assert consistency.mean_iou("a") is None
    consistency.update(image, {"a": before})
    assert consistency.mean_iou("a") is None
    consistency.update(image, {"a": after})
    assert consistency.mean_iou("a") == pytest.approx((0.75 + 0) / 2)
    assert consistency.report()["share_of_pixels_compared"] == 1


def test_a_reset_compares_nothing_across_it():
    consistency = TemporalConsistency(("a",), 2)
    consistency.update(textured(), {"a": np.zeros((96, 160), np.uint8)})
    consistency.reset()
    consistency.update(textured(), {"a": np.ones((96, 160), np.uint8)})
    assert consistency.pairs == 0


def test_each_video_has_its_own_figure():
    zeros, ones = (np.full((96, 160), value, np.uint8) for value in (0, 1))
    consistency = TemporalConsistency(("a",), 2)
    for labels in (zeros, zeros):
        consistency.update(textured(), {"a": labels})
    assert consistency.mean_iou_since_reset("a") == 1
    consistency.reset()
    assert consistency.mean_iou_since_reset("a") is None
    for labels in (zeros, ones):
        consistency.update(textured(), {"a": labels})
    assert consistency.mean_iou_since_reset("a") == 0
    assert consistency.mean_iou("a") == pytest.approx(0.25)  # class 0 agrees in the first half of the pixels


def test_a_video_that_has_ended_takes_no_memory():
    consistency = VideoConsistency((8,), ignored=19)
    for _ in range(8):
        consistency.update(np.zeros((512, 1024), np.uint8), np.zeros((512, 1024), np.uint8))
    consistency.end_video()
    assert consistency.means() == {"mVC8": 1}
    assert len(pickle.dumps(consistency)) < 10_000


def test_a_buffer_that_is_used_again_does_not_change_the_past():
    labels, consistency = np.zeros((96, 160), np.uint8), TemporalConsistency(("a",), 2)
    consistency.update(textured(), {"a": labels})
    labels[:] = 1
    consistency.update(textured(), {"a": labels})
    assert consistency.mean_iou("a") == 0


def test_video_consistency_by_hand():
    # Pixels a b c d over 4 frames; windows of 3: frames 0-2 and 1-3.
    labels = np.array([[0, 0, 1, 19], [0, 0, 1, 19], [0, 1, 1, 19], [0, 1, 1, 19]], np.uint8)
    predictions = np.array([[0, 0, 1, 19], [0, 0, 0, 19], [0, 1, 1, 19], [0, 1, 1, 19]], np.uint8)
    consistency = VideoConsistency((2, 3, 8), ignored=19)
    for prediction, label in zip(predictions, labels, strict=True):
        consistency.update(prediction[None], label[None])
    consistency.end_video()
    means = consistency.means()
    # n = 3, both windows: a and c are steady, a is right throughout, c is wrong in frame 1.
    assert means["mVC3"] == pytest.approx(0.5)
    # n = 2: frames 01: a b c steady, a b right; 12: a c steady, a right; 23: a b c steady, all right.
    assert means["mVC2"] == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    assert means["mVC8"] is None


def brute_force(predictions: np.ndarray, labels: np.ndarray, n: int) -> float:
    windows = []
    for start in range(len(labels) - n + 1):
        window, predicted = labels[start : start + n], predictions[start : start + n]
        steady = (window == window[0]).all(0) & (window[0] != 19)
        windows.append((steady & (predicted == window).all(0)).sum() / steady.sum())
    return float(np.mean(windows))


def test_video_consistency_against_the_definition():
    rs, consistency, expected = np.random.RandomState(0), VideoConsistency((3, 5), ignored=19), {3: [], 5: []}
    for frames in (9, 6):
        labels = rs.randint(0, 3, (1, 12, 12)).repeat(frames, 0)
        changes = rs.rand(frames, 12, 12) < 0.1
        labels[changes] = 19
        predictions = np.where(rs.rand(frames, 12, 12) < 0.1, 0, labels)
        for prediction, label in zip(predictions, labels, strict=True):
            consistency.update(prediction, label)
        consistency.end_video()
        for n, values in expected.items():
            values.append(brute_force(predictions, labels, n))
    for n, values in expected.items():
        assert consistency.means()[f"mVC{n}"] == pytest.approx(np.mean(values))
