"""``--stream``: a video without labels, frame by frame."""

import argparse
import logging

import torch

from engine import build
from engine.run_folder import RunFolder
from engine.streaming.outputs import SUMMARY, clear_previous, refuse_previous
from engine.streaming.sources import open_source
from engine.streaming.stream import stream_text, summarized
from models.description import describe
from utils.errors import IncompleteError
from utils.signals import ended_by_sigterm

log = logging.getLogger(__name__)


def run_stream(options: argparse.Namespace, device: torch.device, folder: RunFolder) -> None:
    refuse_previous(folder.path, options.overwrite)
    source = open_source(options.stream)
    log.info("%s", source.description)
    model = build.model_with_weights(options, device)
    segmenter = build.segmenter_of(options, model, device)
    # Only now, when all that could be refused has been read.
    clear_previous(folder.path, [each for each in (options.stream, options.int8) if each])
    stream = build.stream_of(options, segmenter, source, folder.path)
    folder.describe_run(options, describe(model))
    summary_written = True
    try:
        with ended_by_sigterm(f"the frames so far are complete in {folder.path}"):
            stream.run()
    finally:
        if stream.record.frames:
            summary = stream.summary() | build.circumstances(options, device)
            print(stream_text(summary))
            summary_written = summarized(folder.path, summary)
    if not summary_written:
        raise IncompleteError(f"{SUMMARY} cannot be written to {folder.path}; all other files are complete")
