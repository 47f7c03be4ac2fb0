"""Hostile sources by a seed: names, sizes, formats, playlists and links that are meant to do harm."""

import os
import random
import socket
import struct
import zlib
from pathlib import Path

import cv2

from tests.engine.videos import moving_blocks, write_video

NAMES = (
    *("frame", "-rf", "--overwrite", "a b", "%06d", "%s%n%x", "$(touch made_outside)", "`id`", "; touch made_outside"),
    *("a\nweights: forged", "\x1b[2J\x1b]0;x\x07", "\u202egnp", "\udc80\udcff", "x" * 240, "[a-z]*", "?", "..a", "~"),
    *(
        "1²2",
        "٣",
        "０",
        "CON",
        "a.png.mp4",
        "file:a",
        "concat:a|b",
        "rtsp:a",
        "pipe:0",
        "0x0",
        "1e9",
        "a\\b",
        "'\"<img>",
    ),
)
ENDINGS = (
    ".png",
    ".jpg",
    ".bmp",
    ".webp",
    ".tif",
    ".mp4",
    ".avi",
    ".mkv",
    ".m3u8",
    ".mpd",
    ".txt",
    ".ffconcat",
    ".gif",
    "",
)


def png(width: int, height: int, rows: bytes = b"") -> bytes:
    """A PNG that says it has this size, and holds these compressed rows."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def pictures() -> list[bytes]:
    (frame,) = moving_blocks(1)
    return [cv2.imencode(ending, frame)[1].tobytes() for ending in (".png", ".jpg", ".bmp", ".webp", ".tif")]


def videos(folder: Path) -> list[bytes]:
    """Small videos of several containers."""
    folder.mkdir(exist_ok=True)
    return [write_video(folder / f"v{end}", moving_blocks(3)).read_bytes() for end in (".mp4", ".avi", ".mkv", ".ts")]


class Generator:
    """Makes a source in a folder; ``port`` is that of a server which nobody may reach, ``victim`` a file to be kept."""

    def __init__(self, folder: Path, port: int, victim: Path):
        self.good = [*pictures(), *videos(folder)]
        self.address, self.victim = f"http://127.0.0.1:{port}/v.mp4", victim
        text = [
            f"#EXTM3U\n#EXTINF:1,\n{self.address}\n#EXT-X-ENDLIST\n",
            f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{self.address}"\n#EXTINF:1,\n{victim}\n#EXT-X-ENDLIST\n',
            f'#EXTM3U\n#EXT-X-MAP:URI="{victim}"\n#EXTINF:1,\nfile://{victim}\n',
            f"ffconcat version 1.0\nfile '{victim}'\nfile '{self.address}'\n",
            f"ffconcat version 1.0\nfile 'concat:{victim}|{self.address}'\n",
            f'<?xml version="1.0"?><MPD><BaseURL>{self.address}</BaseURL><Period><AdaptationSet>'
            '<Representation id="1"/></AdaptationSet></Period></MPD>',
            f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video {port} RTP/AVP 96\n",
            f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{self.address}"/></svg>',
            f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n({victim}) (w) file closefile\nshowpage\n",
            "%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\n",
            "push graphic-context\nimage over 0,0 0,0 'ephemeral:" + str(victim) + "'\npop graphic-context\n",
        ]
        self.texts = [each.encode() for each in text]

    def content(self, rng: random.Random) -> bytes:
        """The content of a file."""
        good = rng.choice(self.good)
        kind = rng.randrange(10)
        if kind <= 1:
            return good
        if kind == 2:
            return good[: rng.randrange(len(good))]
        if kind == 3:
            changed = bytearray(good)
            for _ in range(rng.choice((1, 4, 40))):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            return bytes(changed)
        if kind == 4:
            return rng.choice(
                (b"", b"\0", b"\x7fELF", b"PK\3\4", b"GIF89a", b"RIFF\xff\xff\xff\xffAVI ", rng.randbytes(999))
            )
        if kind == 5:
            side = rng.choice((0, 1, 3, 65535, 100_000, 2**31 - 1))
            return png(side, rng.choice((1, 30_000, 2**31 - 1)), bytes(rng.choice((0, 100, 10_000_000))))
        if kind == 6:
            return good + rng.randbytes(rng.choice((1, 5000)))
        return rng.choice(self.texts)

    def put(self, path: Path, rng: random.Random) -> None:
        """Puts a file, a link or something else at a path."""
        kind = rng.randrange(12)
        if kind == 0:
            places = (
                self.victim,
                path,
                path.with_name("nothing"),
                "/dev/zero",
                "/dev/null",
                "/etc/passwd",
                "/proc/self/mem",
            )
            path.symlink_to(rng.choice((*places, path.parent)))
        elif kind == 1:
            rng.choice((os.mkfifo, os.mkdir, _socket))(path)
        else:
            path.write_bytes(self.content(rng))

    def source(self, folder: Path, rng: random.Random) -> str:
        """What ``--stream`` is given; relative to ``folder``, which is the working directory."""
        name = rng.choice(NAMES)
        kind = rng.randrange(6)
        if kind <= 2:
            file = folder / f"{name}{rng.choice(ENDINGS)}"
            self.put(file, rng)
            return rng.choice((str(file), file.name))
        if kind == 3:
            (folder / name).mkdir()
            for number in range(rng.choice((1, 3, 5))):
                self.put(folder / name / f"{rng.choice((name[:200], 'f'))}{number}{rng.choice(ENDINGS)}", rng)
            return str(folder / name)
        if kind == 4:
            for number in range(3):
                self.put(folder / f"f{number:06d}.png", rng)
            return rng.choice(
                ("f%06d.png", "f*.png", "f%99999d.png", "f%d.png", "[", "**/*", "f{0..2}.png", "f%06d.png*")
            )
        near = folder / "http:" / self.address.removeprefix("http://")
        near.parent.mkdir(parents=True)
        near.write_bytes(self.content(rng))
        return rng.choice(
            (self.address, f"http:/{near.relative_to(folder / 'http:')}", f"file:{near}", f"concat:{near}")
        )


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)  # the name of a socket may have 107 bytes
        try:
            server.bind(path.name[:100])
        finally:
            os.chdir(before)


def fingerprint(folder: Path, but: Path) -> dict[str, tuple]:
    """What is in a folder, but for one in it: kinds, sizes, times and targets."""
    found = {}
    for above, names, files in os.walk(folder):
        names[:] = [name for name in names if Path(above, name) != but]
        for name in (*names, *files):
            path = Path(above, name)
            status = path.lstat()
            target = os.readlink(path) if path.is_symlink() else ""
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns if not path.is_dir() else 0, target)
    return found
