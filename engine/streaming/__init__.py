"""``--stream``, a video without labels frame by frame: sources, the stream, its outputs, and what is measured."""
