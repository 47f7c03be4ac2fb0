"""The scripts, styles and fonts of visdom's page that visdom 0.2 does not bring along: which, and how to get them."""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError


class PageFile(NamedTuple):
    """A file of an npm package, and where in visdom's ``static`` folder its page looks for it."""

    package: str
    path: str
    target: str


# The versions that visdom 0.2.4 asks for. MathJax is left out: only formulas in texts need it, and here are none.
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
    PageFile("react-resizable@1.4.6", "css/styles.css", "css/react-resizable-styles.css"),
    PageFile("react-grid-layout@0.16.3", "css/styles.css", "css/react-grid-layout-styles.css"),
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
    """Those files that are in none of the folders, each laid out like visdom's ``static``."""
    return [file for file in PAGE_FILES if not any((folder / file.target).is_file() for folder in folders)]


def fetch_with_npm(folder: Path) -> None:
    """Gets the files with npm, from the registry that npm is set to. Raises ``UserError`` where that fails."""
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
                with archive.extractfile(f"package/{file.path}") as source, open(target, "wb") as out:
                    shutil.copyfileobj(source, out)
