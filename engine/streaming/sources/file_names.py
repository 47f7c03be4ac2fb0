"""Which files a folder or a pattern of names stands for, in natural order: 9 before 10."""

import glob
import logging
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from datasets.image_files import ENDINGS
from engine.streaming.previous import LIST, PLOT, SUMMARY
from utils.errors import OptionError
from utils.manifest import Manifest
from utils.system_files import is_visible

log = logging.getLogger(__name__)

NUMBER = re.compile(r"%0?(\d*)d")  # as in frame_%06d.png


def images_among(files: Iterable[Path], where: str) -> list[Path]:
    """Those files that are images by their endings, sorted. Logs how many others of them are left out.

    What this program wrote beside them, such as the plot of an earlier stream, is no frame.
    """
    visible = visible_files(files)
    own = {file for folder in {file.parent for file in visible} for file in _own_files(folder)}
    images = [file for file in visible if is_image(file) and file not in own]
    others = [file for file in visible if not is_image(file)]
    outputs = [file.name for file in visible if is_image(file) and file in own]
    if outputs:
        log.info("%s: left out, as an earlier stream wrote them: %s", where, ", ".join(outputs[:3]))
    if images and others:
        counts = Counter(file.suffix.lower() or "without an ending" for file in others)
        kinds = ", ".join(f"{count} {ending}" for ending, count in counts.most_common())
        log.warning("%s: %d files are left out, as they are no images by their endings: %s", where, len(others), kinds)
    return images


def is_image(file: Path) -> bool:
    """Whether a file's ending is that of an image."""
    return file.suffix.lower() in ENDINGS


def visible_files(paths: Iterable[Path]) -> list[Path]:
    """The files, sorted, without folders, pipes, hidden files and those that systems leave, such as ``Thumbs.db``."""
    return sorted((path for path in paths if is_visible(path.name) and path.is_file()), key=_counting_order)


def numbered_files(pattern: Path) -> list[Path]:
    """Files that match a printf pattern such as ``frame_%06d.png``, whatever number they start at."""
    placeholder = NUMBER.search(pattern.name)
    assert placeholder is not None  # the caller has found it
    before, after = pattern.name[: placeholder.start()], pattern.name[placeholder.end() :]
    digits = rf"\d{{{int(placeholder[1] or 1)},}}"
    matches = re.compile(re.escape(before) + digits + re.escape(after))
    if not pattern.parent.is_dir():
        return []
    return [file for file in pattern.parent.iterdir() if matches.fullmatch(file.name)]


def matching_files(pattern: str) -> list[Path]:
    """Files that match a pattern such as ``frames/*.jpg``.

    Folders that are there are taken by name, also where it looks like a pattern, such as ``clip [720p]/*.png``; so are
    brackets that match nothing otherwise.
    """
    *folders, last = Path(pattern).parts
    known, parts = Path(), list[str]()
    for number, folder in enumerate(folders):
        known = known / folder
        if not known.exists():
            parts += folders[number:]
            break
        parts.append(glob.escape(folder))
    patterns = [str(Path(*parts, last)), pattern.replace("[", "[[]")]
    return next((found for each in patterns if (found := [Path(file) for file in glob.glob(each)])), [])


def _own_files(folder: Path) -> set[Path]:
    """What earlier streams wrote to a folder."""
    try:
        noted = set(Manifest(folder, LIST).files())
    except OptionError:  # a list that cannot be read; --savedir would say so
        noted = set()
    if (folder / SUMMARY).is_file():  # of a version that kept no list
        noted.add(folder / PLOT)
    return noted


def _counting_order(file: Path) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(file))]
