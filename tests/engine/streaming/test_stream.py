"""Streams from the command line: what goes in, what comes out, and what happens when one or the other fails."""

import itertools
import json
import signal
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.cityscapes import CITYSCAPES_CLASSES
from engine.streaming.output import LabeledFrame, Output
from engine.streaming.outputs.labels import LabelOutput
from engine.streaming.outputs.video import VideoOutput
from engine.streaming.sources import open_source
from engine.streaming.stream import Stream
from models import VideoSegmenter, build_lmanet
from models.inference.segmenter import Prediction
from models.weights.load import load_weights
from tests.cityscapes import CLASS_NAMES, PALETTE
from tests.engine.running import started, wait_for
from tests.engine.streaming.conftest import SIZE
from tests.engine.videos import moving_blocks, read_video, write_folder, write_video
from tests.networks import LMANetConfig

PROJECT = Path(__file__).resolve().parents[3]


def label_maps(folder: Path) -> list[np.ndarray]:
    files = sorted((folder / "labels").iterdir(), key=lambda file: (len(file.name), file.name))
    return [cv2.imread(str(file), cv2.IMREAD_UNCHANGED) for file in files]


def labels_by_step(weights: Path, frames: list[np.ndarray], starts: tuple[int, ...] = (0,), every: int = 1):
    """What the network itself says of frames of the working size, its memory empty at ``starts``."""
    model = build_lmanet(LMANetConfig(corr_size=3)).eval()
    load_weights(model, weights)
    found, memory = [], None
    with torch.inference_mode():
        for position, frame in enumerate(frames):
            if position in starts:
                memory, start = None, position
            logits, after = model.step(torch.from_numpy(frame).permute(2, 0, 1)[None] / 255, memory)
            memory = after if (position - start) % every == 0 else memory
            found.append(logits[0].argmax(0).numpy())
    return found


@pytest.mark.parametrize(("options", "every"), [((), 1), (("--every", "3"), 3)])
def test_labels_are_those_of_the_network_frame_by_frame(stream, lmanet_file, tmp_path, options, every):
    frames = moving_blocks(7, *SIZE)
    status, summary = stream(write_folder(tmp_path / "in", frames), "--save-labels", "trainIds", *options)
    assert status == 0
    expected = labels_by_step(lmanet_file, frames, every=every)
    found = label_maps(tmp_path / "run")
    assert len(found) == 7
    assert np.mean([a == b for a, b in zip(found, expected, strict=True)]) > 0.999
    assert len({each.tobytes() for each in expected}) == 7
    shares = np.bincount(np.stack(expected).ravel(), minlength=20) / (7 * 32 * 64)
    common = int(shares.argmax())
    assert summary["class_shares"][CLASS_NAMES[common]] == pytest.approx(shares[common], abs=1e-3)
    assert summary["complete"]
    assert summary["frames"] == 7


class Kept(Output):
    """Keeps frames in memory."""

    name, options, leaves = "kept", (), ()

    def __init__(self):
        self.frames: list[LabeledFrame] = []

    @classmethod
    def from_options(cls, values, stream):
        return cls()

    def write(self, frame: LabeledFrame) -> None:
        self.frames.append(frame)


