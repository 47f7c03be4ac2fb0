"""The cache of the compiled attention: what is loaded from it, what is not, and what is left behind."""

import logging
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from models.local_attention import cpu_build

STUB = "\n".join(f'extern "C" int {name}() {{ return 0; }}' for name in cpu_build._FUNCTIONS)


@pytest.fixture(scope="session")
def stub(tmp_path_factory) -> Path:
    """A library with the functions that are looked for, compiled in no time."""
    gcc = shutil.which("c++") or shutil.which("g++")
    if gcc is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("stub")
    (folder / "stub.cpp").write_text(STUB)
    for name, source in (("stub.so", "stub.cpp"), ("empty.so", "empty.cpp")):
        (folder / "empty.cpp").touch()
        subprocess.run([gcc, "-shared", "-fPIC", str(folder / source), "-o", str(folder / name)], check=True)
    return folder


class Place:
    """A home, a folder for temporary files, and a compiler that writes down that it was called."""

    def __init__(self, folder: Path, stub: Path, monkeypatch):
        self.cache, self.temporary, self.compiler = folder / "cache", folder / "tmp", folder / "c++"
        self._calls, self.library = folder / "calls", stub / "stub.so"
        for each in (self.cache, self.temporary):
            each.mkdir()
        self.answer_with(self.library)
        monkeypatch.setenv("CXX", str(self.compiler))
        monkeypatch.setenv("XDG_CACHE_HOME", str(self.cache))
        monkeypatch.setattr(tempfile, "tempdir", str(self.temporary))

    def answer_with(self, library: Path) -> None:
        self.compiler.write_text(
            f'#!/bin/sh\ncase "$*" in *--version) exit 0;; esac\necho >> {self._calls}\n'
            f'while [ "$1" != -o ]; do shift; done\ncp {library} "$2"\n'
        )
        self.compiler.chmod(0o755)

    def built(self) -> tuple[str | None, int]:
        """The problem, if any, of a process that starts now, and how often it called the compiler."""
        before = self._count()
        built = cpu_build.built.__wrapped__()
        assert (built.library is None) == (built.problem is not None)
        assert not list(self.temporary.iterdir())
        return built.problem, self._count() - before

    def _count(self) -> int:
        return len(self._calls.read_text().splitlines()) if self._calls.exists() else 0


@pytest.fixture
def place(tmp_path, stub, monkeypatch):
    return Place(tmp_path, stub, monkeypatch)


def test_it_is_compiled_once_whatever_the_umask(place):
    before = os.umask(0o002)
    try:
        assert [place.built() for _ in range(2)] == [(None, 1), (None, 0)]
    finally:
        os.umask(before)
    folder = place.cache / "lmanet"
    assert [path.stat().st_mode & 0o777 for path in (folder, *folder.iterdir())] == [0o700, 0o700]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o707, 0o1777])
def test_nothing_is_loaded_from_a_folder_that_others_may_write_to(place, mode, caplog):
    place.built()
    (place.cache / "lmanet").chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert place.built() == (None, 1)
    assert f"{place.cache}/lmanet: is not yours, or others may write to it" in caplog.text
    (place.cache / "lmanet").chmod(0o755)
    assert place.built() == (None, 0)


@pytest.mark.parametrize("mode", [0o666, 0o620, 0o702])
def test_a_library_that_others_may_write_to_is_built_again(place, mode):
    place.built()
    (library,) = (place.cache / "lmanet").iterdir()
    library.chmod(mode)
    assert [place.built() for _ in range(2)] == [(None, 1), (None, 0)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["folder", "library"])
def test_nothing_of_somebody_else_is_loaded(place, what):
    place.built()
    (library,) = (place.cache / "lmanet").iterdir()
    os.chown(library if what == "library" else library.parent, 12345, 12345)
    assert place.built() == (None, 1)


def test_a_library_without_its_functions_is_a_reason(place, stub):
    place.answer_with(stub / "empty.so")
    problem, _ = place.built()
    first, *others = cpu_build._FUNCTIONS
    assert f"lacks {first} and {len(others)} more: remove it" in problem


def test_a_cache_that_can_only_be_read_is_read(place, monkeypatch):
    place.built()
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert place.built() == (None, 0)
    next((place.cache / "lmanet").iterdir()).unlink()
    assert [place.built() for _ in range(2)] == [(None, 1)] * 2


@pytest.mark.parametrize("home", [None, ""])
def test_without_a_home_it_is_built_for_the_process_alone(place, monkeypatch, tmp_path, home):
    def nobody(*_):
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    assert place.built() == (None, 1)
    assert not (tmp_path / ".cache").exists()


def test_a_part_of_a_killed_compilation_is_removed(place):
    place.built()
    folder = place.cache / "lmanet"
    (library,) = folder.iterdir()
    library.unlink()
    process = subprocess.Popen(["true"])
    process.wait()
    part = cpu_build.part_name(library.name).replace(f"-{os.getpid()}-", f"-{process.pid}-")
    (folder / part).touch()
    place.built()
    assert list(folder.iterdir()) == [library]


@pytest.mark.parametrize("command", ["{} -m64", "env  A=b {}", "nice {} -O0", "'{}'", "  {} "])
def test_a_compiler_may_have_arguments(place, monkeypatch, command):
    monkeypatch.setenv("CXX", command.format(place.compiler))
    assert place.built() == (None, 1)


def test_a_compiler_whose_path_holds_a_space(place, monkeypatch, tmp_path):
    (tmp_path / "my tools").mkdir()
    spaced = shutil.copy(place.compiler, tmp_path / "my tools" / "c++")
    for command in (str(spaced), f"{shlex.quote(str(spaced))} -m64"):
        monkeypatch.setenv("CXX", command)
        assert place.built() == (None, 1)


@pytest.mark.parametrize("command", ["g++ 'not ended", "no-such-compiler -m64"])
def test_a_compiler_that_is_not_there_is_named(place, monkeypatch, command):
    monkeypatch.setenv("CXX", command)
    assert place.built() == (f"no C++ compiler found (CXX is {command!r})", 0)
