"""The last part of ``--benchmark stream``: frames per second of a whole stream, and of its network alone.

The stream reads an MP4, and writes the overlay as an MP4 and the label maps as PNGs.
"""

import logging
import statistics
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.synthetic.clip import render_clip
from datasets.synthetic.options import StreetOptions
from engine.options.plugins import load_plugins
from engine.streaming.outputs.labels import LabelOutput
from engine.streaming.outputs.video import VideoOutput
from engine.streaming.stream import Stream
from models.config import LMANetConfig
from models.inference.segmenter import VideoSegmenter
from models.lmanet import build_lmanet
from utils.allocator import keep_freed_memory
from utils.class_set import ClassSet
from utils.errors import OptionError
from utils.modules import check_importable

log = logging.getLogger(__name__)

FRAMES, FPS, ROUNDS = 24, 17, 9
QUALITY = {"crf": "28"}  # of the street's video
WHAT = (
    f"a clean street of {FRAMES} frames, H.264 in, overlay and label PNGs out; "
    "medians over rounds, each with the network alone at its end"
)


def is_possible() -> bool:
    """Whether PyAV is installed, which writes and reads the stream's video; if not, the log says so."""
    try:
        check_importable("av", "the pipeline reads and writes videos by PyAV", "pip install av")
    except OptionError as error:
        log.info("not measured: %s", error)
        return False
    return True


def run_of_network(
    config: LMANetConfig,
    classes: ClassSet,
    size: tuple[int, int],
    device: torch.device,
    threads: int,
    plugins: Sequence[str],
) -> dict:
    """``run`` of a network with random weights, with all that ``--stream`` sets up; for a process of its own."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = True
    keep_freed_memory()
    load_plugins(plugins)
    torch.manual_seed(0)
    return run(VideoSegmenter(build_lmanet(config).eval(), device=device, work_size=size), classes)


def run(segmenter: VideoSegmenter, classes: ClassSet, rounds: int = ROUNDS) -> dict:
    """Streams a synthetic street at the working size ``rounds`` times; returns medians, as in ``stream.json``."""
    from engine.streaming.sources.video import VideoFile  # here, as no other part of the benchmark needs PyAV

    paces = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        street = write_street(folder / "street.mp4", segmenter.work_size)
        for _ in tqdm(range(rounds), "pipeline", disable=None, leave=False):
            segmenter.reset()
            outputs = [VideoOutput(folder, "overlay", 0.5, FPS, classes), LabelOutput(folder, "trainIds", classes)]
            stream = Stream(segmenter, VideoFile(street), outputs, classes)
            stream.run()
            pace = stream.record.pace()
            assert pace is not None  # FRAMES are enough to settle
            paces.append(pace)
    names = ("frames_per_second", "network_alone", "share_of_network_alone")
    medians = {name: round(statistics.median(pace[name] for pace in paces), 4) for name in names}
    return medians | {"shares": [pace["share_of_network_alone"] for pace in paces], "rounds": rounds, "what": WHAT}


def write_street(path: Path, size: tuple[int, int]) -> Path:
    """Writes an MP4 of a synthetic street; of odd sides in ``size = (H, W)`` one pixel is left out.

    It takes 16 KB a frame of 512x1024, near the 11 KB of Cityscapes' frames by the encoder's defaults, so that as much
    is decoded as of a camera. Damaged streets, with noise that is new in each frame, take ten times as much.
    """
    import av

    from engine.streaming.video_writer import add_video_stream

    height, width = (side - side % 2 for side in size)  # 4:2:0 needs even sides
    frames, _ = render_clip(StreetOptions(height, width, FRAMES, difficulty=0.0), 0)
    with av.open(str(path), "w") as container:
        stream = add_video_stream(container, Fraction(FPS), (height, width), QUALITY)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
