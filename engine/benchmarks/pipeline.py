"""The end of ``--benchmark stream``: the pace of a whole stream, MP4 in and out, against that of its network alone."""

import statistics
import tempfile
from fractions import Fraction
from pathlib import Path

import av
from tqdm import tqdm

from datasets.synthetic.clip import render_clip
from datasets.synthetic.options import StreetOptions
from engine.streaming.outputs.video import VideoOutput
from engine.streaming.sources import VideoFile
from engine.streaming.stream import Stream
from engine.streaming.video_writer import CODEC
from models.inference.segmenter import VideoSegmenter
from utils.class_set import ClassSet

FRAMES, FPS = 24, 17
WHAT = (
    f"a street of {FRAMES} frames, H.264 in, overlay out; medians over rounds, each with the network alone at its end"
)


def run(segmenter: VideoSegmenter, classes: ClassSet, rounds: int) -> dict:
    """Streams a drawn street of the working size ``rounds`` times; frames per second as ``stream.json`` counts them."""
    paces = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        street = write_street(folder / "street.mp4", segmenter.work_size)
        for _ in tqdm(range(rounds), "pipeline", disable=None, leave=False):
            segmenter.reset()
            outputs = [VideoOutput(folder, "overlay", 0.5, FPS, classes)]
            stream = Stream(segmenter, VideoFile(street), outputs, classes)
            stream.run()
            paces.append(stream.record.pace())
    names = ("frames_per_second", "network_alone", "share_of_network_alone")
    medians = {name: round(statistics.median(pace[name] for pace in paces), 4) for name in names}
    return medians | {"shares": [pace["share_of_network_alone"] for pace in paces], "rounds": rounds, "what": WHAT}


def write_street(path: Path, size: tuple[int, int]) -> Path:
    """An MP4 of a drawn street, height and width as given; odd sides lose a row or column."""
    height, width = (side - side % 2 for side in size)  # H.264 in 4:2:0 takes even sides
    frames, _ = render_clip(StreetOptions(height, width, FRAMES), 0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(CODEC, rate=Fraction(FPS))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path
