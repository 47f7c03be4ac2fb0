"""The lock of a folder: who holds it, when it is let go of, and what it must not touch."""

import errno
import fcntl
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from utils import files
from utils.errors import OptionError
from utils.lock import FolderLock

PROJECT = Path(__file__).resolve().parents[2]
HOLD = """
import ctypes, os, sys, time
from pathlib import Path
from utils.lock import FolderLock
with FolderLock(Path(sys.argv[1]), "--savedir"):
    if sys.argv[2] != "alone":
        fork = os.fork if sys.argv[2] == "python" else ctypes.CDLL(None).fork
        child = fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        print(child, flush=True)
    else:
        print("held", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def holder(folder, forks="alone", seconds=60.0):
    """A process that holds the lock, and the line that it printed."""
    arguments = [sys.executable, "-c", HOLD, str(folder), forks, str(seconds)]
    process = subprocess.Popen(arguments, cwd=PROJECT, stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline()


def test_the_holder_is_named_to_all_that_are_refused_and_the_file_goes_with_it(tmp_path):
    process, _ = holder(tmp_path)
    for _ in range(2):
        with pytest.raises(OptionError) as refused, FolderLock(tmp_path, "--savedir"):
            pass
        named = f"--savedir {tmp_path}: in use by process {process.pid} on {socket.gethostname()} since 20"
        assert str(refused.value).startswith(named)
    process.kill()
    process.wait()
    with FolderLock(tmp_path, "--savedir"):
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())


def test_patience_waits_for_the_end_of_the_holder(tmp_path):
    process, _ = holder(tmp_path, seconds=1.0)
    with FolderLock(tmp_path, "--savedir", timeout=30):
        assert process.wait(30) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("forks", ["python", "c"])
def test_what_the_holder_forked_off_does_not_hold_it_on(tmp_path, forks):
    process, child = holder(tmp_path, forks)
    process.kill()
    process.wait()
    try:
        with FolderLock(tmp_path, "--savedir"):
            os.kill(int(child), 0)
    finally:
        os.kill(int(child), 9)


def link(path):
    path.symlink_to(path.with_name("victim"))


def link_to_nothing(path):
    path.symlink_to(path.with_name("nothing"))


def listening(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def hard_link(path):
    os.link(path.with_name("victim"), path)


@pytest.mark.parametrize("put", [link, link_to_nothing, hard_link, listening, os.mkfifo, os.mkdir])
def test_what_is_no_file_is_neither_followed_nor_changed(tmp_path, put, monkeypatch):
    monkeypatch.chdir(tmp_path)
    victim = tmp_path / "victim"
    victim.write_text("ssh-ed25519 precious")
    put(Path(".lock"))
    before, start = os.lstat(".lock"), time.monotonic()
    with pytest.raises(OptionError, match=r"^--savedir .*: its \.lock is a link or .*: remove it, or give another"):
        FolderLock(tmp_path, "--savedir").__enter__()
    assert time.monotonic() - start < 5
    assert victim.read_text() == "ssh-ed25519 precious"
    assert sorted(os.listdir()) == [".lock", "victim"]
    assert os.path.samestat(before, os.lstat(".lock"))


@pytest.mark.parametrize("wrong", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_locks_a_run_goes_on_and_is_warned_once(tmp_path, monkeypatch, caplog, wrong):
    def lockf(*_):
        raise OSError(wrong, os.strerror(wrong))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    monkeypatch.setattr(files, "_warned", set())
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with FolderLock(tmp_path, "--savedir") as lock:
                assert not lock.is_exclusive
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert record.getMessage().startswith(f"--savedir {tmp_path}: its file system offers no locks")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_fails_while_locking_is_no_missing_lock(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with pytest.raises(OSError, match="Input/output error"):
        FolderLock(tmp_path, "--savedir").__enter__()


@pytest.mark.parametrize("content", ["[" * 4096, "\x00" * 100, '{"pid": 1}'])
def test_a_lock_file_of_any_content_is_taken_over(tmp_path, content):
    (tmp_path / ".lock").write_text(content)
    with FolderLock(tmp_path, "--savedir") as lock:
        assert lock.is_exclusive
    assert not list(tmp_path.iterdir())
