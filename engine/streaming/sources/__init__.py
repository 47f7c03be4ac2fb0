"""Sources of frames: a folder or a pattern of image files, a video file, or a camera; one file a kind."""

from engine.streaming.sources.opening import open_source, spread_frames
from engine.streaming.sources.source import FrameSource, SourceFrame

__all__ = ["FrameSource", "SourceFrame", "open_source", "spread_frames"]
