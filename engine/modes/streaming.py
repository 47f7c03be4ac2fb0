"""``--stream``: a video without labels, frame by frame."""

import argparse
import logging

import torch

from engine import build
from engine.frame_sources import open_source
from engine.run_folder import RunFolder
from engine.stream import stream_text, summarised
from engine.stream_outputs import SUMMARY, clear_previous
from models.model_text import describe
from utils.errors import IncompleteError

log = logging.getLogger(__name__)


def run_stream(options: argparse.Namespace, device: torch.device, folder: RunFolder) -> None:
    clear_previous(folder.path, options.overwrite)
    source = open_source(options.stream)
    log.info("%s", source.description)
    model = build.model_with_weights(options, device)
    stream = build.stream_of(options, model, source, device, folder.path)
    folder.describe_run(options, describe(model))
    summary_written = True
    try:
        stream.run()
    finally:
        if stream.record.frames:
            summary = stream.summary() | build.circumstances(options, device)
            print(stream_text(summary))
            summary_written = summarised(folder.path, summary)
    if not summary_written:
        raise IncompleteError(f"{SUMMARY} cannot be written to {folder.path}; all other files are complete")
