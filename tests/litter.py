"""What macOS and Windows leave in folders that they have shown or copied."""

from pathlib import Path

APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        "


def litter(root: Path) -> None:
    """Leaves a file ``._NAME`` beside each file and folder, and the others in every folder."""
    paths = [root, *root.rglob("*")]
    for path in paths:
        if path != root:
            path.with_name(f"._{path.name}").write_bytes(APPLE_DOUBLE)
        if path.is_dir():
            for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
                (path / name).write_bytes(b"litter")
            for name in ("__MACOSX", ".Trashes", "@eaDir"):
                (path / name).mkdir()
                (path / name / "._frame_0.png").write_bytes(APPLE_DOUBLE)
