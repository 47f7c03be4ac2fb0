"""Ctrl-C at any moment of a stream, once or again and again: what is there is whole, or named as partial."""

import json
import signal
import threading
from functools import partial

import pytest

import engine.modes.streaming
import engine.streaming.stream
from engine.streaming.outputs.video import VideoOutput
from engine.streaming.previous import StreamFiles
from main import main
from tests.engine.videos import moving_blocks, read_video, write_folder
from utils.signals import FirstInterrupt

FRAMES = 12
slow = partial(pytest.param, marks=pytest.mark.slow)


@pytest.fixture(autouse=True)
def handler():
    """As a program has it; a shell starts what runs in its background with Ctrl-C ignored, tests too."""
    before = signal.signal(signal.SIGINT, FirstInterrupt())
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def stream(erfnet_file, tmp_path, capsys):
    """Runs a stream; returns its exit status, its last line and its folder."""

    def run() -> tuple[int, str, object]:
        source, folder = write_folder(tmp_path / "in", moving_blocks(FRAMES)), tmp_path / "run"
        words = f"--stream {source} --weights {erfnet_file} --savedir {folder} --work-size 32x64 --device cpu"
        status = main([*words.split(), "--baseline-mode", "--save-video", "overlay", "--save-labels", "trainIds"])
        return status, capsys.readouterr().err.splitlines()[-1], folder

    return run


def pressing(function, number: int = 1):
    """The function, before whose call of that number Ctrl-C is pressed three times."""
    calls = []

    def wrapped(*arguments, **options):
        calls.append(arguments)
        if len(calls) == number:
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
        return function(*arguments, **options)

    return wrapped


@pytest.mark.parametrize(
    ("owner", "name", "call", "frames"),
    [
        (VideoOutput, "write", 3, range(3, FRAMES + 1)),
        slow(VideoOutput, "write", FRAMES, [FRAMES]),
        (VideoOutput, "close", 1, [FRAMES]),
        slow(StreamFiles, "note_frame", 2, range(2, FRAMES + 1)),
        slow(engine.streaming.stream, "stream_png", 1, [FRAMES]),
        slow(engine.modes.streaming, "stream_text", 1, [FRAMES]),
    ],
)
def test_every_press_leaves_whole_files_and_says_so(stream, monkeypatch, owner, name, call, frames):
    monkeypatch.setattr(owner, name, pressing(getattr(owner, name), call))
    status, line, folder = stream()
    summary = json.loads((folder / "stream.json").read_text())
    assert (status, line) == (130, f"main.py: stopped by Ctrl-C; the frames so far are complete in {folder}")
    assert summary["frames"] in frames and summary["complete"] == (summary["frames"] == FRAMES)
    assert len(read_video(folder / "overlay.mp4")) == summary["frames"] == len(list(folder.glob("labels/*.png")))
    assert (folder / "stream.png").exists() and not list(folder.glob("*.partial.mp4"))


@pytest.mark.parametrize("name", [slow("open_source"), "stream_of"])
def test_before_the_first_frame_nothing_is_claimed(stream, monkeypatch, name):
    monkeypatch.setattr(engine.modes.streaming, name, pressing(getattr(engine.modes.streaming, name)))
    status, line, folder = stream()
    assert status == 130 and line == "main.py: stopped by Ctrl-C"
    assert not list(folder.glob("*.mp4"))


@pytest.mark.parametrize("hangs_at", [slow(1), 4, slow(FRAMES)])
def test_an_output_that_hangs_is_given_up_and_its_part_is_named(stream, monkeypatch, hangs_at):
    monkeypatch.setattr("utils.signals.PATIENCE_SECONDS", 0.2)
    goes_on, calls, write = threading.Event(), [], VideoOutput.write

    def press() -> None:
        while not goes_on.wait(0.15):
            signal.raise_signal(signal.SIGINT)

    def hang(self, frame) -> None:
        calls.append(frame)
        if len(calls) == hangs_at:
            threading.Thread(target=press).start()
            goes_on.wait(60)
        else:
            write(self, frame)

    monkeypatch.setattr(VideoOutput, "write", hang)
    try:
        status, line, folder = stream()
        is_begun = (folder / "overlay.partial.mp4").exists()  # a program would have ended here
    finally:
        goes_on.set()
    assert status == 130 and line.startswith("main.py: stopped by Ctrl-C; video was not completed")
    assert ("overlay.partial.mp4" in line) == (hangs_at > 1) == is_begun
    assert not (folder / "overlay.mp4").exists()
    assert not json.loads((folder / "stream.json").read_text())["complete"]
