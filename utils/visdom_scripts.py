"""The scripts, styles and fonts of visdom's page that visdom does not bring along: which, and how to get them."""

import shutil
import subprocess
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError
from utils.files import written_whole


class PageFile(NamedTuple):
    """A file of an npm package, and its path in visdom's ``static`` folder."""

    package: str
    path: str
    target: str


# The only two whose versions differ: visdom 0.2.4 asks for the first of each pair, visdom 0.3.0 for the second.
_NEWER = not version("visdom").startswith("0.2.")
REACT_RESIZABLE = ("react-resizable@1.4.6", "react-resizable@3.1.3")[_NEWER]
REACT_GRID_LAYOUT = ("react-grid-layout@0.16.3", "react-grid-layout@2.2.3")[_NEWER]
# The versions that visdom asks for. MathJax is left out: only formulas in texts need it, and here are none.
PAGE_FILES = (
    PageFile("jquery@3.1.1", "dist/jquery.min.js", "js/jquery.min.js"),
    PageFile("bootstrap@3.3.7", "dist/js/bootstrap.min.js", "js/bootstrap.min.js"),
    PageFile("react@16.2.0", "umd/react.production.min.js", "js/react-react.min.js"),
    PageFile("react-dom@16.2.0", "umd/react-dom.production.min.js", "js/react-dom.min.js"),
    PageFile("react-modal@3.1.10", "dist/react-modal.min.js", "js/react-modal.min.js"),
    PageFile("plotly.js-dist-min@2.11.1", "plotly.min.js", "js/plotly-plotly.min.js"),
    PageFile("sjcl@1.0.7", "sjcl.js", "js/sjcl.js"),
    PageFile("layout-bin-packer@1.4.0", "dist/layout-bin-packer.js", "js/layout_bin_packer.js"),
    PageFile("d3@3.5.17", "d3.min.js", "js/d3.v3.min.js"),
    PageFile("d3-selection-multi@1.0.1", "build/d3-selection-multi.min.js", "js/d3-selection-multi.v1.js"),
    PageFile("save-svg-as-png@1.4.17", "lib/saveSvgAsPng.js", "js/saveSvgAsPng.js"),
    PageFile("bootstrap@3.3.7", "dist/css/bootstrap.min.css", "css/bootstrap.min.css"),
    PageFile(REACT_RESIZABLE, "css/styles.css", "css/react-resizable-styles.css"),
    PageFile(REACT_GRID_LAYOUT, "css/styles.css", "css/react-grid-layout-styles.css"),
    PageFile(
        "bootstrap@3.3.7", "dist/fonts/glyphicons-halflings-regular.woff2", "fonts/glyphicons-halflings-regular.woff2"
    ),
    PageFile(
        "bootstrap@3.3.7", "dist/fonts/glyphicons-halflings-regular.woff", "fonts/glyphicons-halflings-regular.woff"
    ),
    PageFile(
        "bootstrap@3.3.7", "dist/fonts/glyphicons-halflings-regular.ttf", "fonts/glyphicons-halflings-regular.ttf"
    ),
)


def missing_files(*folders: Path) -> list[PageFile]:
    """Files that are in none of the folders, each laid out like visdom's ``static``."""
    return [file for file in PAGE_FILES if not any((folder / file.target).is_file() for folder in folders)]


def fetch_with_npm(folder: Path) -> None:
    """Downloads the files with npm, from its configured registry. Raises ``UserError`` where that fails."""
    with tempfile.TemporaryDirectory() as temporary:
        packages = sorted({file.package for file in PAGE_FILES})
        for package in packages:
            _fetch(package, Path(temporary), folder)


def _fetch(package: str, temporary: Path, folder: Path) -> None:
    command = ["npm", "pack", "--silent", "--pack-destination", str(temporary), package]
    try:
        packed = subprocess.run(command, cwd=temporary, check=True, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise UserError(
            f"npm could not get {package}: {reason}: expected npm and a registry that it reaches"
        ) from error
    with tarfile.open(temporary / packed.stdout.strip().splitlines()[-1]) as archive:
        for file in PAGE_FILES:
            if file.package == package:
                target = folder / file.target
                target.parent.mkdir(parents=True, exist_ok=True)
                source = archive.extractfile(f"package/{file.path}")
                if source is None:
                    raise UserError(f"npm package {package}: {file.path} is no file: expected one, as in its release")
                with source, written_whole(target) as out:
                    shutil.copyfileobj(source, out)
