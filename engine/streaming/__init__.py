"""A video without labels, frame by frame: sources, the stream itself, its outputs and its record."""
