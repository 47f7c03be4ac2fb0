"""The cache on disk: hits, changed sources, damaged entries, several processes, a disk that gives up."""

import errno
import io
import logging
import multiprocessing
import os

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import cache as cache_module
from datasets import cache_folder
from datasets.images import read_frame
from tests.cityscapes import CityscapesCache as FrameCache
from tests.cityscapes import read_label
from utils.errors import DataError
from utils.files import part_name

SIZE = (8, 16)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a_000000_000000_leftImg8bit.png"
    write_frame(path, 0)
    return path


@pytest.fixture
def cache(tmp_path) -> FrameCache:
    return FrameCache(tmp_path / "cache")


def write_frame(path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def entries(cache: FrameCache) -> list:
    return sorted(path for path in cache.folder.rglob("*") if path.is_file())


@pytest.fixture
def reads(monkeypatch) -> list:
    """The paths that were decoded, in order."""
    decoded = []

    def counted(path, size):
        decoded.append(path)
        return read_frame(path, size)

    monkeypatch.setattr(cache_module, "read_frame", counted)
    return decoded


def test_second_time_comes_from_disk(cache, source, reads):
    first, second = cache.frame(source, SIZE), cache.frame(source, SIZE)
    assert reads == [source]
    assert torch.equal(first, read_frame(source, SIZE)) and torch.equal(second, first)
    assert FrameCache(cache.folder).frame(source, SIZE).equal(first)
    assert reads == [source]


def test_labels_and_sizes_have_entries_of_their_own(cache, source, tmp_path):
    label = tmp_path / "a_000000_000000_gtFine_labelIds.png"
    Image.fromarray(np.full((16, 32), 26, np.uint8)).save(label)
    for _ in range(2):
        assert torch.equal(cache.label(label, SIZE), read_label(label, SIZE))
        assert torch.equal(cache.frame(source, SIZE), read_frame(source, SIZE))
        assert torch.equal(cache.frame(source, (4, 4)), read_frame(source, (4, 4)))
    assert len(entries(cache)) == 3


def test_equal_names_in_different_folders(cache, source, tmp_path, reads):
    other = tmp_path / "other" / source.name
    other.parent.mkdir()
    write_frame(other, 1)
    for path in (source, other, source, other):
        assert torch.equal(cache.frame(path, SIZE), read_frame(path, SIZE))
    assert reads == [source, other]


def test_changed_source_gives_the_new_pixels(cache, source):
    old = cache.frame(source, SIZE)
    write_frame(source, 1)
    new = cache.frame(source, SIZE)
    assert torch.equal(new, read_frame(source, SIZE)) and not torch.equal(new, old)
    assert len(entries(cache)) == 1


def test_changed_source_is_noticed_by_time_or_size_alone(cache, source, reads):
    cache.frame(source, SIZE)
    old = source.stat()
    os.utime(source, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    cache.frame(source, SIZE)
    assert len(reads) == 2
    with open(source, "ab") as file:
        file.write(b"x")
    os.utime(source, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    cache.frame(source, SIZE)
    assert len(reads) == 3
    cache.frame(source, SIZE)
    assert len(reads) == 3


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:10],
        lambda content: b"",
        lambda content: content + b"x",
        lambda content: content[:200] + bytes([content[200] ^ 1]) + content[201:],
        lambda content: b"LMACLIP0" + content[8:],
    ],
)
def test_damaged_entry_is_written_again(cache, source, reads, damage):
    cache.frame(source, SIZE)
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert torch.equal(cache.frame(source, SIZE), read_frame(source, SIZE))
    assert len(reads) == 2
    assert entry.read_bytes() == whole


def test_missing_source_is_an_error_even_when_stored(cache, source):
    cache.frame(source, SIZE)
    source.unlink()
    with pytest.raises(DataError, match=source.name):
        cache.frame(source, SIZE)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_disk_that_cannot_be_written_is_said_once(cache, source, monkeypatch, caplog, code):
    def failing(path, mode, **options):
        if "x" in mode:
            raise OSError(code, os.strerror(code))
        return open(path, mode, **options)

    monkeypatch.setattr(cache_folder, "open", failing, raising=False)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert torch.equal(cache.frame(source, SIZE), read_frame(source, SIZE))
    assert len(caplog.records) == 1
    assert "going on without storing more" in caplog.text and str(cache.folder) in caplog.text


class FillingUp(io.FileIO):
    """A file on a disk with room for a header only."""

    def write(self, content) -> int:
        if memoryview(content).nbytes > 100:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


def test_entry_that_does_not_fit_leaves_nothing(cache, source, monkeypatch, caplog):
    def filling_up(path, mode, **options):
        return FillingUp(path, mode) if "x" in mode else open(path, mode, **options)

    monkeypatch.setattr(cache_folder, "open", filling_up, raising=False)
    assert torch.equal(cache.frame(source, SIZE), read_frame(source, SIZE))
    assert entries(cache) == []
    assert "the disk is full" in caplog.text


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_folder_that_cannot_be_made(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=rf"cache folder .*{name} cannot be written .* --cache data/cache"):
        FrameCache(tmp_path / name)


def read_all(folder, paths, failures) -> None:
    cache = FrameCache(folder)
    for _ in range(5):
        for path in paths:
            if not torch.equal(cache.frame(path, SIZE), read_frame(path, SIZE)):
                failures.put(path)


def test_several_processes_at_once(tmp_path):
    paths = [tmp_path / f"a_000000_{number:06d}_leftImg8bit.png" for number in range(8)]
    for number, path in enumerate(paths):
        write_frame(path, number)
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    workers = [context.Process(target=read_all, args=(tmp_path / "cache", paths, failures)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert failures.empty()
    assert len(entries(FrameCache(tmp_path / "cache"))) == 8


def test_what_a_killed_process_left_is_removed_at_the_next_start(cache, source):
    first = cache.frame(source, SIZE)
    (entry,) = entries(cache)
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    live = part_name(entry.name)
    dead = live.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    for name in (live, dead):
        (entry.parent / name).write_bytes(b"half")
    assert FrameCache(cache.folder).frame(source, SIZE).equal(first)
    assert {path.name for path in entries(cache)} == {entry.name, live}