def test_labels_of_a_frame_are_waited_for_while_the_network_is_at_the_next(lmanet_file, tmp_path, monkeypatch):
    frames, output = moving_blocks(6, *SIZE), Kept()
    segmenter = VideoSegmenter(lmanet_file, work_size=SIZE, corr_size=3)
    begun = [threading.Event() for _ in range(len(frames) + 1)]
    begun[-1].set()  # nothing comes after the last frame
    steps, calls, waited = itertools.count(), itertools.count(), []
    step, fetched = VideoSegmenter.step, Prediction.fetched_labels

    def noted_step(self, image):
        begun[next(steps)].set()
        return step(self, image)

    def late_labels(self, size=None):
        position, labels = next(calls) // 2, fetched(self, size)  # at the working size, and at the frame's

        def wait() -> np.ndarray:
            waited.append(begun[position + 1].wait(20))
            return labels()

        return wait

    monkeypatch.setattr(VideoSegmenter, "step", noted_step)
    monkeypatch.setattr(Prediction, "fetched_labels", late_labels)
    source = open_source(str(write_folder(tmp_path / "in", frames)))
    Stream(segmenter, source, [output], CITYSCAPES_CLASSES, detect_cuts=False).run()
    assert waited == [True] * 2 * len(frames)
    expected = labels_by_step(lmanet_file, frames)
    assert [frame.name for frame in output.frames] == [f"frame_{n}" for n in range(6)]
    assert np.mean([a.labels == b for a, b in zip(output.frames, expected, strict=True)]) > 0.999


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "size"),
    [
        ("drive.mp4", "libx264", "yuv420p", (48, 96)),
        ("drive.avi", "mjpeg", "yuvj420p", (48, 96)),
        ("odd.avi", "mjpeg", "yuvj444p", (47, 65)),
        ("drive.mkv", "mpeg4", "yuv420p", (48, 96)),
    ],
)
def test_video_files_of_all_kinds_become_a_video_and_labels_of_their_size(stream, tmp_path, name, codec, pixels, size):
    source = write_video(tmp_path / name, moving_blocks(5, *size), codec, pixels)
    status, summary = stream(source, "--save-video", "overlay", "--save-labels", "labelIds", "--consistency")
    assert (status, summary["frames"], tuple(summary["frame_size"])) == (0, 5, size)
    video = read_video(tmp_path / "run" / "overlay.mp4")
    assert len(video) == 5
    assert video[0].shape[0] > size[0]  # the legend is below
    assert video[0].shape[1] == size[1] + size[1] % 2
    labels = label_maps(tmp_path / "run")
    assert {each.shape for each in labels} == {size}
    assert set(np.unique(labels)) <= {0, 7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33}
    assert set(summary["milliseconds"]) == {"reading", "network", "video", "labels", "consistency"}
    assert 0 <= summary["consistency"]["tc"]["lmanet"] <= 1
    assert summary["consistency"]["pairs"] == 4


def test_patterns_name_frames_and_numbers_are_counted(stream, tmp_path):
    frames = moving_blocks(12)
    folder = write_folder(tmp_path / "in", frames, ".jpg")
    (folder / "notes.txt").write_text("no frame")
    for source in (folder, folder / "frame_%d.jpg", folder / "*.jpg"):
        status, summary = stream(source, "--save-labels", "trainIds", "--overwrite")
        assert (status, summary["frames"]) == (0, 12)
    # In the order 0 1 2 ... 10 11, not 0 1 10 11 2: neighbors are alike, and no scene begins.
    assert summary["scene_cuts"] == []


