"""What is recorded of a stream: shares of the classes, counted pixel by pixel."""

import numpy as np
import pytest

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.streaming.record import StreamRecord


def test_shares_are_those_of_all_pixels_of_all_frames():
    generator = np.random.default_rng(0)
    frames = generator.integers(0, CITYSCAPES_CLASSES.num_outputs, (3, 37, 53), np.uint8)
    frames[:, :, :20] = CITYSCAPES_CLASSES.num_outputs - 1  # the last index is one of those that count
    record = StreamRecord(CITYSCAPES_CLASSES)
    for labels in frames:
        record.add(labels, 1.0)
    expected = np.bincount(frames.ravel()) / frames.size
    assert list(record.class_shares()) == list(CITYSCAPES_CLASSES.output_names)
    assert list(record.class_shares().values()) == pytest.approx(expected, abs=1e-6)
