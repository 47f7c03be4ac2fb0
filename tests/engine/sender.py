"""Sends numbered frames on loopback, as cameras and recorders do: ``python -m tests.engine.sender KIND PORT ...``.

The two halves of a frame are of grays that tell its number in its connection. How many frames were sent is printed
after each of them. Kinds: ``http`` and ``tcp`` wait for readers, one after the other; ``udp`` sends to a port.
"""

import socket
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

PROJECT = Path(__file__).resolve().parents[2]
DIGITS, DARKEST, STEP = 20, 30, 10


def picture(number: int) -> np.ndarray:
    """A frame, RGB uint8 ``48 96 3``, that shows a number below 400."""
    image = np.empty((48, 96, 3), np.uint8)
    image[:, :48], image[:, 48:] = (DARKEST + STEP * digit for digit in divmod(number % DIGITS**2, DIGITS))
    return image


def number_in(image: np.ndarray) -> int:
    """The number that a frame shows."""
    digits = [round((float(half.mean()) - DARKEST) / STEP) for half in (image[:, 8:40], image[:, 56:88])]
    return DIGITS * digits[0] + digits[1]


class Sender:
    """A process that sends; ``sent`` is the number of frames that it has sent so far, in all connections."""

    def __init__(self, kind: str, port: int, rate: int, count: int, stall: float = 0.0, holds: bool = False):
        words = [kind, *map(str, (port, rate, count, stall, int(holds)))]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engine.sender", *words], cwd=PROJECT, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()  # it is ready

    def kill(self) -> int:
        """Ends it as a power cut would; returns how many frames it has sent."""
        self._process.kill()
        assert self._process.stdout is not None
        lines = self._process.stdout.read().split()
        self._process.stdout.close()
        self._process.wait()
        return int(lines[-1]) if lines else 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class _Connection:
    """What PyAV writes to."""

    def __init__(self, connection: socket.socket):
        self.write = lambda data: connection.sendall(data) or len(data)


def _send(target: "_Connection | str", rate: int, count: int, stall: float, holds: bool) -> None:
    """Sends ``count`` frames, with a pause of ``stall`` seconds in their middle; then the connection ends, or not."""
    global sent
    with av.open(target, "w", format="mpegts", options={"flush_packets": "1"}) as container:
        stream = container.add_stream("libx264", rate=rate, options={"preset": "ultrafast", "tune": "zerolatency"})
        stream.width, stream.height, stream.pix_fmt = 96, 48, "yuv420p"
        stream.codec_context.gop_size = 10
        start = time.monotonic()
        for number in range(count):
            if number == count // 2 and stall:
                time.sleep(stall)
                start += stall
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
            sent += 1
            print(sent, flush=True)
            time.sleep(max(0.0, start + (number + 1) / rate - time.monotonic()))
        container.mux(stream.encode())
        time.sleep(3600 if holds else 0)


sent = 0


def main(kind: str, port: int, rate: int, count: int, stall: float, holds: bool) -> None:
    if kind == "udp":
        print("ready", flush=True)
        _send(f"udp://127.0.0.1:{port}?pkt_size=1316", rate, count, stall, holds)
        return
    server = socket.socket()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            if kind == "http":
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n")
            try:
                _send(_Connection(connection), rate, count, stall, holds)
            except OSError:  # the reader has gone
                continue


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:5]), float(sys.argv[5]), sys.argv[6] == "1")