@pytest.mark.parametrize(
    ("kind", "wanted"), [("labels", PALETTE[13]), ("overlay", [0.7 * 200 + 0.3 * c for c in PALETTE[13]])]
)
def test_the_video_shows_the_palette_above_the_legend(tmp_path, kind, wanted):
    output = VideoOutput(tmp_path, kind, 0.3, 25.0, CITYSCAPES_CLASSES)
    image, labels = np.full((64, 640, 3), 200, np.uint8), np.full((64, 640), 13, np.uint8)
    for number in range(3):
        output.write(LabeledFrame(str(number), image, labels, number / 25))
    assert not output.path.exists()
    output.close()
    picture = read_video(output.path)[1].astype(int)
    assert np.abs(picture[:60] - np.asarray(wanted)).max() <= 6  # video keeps colors roughly
    assert picture[68:, :4].min() > 245  # the legend's paper
    assert len(np.unique(picture[64:].reshape(-1, 3) // 32, axis=0)) > 15  # and its colors


def test_both_kinds_lie_side_by_side(stream, tmp_path):
    stream(write_folder(tmp_path / "in", moving_blocks(2)), "--save-video", "both", "--alpha", "0.25")
    assert read_video(tmp_path / "run" / "both.mp4")[0].shape[1] == 2 * 96


def test_probabilities_add_up_to_one_and_agree_with_the_labels(stream, tmp_path):
    stream(write_folder(tmp_path / "in", moving_blocks(2, *SIZE)), "--save-probabilities", "--save-labels", "trainIds")
    probabilities = np.load(tmp_path / "run" / "probabilities" / "frame_1_probabilities.npy")
    assert (probabilities.shape, probabilities.dtype) == ((20, *SIZE), np.float16)
    assert np.allclose(probabilities.astype(np.float32).sum(0), 1, atol=0.01)
    assert np.mean(probabilities.argmax(0) == label_maps(tmp_path / "run")[1]) > 0.98  # 16 bits have ties


def test_a_scene_cut_empties_the_memory_and_is_reported(stream, lmanet_file, tmp_path):
    frames = [*moving_blocks(4, *SIZE), *(255 - frame for frame in moving_blocks(3, *SIZE))]
    folder = write_folder(tmp_path / "in", frames)
    status, summary = stream(folder, "--save-labels", "trainIds")
    assert (status, summary["scene_cuts"]) == (0, [4])
    expected = labels_by_step(lmanet_file, frames, starts=(0, 4))
    assert np.mean([a == b for a, b in zip(label_maps(tmp_path / "run"), expected, strict=True)]) > 0.999
    _, summary = stream(folder, "--save-labels", "trainIds", "--no-cut-detection", "--overwrite")
    assert summary["scene_cuts"] == []
    expected = labels_by_step(lmanet_file, frames)
    assert np.mean([a == b for a, b in zip(label_maps(tmp_path / "run"), expected, strict=True)]) > 0.999


def test_a_baseline_streams_too(stream, erfnet_file, tmp_path):
    folder = write_folder(tmp_path / "in", moving_blocks(3))
    status, summary = stream(folder, "--baseline-mode", "--consistency", weights=erfnet_file)
    assert (status, list(summary["consistency"]["tc"])) == (0, ["single_frame"])


def test_a_single_frame_file_is_no_lmanet(stream, erfnet_file, tmp_path, capsys):
    assert stream(write_folder(tmp_path / "in", moving_blocks(1)), weights=erfnet_file)[0] == 2
    assert "the memory would be untrained; run the single-frame network (--baseline-mode" in capsys.readouterr().err


def test_a_video_that_breaks_off_is_kept_so_far(stream, tmp_path, capsys):
    whole = write_video(tmp_path / "whole.avi", moving_blocks(20), "mjpeg", "yuvj420p").read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    status, summary = stream(tmp_path / "cut.avi", "--save-video", "overlay")
    assert status == 1
    assert 5 < summary["frames"] < 15
    assert not summary["complete"]
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"breaks off after {summary['frames']} frames (" in error
    assert summary["stopped_by"] in error
    assert len(read_video(tmp_path / "run" / "overlay.mp4")) == summary["frames"]


def test_frames_that_change_size_begin_a_scene_and_are_fitted_into_the_video(stream, lmanet_file, tmp_path, capsys):
    frames = [*moving_blocks(3, *SIZE), *moving_blocks(5, 40, 40)[3:], *moving_blocks(6, *SIZE)[5:]]
    status, summary = stream(write_folder(tmp_path / "in", frames), "--save-labels", "trainIds", "--save-video", "both")
    assert (status, summary["frames"], summary["size_changes"], summary["frame_size"]) == (0, 6, [3, 5], list(SIZE))
    assert "frame_3 is 40x40" in capsys.readouterr().err
    found = label_maps(tmp_path / "run")
    assert [each.shape for each in found] == [SIZE] * 3 + [(40, 40)] * 2 + [SIZE]
    alone = labels_by_step(lmanet_file, [frames[5]])[0]  # what was before it is forgotten
    assert np.mean(found[5] == alone) > 0.999
    pictures = read_video(tmp_path / "run" / "both.mp4")
    assert len(pictures) == 6
    assert pictures[3][:32, :14].max() < 24  # 40x40 in 64x32: 32x32 in its middle, black beside it
    assert pictures[3][:32, 18:46].mean() > 60


def without_frames(folder: Path) -> Path:
    whole = write_video(folder / "whole.avi", moving_blocks(3), "mjpeg", "yuvj420p").read_bytes()
    (folder / "none.avi").write_bytes(whole[: whole.index(b"movi") + 4])
    return folder / "none.avi"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.mp4", "there is no such file or folder: expected a video file"),
        (lambda folder: PROJECT / "main.py", "main.py: cannot be read as a video"),
        (lambda folder: folder, "holds no image (.png, "),
        (lambda folder: folder / "f_%06d.png", "no file matches the pattern"),
        (lambda folder: folder / "*.png", "no file matches the pattern"),
        (lambda folder: 77, "there is no camera of that number"),
        (without_frames, "no frame can be decoded"),
    ],
)
def test_what_is_no_source_is_said_in_one_line(stream, tmp_path, capfd, make, message):
    assert stream(make(tmp_path))[0] == 2
    error = capfd.readouterr().err
    assert message in error.splitlines()[-1]
    assert not (tmp_path / "run" / "stream.json").exists()


