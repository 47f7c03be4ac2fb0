"""Ctrl-C while the processes of a loader start."""

import os
import signal
import threading

import pytest

from utils.signals import interrupts_held_back


@pytest.fixture
def another_thread():
    """One that does not block signals, as those of the linear algebra libraries: the kernel may give them to it."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    yield thread
    over.set()
    thread.join()


@pytest.fixture(autouse=True)
def default_handler():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def arrival():
    """Waits until a signal has arrived in some thread."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write)
    yield lambda: os.read(read, 1)
    signal.set_wakeup_fd(before)
    os.close(read)
    os.close(write)


def test_ctrl_c_waits_for_the_end_of_the_block_in_whichever_thread_it_arrives(another_thread, arrival):
    seen = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts_held_back():
            signal.pthread_kill(another_thread.ident, signal.SIGINT)
            arrival()
            seen.append("the rest of the block")
        seen.append("what follows the block")
    assert seen == ["the rest of the block"]


def test_without_ctrl_c_the_block_leaves_all_as_it_was():
    with interrupts_held_back():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_child_of_the_block_never_gets_ctrl_c():
    with interrupts_held_back():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(0 if signal.SIGINT in signal.sigpending() else 1)
    assert os.waitpid(child, 0)[1] == 0
