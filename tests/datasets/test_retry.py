"""Data that cannot be read for a while: what is tried again, how often, and what is said of it."""

import errno
import logging
import os

import numpy as np
import pytest

from datasets import images, retry
from datasets.images import read_frame
from datasets.retry import RetryPolicy
from tests.cityscapes import read_label
from utils.errors import DataError, UnreachableError

LABEL = "a_000000_000000_gtFine_labelIds.png"


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that were waited; none are."""
    seconds = []
    monkeypatch.setattr(retry.time, "sleep", seconds.append)
    return seconds


class Away:
    """Something that can be read again after some failures."""

    def __init__(self, failures: int, error: type[DataError] = UnreachableError):
        self.failures, self.error, self.reads = failures, error, 0

    def __call__(self) -> str:
        self.reads += 1
        if self.reads <= self.failures:
            raise self.error("no file a.png")
        return "content"


def test_waits_grow_and_it_is_said_once_an_incident(waits, caplog):
    waiting = RetryPolicy(4)
    with caplog.at_level(logging.INFO):
        assert waiting.read(Away(0)) == "content"
        assert caplog.messages == []
        assert waiting.read(Away(3)) == "content"
    assert waits == [1, 4, 16]
    assert caplog.messages == [
        "no file a.png; trying again, up to 4 times",
        "the data can be read again after 0 s",
    ]
    with caplog.at_level(logging.INFO):
        assert waiting.read(Away(1)) == "content"
    assert len(caplog.messages) == 4


def test_a_second_reader_of_the_same_incident_says_nothing(waits, caplog):
    waiting, second = RetryPolicy(1), Away(1)

    def first() -> str:
        if not waits:
            raise UnreachableError("no file a.png")
        return waiting.read(second)

    assert waiting.read(first) == "content"
    assert [message for message in caplog.messages if "trying again" in message] == [
        "no file a.png; trying again, up to 1 times"
    ]


@pytest.mark.parametrize("retries", [0, 2])
def test_after_the_last_attempt_the_error_is_raised(waits, retries):
    gone = Away(10)
    with pytest.raises(UnreachableError, match=r"no file a\.png"):
        RetryPolicy(retries).read(gone)
    assert (gone.reads, len(waits)) == (retries + 1, retries)


def test_damaged_content_is_not_read_again(waits):
    damaged = Away(10, DataError)
    with pytest.raises(DataError):
        RetryPolicy(3).read(damaged)
    assert (damaged.reads, waits) == (1, [])


@pytest.mark.parametrize("read", [lambda path: read_frame(path, (2, 2)), lambda path: read_label(path, None)])
@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.ENOENT, errno.EACCES, errno.ETIMEDOUT])
def test_a_file_system_that_does_not_answer_is_no_damage(saved, monkeypatch, read, code):
    path = saved(np.zeros((2, 2), np.uint8), LABEL)

    def fails(*_: object, **__: object):
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(images.Image, "open", fails)
        with pytest.raises(UnreachableError, match=LABEL) as error:
            read(path)
    assert "\n" not in str(error.value)
    # Later, while its pixels are read.
    monkeypatch.setattr(images.Image.Image, "load", fails)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    monkeypatch.setattr(images.np, "fromfile", fails)
    with pytest.raises(UnreachableError, match=LABEL):
        read(path)


def test_a_file_cut_short_is_damaged(saved):
    path = saved(np.random.default_rng(0).integers(0, 30, (64, 64), np.uint8), LABEL)
    path.write_bytes(path.read_bytes()[:-200])
    for read in (lambda: read_frame(path, (2, 2)), lambda: read_label(path, None)):
        with pytest.raises(DataError) as error:
            read()
        assert not isinstance(error.value, UnreachableError)