def test_an_earlier_stream_is_not_overwritten_unasked(stream, tmp_path, capsys):
    folder = write_folder(tmp_path / "in", moving_blocks(2))
    assert stream(folder, "--save-labels", "trainIds")[0] == 0
    assert stream(folder)[0] == 2
    assert "holds an earlier stream (stream.json): give another folder, or --overwrite" in capsys.readouterr().err
    assert stream(tmp_path / "absent", "--overwrite")[0] == 2
    assert len(label_maps(tmp_path / "run")) == 2
    assert stream(folder, "--overwrite")[0] == 0
    assert not (tmp_path / "run" / "labels").exists()


def test_a_full_disk_is_said_and_leaves_a_marked_part(stream, tmp_path, capsys, monkeypatch):
    written = []

    def mux(self, frame):
        written.append(frame)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        return original(self, frame)

    original = VideoOutput.write
    monkeypatch.setattr(VideoOutput, "write", mux)
    status, summary = stream(write_folder(tmp_path / "in", moving_blocks(9)), "--save-video", "overlay")
    assert status == 1
    assert (
        "video cannot be written: the disk is full; the video so far is overlay.partial.mp4" in capsys.readouterr().err
    )
    assert not summary["complete"]
    assert not (tmp_path / "run" / "overlay.mp4").exists()
    assert len(read_video(tmp_path / "run" / "overlay.partial.mp4")) == 2


