"""Builds the segmenter and the stream from settings."""

import numpy as np
import torch

from engine.evaluation.consistency import Comparison
from engine.evaluation.temporal_consistency import TemporalConsistency
from engine.options.settings import Settings, StreamSettings
from engine.streaming.output import StreamInfo, registered_outputs
from engine.streaming.previous import StreamFiles
from engine.streaming.sources import FrameSource, open_source, spread_frames
from engine.streaming.stream import Stream
from engine.streaming.threads import interruptible
from models.inference.segmenter import VideoSegmenter
from models.lmanet import LMANet
from utils.class_set import ClassSet

CALIBRATION_FRAMES = 16


def segmenter_of(settings: Settings, model: LMANet, device: torch.device) -> VideoSegmenter:
    """The segmenter of a stream, or of an evaluation of whole videos."""
    stream = settings.stream
    return VideoSegmenter(
        model,
        device=device,
        work_size=settings.data.work_size,
        every=stream.every,
        compiled=stream.compile,
        amp=stream.amp or False,
        int8_frames=calibration_frames(stream),
        engine=stream.engine,
        smooth=stream.smooth,
        smooth_weight=None if isinstance(stream.smooth_weight, str) else stream.smooth_weight,
        detect_cuts=stream.source is None,  # a stream itself resets at the cuts that it detects
    )


def calibration_frames(stream: StreamSettings) -> list[np.ndarray] | None:
    """Frames, RGB uint8 ``H W 3``, from the source that ``--int8`` names; ``None`` without ``--int8``."""
    if stream.int8 is None:
        return None
    source = open_source(stream.int8, "--int8")
    return interruptible(lambda: spread_frames(source, CALIBRATION_FRAMES))


def stream_of(
    settings: StreamSettings, classes: ClassSet, segmenter: VideoSegmenter, source: FrameSource, files: StreamFiles
) -> Stream:
    """A stream from the source into the outputs of the settings, whose files are noted in ``files``."""
    info = StreamInfo(files.folder, classes, source.fps)
    outputs = [output.from_options(settings.outputs, info) for output in registered_outputs()]
    names = Comparison(segmenter).names
    return Stream(
        segmenter,
        source,
        [output for output in outputs if output is not None],
        classes,
        detect_cuts=settings.detect_cuts,
        consistency=TemporalConsistency(names, classes.num_outputs) if settings.consistency else None,
        before_writing=files.note_frame,
    )
