"""The files of a stream in ``--savedir``: which it writes, and those of an earlier stream, refused or removed."""

import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from engine.streaming.output import registered_outputs
from utils.errors import IncompleteError, OptionError
from utils.manifest import Manifest
from utils.system_files import is_system_file

SUMMARY, PLOT = "stream.json", "stream.png"
LIST = ".stream_files"


class StreamFiles:
    """The files that a stream writes to a folder; ``options`` are the values of the outputs' options, by name.

    What it writes is noted in a list in the folder, and only what is in that list is an earlier stream's.
    """

    def __init__(self, folder: Path, options: Mapping[str, object]):
        self.folder, self._options = folder, options
        self._outputs = [output for output in registered_outputs() if output.wanted_leaves(options)]
        self._manifest = Manifest(folder, LIST)

    def leaves(self) -> list[str]:
        """Names of the files and folders that it writes in the folder."""
        return [SUMMARY, PLOT, *(leaf for output in self._outputs for leaf in output.wanted_leaves(self._options))]

    def refuse_previous(self, overwrite: bool) -> None:
        """Raises ``OptionError`` where the folder holds an earlier stream, unless ``overwrite``, and where a file
        stands in the way that no stream wrote, in any case."""
        found = self._manifest.files()
        if found and not overwrite:
            name = SUMMARY if self.folder / SUMMARY in found else str(found[0].relative_to(self.folder))
            raise OptionError(
                f"--savedir {self.folder} holds an earlier stream ({name}): give another folder, or --overwrite"
            )
        for leaf in self.leaves():
            self._refuse_foreign(leaf, set(found))
        for output in self._outputs:
            if not output.frame_files(self._options, "frame"):
                for leaf in output.wanted_leaves(self._options):
                    self._refuse_mixed(leaf, set(found))

    def refuse_names(self, names: Iterable[str]) -> None:
        """Raises ``OptionError`` for frames of these names whose files would have one name, a name that is too long
        for a file, or that of a file which no stream wrote."""
        found, frame_of, there = set(self._manifest.files()), dict[str, str](), dict[str, set[str]]()
        longest = ""
        for name in names:
            for file in self._frame_files(name):
                before = frame_of.setdefault(file, name)
                if before != name:
                    raise OptionError(f"--stream: the frames {before} and {name} would both be written to {file}")
                longest = max(longest, file, key=lambda each: len(os.fsencode(each)))
                above, _, last = file.rpartition("/")
                if above not in there:
                    there[above] = _names_in(self.folder / above)
                if last in there[above]:
                    self._refuse_foreign(file, found)
        if longest:
            self._refuse_too_long(longest)

    def clear_previous(self, sources: Sequence[str]) -> None:
        """Removes an earlier stream's files. Raises ``OptionError`` where one of the sources is among them."""
        found = self._manifest.files()
        places = {path.resolve() for path in (*found, *(path.parent for path in found))} - {self.folder.resolve()}
        for source in sources:
            if any(Path(source).resolve().is_relative_to(place) for place in places):
                raise OptionError(f"--overwrite would remove what is to be read, {source}: give another --savedir")
        self._manifest.remove()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Context in which the stream may write; what it writes is in the list at every moment."""
        with self._manifest:
            self._manifest.note(self.leaves())
            yield

    def note_frame(self, name: str) -> None:
        """Notes the files of a frame of that name. Raises ``IncompleteError`` where they cannot be noted."""
        try:
            self._manifest.note(self._frame_files(name))
        except OSError as error:
            raise IncompleteError(
                f"{LIST} cannot be written: {error.strerror}; the files so far are complete"
            ) from error

    def written(self) -> list[str]:
        """Those of its leaves that are there."""
        return [leaf for leaf in self.leaves() if (self.folder / leaf).exists()]

    def _frame_files(self, name: str) -> list[str]:
        return [file for output in self._outputs for file in output.frame_files(self._options, name)]

    def _refuse_foreign(self, name: str, found: set[Path]) -> None:
        """Refuses to replace what no stream wrote; a folder may be there, as files are added to it."""
        path = self.folder / name
        if os.path.lexists(path) and path not in found and (path.is_symlink() or not path.is_dir()):
            what = "a link" if path.is_symlink() else f"not in {LIST}, the list of what streams wrote there"
            raise OptionError(
                f"--savedir {self.folder}: {name} is {what}, and this stream would replace it: move it, or give "
                "another folder, for example save/stream"
            )

    def _refuse_mixed(self, leaf: str, found: set[Path]) -> None:
        """Refuses to write to a folder of files that no stream wrote."""
        path = self.folder / leaf
        there = path.iterdir() if path.is_dir() else ()
        others = [each for each in there if each not in found and not is_system_file(each.name)]
        if others:
            raise OptionError(
                f"--savedir {self.folder}: {leaf} holds files that no stream wrote ({others[0].name}): move them, or "
                "give another folder, for example save/stream"
            )

    def _refuse_too_long(self, name: str) -> None:
        last = Path(name).name
        for path in (self.folder / last, self.folder / name):  # a folder above it may not be there yet
            try:
                path.lstat()
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    raise OptionError(
                        f"--stream: a frame's file would be called {last[:40]}..., {len(os.fsencode(last))} bytes, "
                        "which is too long for a file name here: expected shorter names, up to about 200 bytes"
                    ) from error


def _names_in(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
