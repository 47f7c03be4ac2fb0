"""``--stream``: labels a video, frame by frame."""

import logging
from collections.abc import Mapping

import torch

from engine.network import with_network
from engine.options.settings import Settings
from engine.run_folder import RunFolder
from engine.streaming.previous import SUMMARY, StreamFiles
from engine.streaming.setup import segmenter_of, stream_of
from engine.streaming.sources import open_source
from engine.streaming.stream import stream_text, summarized
from models.description import describe
from utils.addresses import without_secrets
from utils.errors import IncompleteError
from utils.signals import ended_by_sigterm

log = logging.getLogger(__name__)


@ended_by_sigterm("no frame was labeled yet")  # while the source is opened and the network loaded
def run_stream(settings: Settings, source_name: str, device: torch.device, folder: RunFolder) -> None:
    """Labels the frames of a source, prints and writes a summary.

    Raises ``IncompleteError`` where the source is truncated, or a file cannot be written.
    """
    files = StreamFiles(folder.path, settings.stream.outputs)
    files.refuse_previous(settings.stream.overwrite)
    source = open_source(source_name)
    files.refuse_names(source.names)
    log.info("%s", source.description)
    settings, model = with_network(settings, device)
    folder = folder.renamed(settings.shallow)
    segmenter = segmenter_of(settings, model, device)
    # Only now, after all that may refuse the options.
    files.clear_previous([each for each in (source_name, settings.stream.int8) if each])
    folder.describe_run(settings, describe(model))
    summary_written = True
    with files.noted():
        stream = stream_of(settings.stream, settings.network.classes, segmenter, source, files)
        try:
            with ended_by_sigterm(f"the frames so far are complete in {folder.path}"):
                stream.run()
        finally:
            if stream.record.frames:
                summary = stream.summary() | circumstances(settings.arguments, device)
                summary_written = summarized(folder.path, summary)
                print(stream_text(summary))
    if not summary_written:
        raise IncompleteError(f"{SUMMARY} cannot be written to {folder.path}; all other files are complete")


def circumstances(arguments: Mapping[str, object], device: torch.device) -> dict[str, object]:
    """Device, threads, PyTorch's version and options of a run: plain values for JSON."""
    return {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "options": {name: _plain(value) for name, value in sorted(arguments.items())},
    }


def _plain(value: object) -> object:
    plain = isinstance(value, (int, float, bool, list, tuple, type(None)))
    return value if plain else without_secrets(str(value))
