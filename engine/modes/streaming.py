"""``--stream``: labels a video, frame by frame."""

import logging
from collections.abc import Mapping

import torch

from engine.network import with_network
from engine.options.settings import Settings
from engine.run_folder import RunFolder
from engine.streaming.previous import StreamFiles
from engine.streaming.setup import segmenter_of, stream_of
from engine.streaming.sources import open_source
from engine.streaming.stream import Stream, stream_text, unwritten_summary
from models.description import describe
from utils.addresses import without_secrets
from utils.errors import IncompleteError, StoppedError
from utils.signals import NotedSignals, ended_by_sigterm

log = logging.getLogger(__name__)


@ended_by_sigterm("no frame was labeled yet")  # while the source is opened and the network loaded
def run_stream(settings: Settings, source_name: str, device: torch.device, folder: RunFolder) -> None:
    """Labels the frames of a source, prints and writes a summary.

    Raises ``IncompleteError`` where the source is truncated, or a file cannot be written.
    """
    files = StreamFiles(folder.path, settings.stream.outputs)
    files.refuse_previous(settings.stream.overwrite)
    wanted = settings.stream
    source = open_source(source_name, live=wanted.live, retries=wanted.retries, skip_damage=wanted.skip_damage)
    files.refuse_names(source.names)
    log.info("%s", source.description)
    settings, model = with_network(settings, device)
    folder = folder.renamed(settings.shallow)
    segmenter = segmenter_of(settings, model, device)
    # Only now, after all that may refuse the options.
    files.clear_previous([each for each in (source_name, settings.stream.int8) if each])
    folder.describe_run(settings, describe(model))
    with files.noted(), ended_by_sigterm(""):
        stream = stream_of(settings.stream, settings.network.classes, segmenter, source, files)
        try:
            _run_and_summarize(stream, files, circumstances(settings.arguments, device))
        except (KeyboardInterrupt, StoppedError) as stop:
            raise type(stop)(_what_is_left(stream, files)) from stop


def _run_and_summarize(stream: Stream, files: StreamFiles, circumstances: dict[str, object]) -> None:
    """Runs a stream to its end; whatever that is, its summary is written, then printed."""
    unwritten: list[str] = []
    try:
        stream.run()
    finally:
        if stream.record.frames:
            with NotedSignals():
                summary = stream.summary() | circumstances
                unwritten = unwritten_summary(files.folder, summary)
                print(stream_text(summary))
    if unwritten:
        names = " and ".join(unwritten)
        raise IncompleteError(f"{names} cannot be written to {files.folder}; all other files are complete")


def _what_is_left(stream: Stream, files: StreamFiles) -> str:
    """What a stream that was stopped has left, for the last line."""
    if not stream.record.frames:
        return "no frame was labeled before"
    if not stream.problems:
        return f"the frames so far are complete in {files.folder}"
    problems, left = "; ".join(map(str, stream.problems)), ", ".join(files.written())
    return f"{problems}; of {stream.record.frames} frames {files.folder} holds {left}"


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