@pytest.mark.parametrize(("wish", "status", "name"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")])
def test_a_stream_that_is_stopped_leaves_a_video_that_plays(lmanet_file, tmp_path, wish, status, name):
    frames = moving_blocks(400)
    source = write_video(tmp_path / "long.mp4", frames)
    run = tmp_path / "run"
    words = f"--weights {lmanet_file} --savedir {run} --work-size 32x64 --corr-size 3 --device cpu --every 2"
    process = started(["--stream", str(source), *words.split(), "--save-video", "overlay", "--save-labels", "trainIds"])
    wait_for(lambda: len(list(run.glob("labels/*.png"))) >= 5)
    process.send_signal(wish)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status, error
    assert f"stopped by {name}; the frames so far are complete in" in error
    summary = json.loads((run / "stream.json").read_text())
    assert summary["stopped_by"] == name
    assert 5 <= summary["frames"] < 400
    assert len(read_video(run / "overlay.mp4")) == summary["frames"] == len(list(run.glob("labels/*.png")))
    assert not list(run.glob("*.partial.mp4"))


def test_two_outputs_fail_on_their_own(stream, tmp_path, monkeypatch):
    def refuse(self, frame):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(LabelOutput, "write", refuse)
    status, summary = stream(
        write_folder(tmp_path / "in", moving_blocks(9)), "--save-video", "overlay", "--save-labels", "trainIds"
    )
    assert status == 1
    assert "labels cannot be written: Permission denied" in summary["stopped_by"]
    assert len(read_video(tmp_path / "run" / "overlay.mp4")) >= 1


def test_cameras_are_released_and_said_when_they_end(monkeypatch, stream, tmp_path, capsys):
    class Camera:
        released = False
        frames = moving_blocks(3)

        def __init__(self, number):
            self.left = list(self.frames)

        def isOpened(self):
            return True

        def get(self, what):
            return 30.0

        def read(self):
            return (True, self.left.pop()) if self.left else (False, None)

        def release(self):
            Camera.released = True

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    status, summary = stream(0, "--no-live", "--retries", "0")
    assert (status, summary["frames"]) == (1, 3)
    assert "camera 0 went away after 3 frames (it gave no frame); these are kept" in capsys.readouterr().err
    assert Camera.released


def test_a_summary_that_cannot_be_written_is_said(stream, tmp_path, capsys, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engine.streaming.stream.write_text", full)
    assert stream(write_folder(tmp_path / "in", moving_blocks(2)), "--save-video", "overlay")[0] == 1
    assert "stream.json cannot be written to" in capsys.readouterr().err.splitlines()[-1]
    assert len(read_video(tmp_path / "run" / "overlay.mp4")) == 2
    monkeypatch.setattr(VideoOutput, "close", lambda self: full(None, None))
    assert stream(tmp_path / "in", "--save-video", "overlay", "--overwrite")[0] == 1
    assert "video cannot be written: the disk is full" in capsys.readouterr().err.splitlines()[-1]


class SlowOutput(Output):
    """An output that takes some time for each frame."""

    name = "slow"
    options = leaves = ()

    @classmethod
    def from_options(cls, values, stream):
        raise NotImplementedError

    def __init__(self, seconds: float):
        self.seconds = seconds

    def write(self, frame) -> None:
        time.sleep(self.seconds)

    def close(self) -> None:
        pass

    def abandon(self) -> str:
        return ""


@pytest.mark.parametrize(("seconds", "least", "most"), [(0.0, 0.8, 1.2), (0.25, 0.2, 0.7)])
def test_the_pace_is_compared_with_that_of_the_network_alone(lmanet_file, tmp_path, monkeypatch, seconds, least, most):
    source = open_source(str(write_folder(tmp_path, moving_blocks(30, *SIZE))))
    segmenter = VideoSegmenter(lmanet_file, work_size=SIZE, corr_size=3)
    stream = Stream(segmenter, source, [SlowOutput(seconds)], CITYSCAPES_CLASSES)
    step = segmenter.step
    monkeypatch.setattr(segmenter, "step", lambda image: (time.sleep(0.1), step(image))[1])
    stream.run()
    pace = stream.summary()["pace"]
    assert 5 < pace["network_alone"] < 25
    assert pace["share_of_network_alone"] == pytest.approx(pace["frames_per_second"] / pace["network_alone"], abs=1e-3)
    assert least < pace["share_of_network_alone"] < most
    assert pace["network_alone_steps"] >= 3


def test_a_few_frames_have_no_pace(stream, tmp_path):
    assert stream(write_folder(tmp_path / "in", moving_blocks(9)))[1]["pace"] is None


@pytest.mark.slow
def test_memory_stays_flat_over_ten_thousand_frames(stream, tmp_path):
    source = write_video(tmp_path / "long.mp4", moving_blocks(10_000))
    status, summary = stream(source, "--save-video", "overlay")
    assert (status, summary["frames"]) == (0, 10_000)
    samples = summary["samples"]
    assert len(samples["frame"]) >= 200
    resident = dict(zip(samples["frame"], samples["resident_mebibytes"], strict=True))
    early = max(mib for frame, mib in resident.items() if 50 < frame < 150)
    assert max(resident.values()) < early + 30
    assert cv2.imread(str(tmp_path / "run" / "stream.png")).shape[1] > 900


def overflowing(lmanet_file: Path, folder: Path, names: str) -> Path:
    """The weights, of which those whose names begin so are as large as float32 takes: what they compute overflows."""
    weights = torch.load(lmanet_file, weights_only=True)
    for name, tensor in weights.items():
        if name.removeprefix("module.").startswith(names) and tensor.is_floating_point():
            weights[name] = tensor / tensor.abs().max().clamp(min=1e-6) * 3e38
    assert all(tensor.isfinite().all() for tensor in weights.values())
    torch.save(weights, folder / "huge.pth")
    return folder / "huge.pth"


def test_scores_that_are_no_numbers_end_a_stream_at_its_first_frame(stream, lmanet_file, tmp_path, capsys):
    frames = write_folder(tmp_path / "in", moving_blocks(3))
    status, summary = stream(
        frames, "--save-labels", "trainIds", weights=overflowing(lmanet_file, tmp_path, "decoder.output_conv")
    )
    assert (status, summary) == (2, {})
    last = capsys.readouterr().err.splitlines()[-1]
    said = "frame 0 (frame_0): the network's scores are not finite (NaN or infinity), from its decoder on: expected"
    assert said in last
    assert not list((tmp_path / "run" / "labels").iterdir())


def test_a_smoothed_stream_writes_the_average_and_begins_anew_at_a_cut(stream, tmp_path):
    frames = [*moving_blocks(3, *SIZE), *(255 - frame for frame in moving_blocks(2, *SIZE))]
    folder, written = write_folder(tmp_path / "in", frames), ("--save-probabilities", "--save-labels", "trainIds")

    def probabilities_of(*options: str) -> tuple[list[np.ndarray], dict]:
        status, summary = stream(folder, *written, "--overwrite", *options)
        assert status == 0
        files = (tmp_path / "run" / "probabilities" / f"frame_{n}_probabilities.npy" for n in range(len(frames)))
        return [np.load(file).astype(np.float32) for file in files], summary

    alone, _ = probabilities_of()
    found, summary = probabilities_of("--smooth", "average", "--smooth-weight", "0.75", "--consistency")
    assert summary["scene_cuts"] == [3]
    assert list(summary["consistency"]["tc"]) == [
        *("single_frame", "single_frame_smoothed", "lmanet", "lmanet_smoothed")
    ]
    expected = alone[0]
    for number, now in enumerate(alone):
        expected = now if number in (0, 3) else 0.75 * expected + 0.25 * now
        assert np.allclose(found[number], expected, atol=2e-3)  # of 16 bits
        assert np.mean(found[number].argmax(0) == label_maps(tmp_path / "run")[number]) > 0.98


@pytest.mark.parametrize("more", [(), ("--consistency",)])
def test_scores_that_are_no_numbers_keep_the_frames_before(stream, lmanet_file, tmp_path, capsys, more):
    weights = overflowing(lmanet_file, tmp_path, "memory_fusion.conv")  # read from the second frame on
    frames = write_folder(tmp_path / "in", moving_blocks(4))
    status, summary = stream(frames, "--save-labels", "trainIds", "--save-probabilities", *more, weights=weights)
    assert status == 1
    said = "frame 1 (frame_1): the network's scores are not finite (NaN or infinity), from its fusion on: expected"
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert (summary["complete"], summary["frames"]) == (False, 1)
    assert summary["stopped_by"].endswith("try other --weights; 1 frames before it are kept")
    assert [path.name for path in (tmp_path / "run" / "labels").iterdir()] == ["frame_0_pred_labelTrainIds.png"]
    (file,) = (tmp_path / "run" / "probabilities").iterdir()
    assert np.isfinite(np.load(file)).all()


@pytest.mark.parametrize("name", ["in\nweights: forged", "in\x1b[2J\r\u2028\udc80"])
def test_names_forge_no_line_of_a_text_file_or_the_terminal(stream, tmp_path, capsys, name):
    write_folder(tmp_path / "plain", moving_blocks(2)).rename(tmp_path / name)
    status, summary = stream(tmp_path / name, "--save-labels", "trainIds")
    assert (status, summary["frames"]) == (0, 2)
    shown = capsys.readouterr()
    lines = (tmp_path / "run" / "args.txt").read_text().splitlines()
    assert all(line.isprintable() for line in [*lines, *(shown.out + shown.err).splitlines()])
    assert len([line for line in lines if line.startswith("weights: ")]) == 1
    assert len({line.partition(":")[0] for line in lines}) == len(lines)
