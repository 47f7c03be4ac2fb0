"""How threads wait is said to OpenMP in the environment, and only by who has not said it already."""

import os

import pytest

from utils import waiting_threads
from utils.waiting_threads import as_without_other_runtimes, let_threads_sleep

NAME = "GOMP_SPINCOUNT"


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setenv(NAME, "what the test finds is put back")
    monkeypatch.delenv(NAME)
    monkeypatch.setattr(waiting_threads, "_is_set_here", False)


def test_new_processes_may_be_as_if_it_had_not_been_said():
    let_threads_sleep()
    assert os.environ[NAME] == "1000"
    with pytest.raises(ValueError, match="within"), as_without_other_runtimes():
        assert NAME not in os.environ
        raise ValueError("within")
    assert os.environ[NAME] == "1000"


def test_what_the_user_says_stays(monkeypatch):
    monkeypatch.setenv(NAME, "7")
    let_threads_sleep()
    with as_without_other_runtimes():
        assert os.environ[NAME] == "7"
    assert os.environ[NAME] == "7"


def test_where_nothing_was_said_nothing_is():
    with as_without_other_runtimes():
        assert NAME not in os.environ
    assert NAME not in os.environ
