"""How steady a network's labels are over the sequences of a labeled data set, with its memory and without."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.cityscapes import Clip
from datasets.classes import IGNORED, NUM_CLASSES
from datasets.images import image_size, read_frame, read_label
from engine.evaluation.temporal_consistency import TemporalConsistency, VideoConsistency
from engine.reports.scores import percent
from models.inference.segmenter import VideoSegmenter

WITH_MEMORY, SINGLE_FRAME = "lmanet", "single_frame"
LENGTHS = (8, 16)  # of VSPW's mVC
MVC = (
    "VSPW: of the pixels whose label stays the same over n frames, the share predicted right in all n; null where no "
    "sequence has n labeled frames in a row"
)


@dataclass(frozen=True)
class FrameSequence:
    """Frames that follow each other, and the label of each, or none."""

    frames: tuple[Path, ...]
    labels: tuple[Path | None, ...]


def sequences_of(clips: Iterable[Clip], labeled: Iterable[Clip]) -> list[FrameSequence]:
    """The sequences that clips are made of; ``labeled`` are clips of one frame each, for all labels there are."""
    frames = {_place(path): path for clip in [*labeled, *clips] for path in clip.frames}
    labels = {_place(clip.frames[-1]): clip.label for clip in labeled}
    runs: list[list[tuple[str, int]]] = []
    for place in sorted(frames):
        video, number = place
        if runs and runs[-1][-1] == (video, number - 1):
            runs[-1].append(place)
        else:
            runs.append([place])
    return [FrameSequence(tuple(frames[p] for p in run), tuple(labels.get(p) for p in run)) for run in runs]


def measure_consistency(segmenter: VideoSegmenter, sequences: Sequence[FrameSequence]) -> dict:
    """TC and mVC of the labels with the memory and of those without, at the working size, as JSON holds them."""
    names = prediction_names(segmenter)
    temporal = TemporalConsistency(names, NUM_CLASSES)
    video = {name: VideoConsistency(LENGTHS, IGNORED) for name in names}
    for sequence in tqdm(sequences, "consistency", unit="sequence", disable=None, leave=False):
        segmenter.reset()
        temporal.reset()
        for each in video.values():
            each.end_video()
        for frame, label in zip(sequence.frames, sequence.labels, strict=True):
            image = read_frame(frame, image_size(frame)).permute(1, 2, 0).numpy()
            prepared = segmenter.prepared(image)
            predictions = predictions_of(segmenter, prepared)
            temporal.update(np.ascontiguousarray(prepared[0].permute(1, 2, 0).numpy()), predictions)
            for name, each in video.items():
                if label is None:
                    each.end_video()
                else:
                    each.update(predictions[name], read_label(label, segmenter.work_size).numpy())
    for each in video.values():
        each.end_video()
    return temporal.report() | {
        "sequences": len(sequences),
        "mvc": {n: v.means() for n, v in video.items()},
        "mvc_is": MVC,
    }


def predictions_of(segmenter: VideoSegmenter, prepared, labels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Labels at the working size: with the memory (computed unless they are given) and by the single frame alone."""
    if labels is None:
        labels = segmenter.labels(segmenter.logits(prepared))
    found = {prediction_names(segmenter)[-1]: labels}
    if WITH_MEMORY in found:
        found[SINGLE_FRAME] = segmenter.labels(segmenter.single_frame_logits(prepared))
    return {name: segmenter.at_size(each, segmenter.work_size) for name, each in found.items()}


def prediction_names(segmenter: VideoSegmenter) -> tuple[str, ...]:
    return (SINGLE_FRAME,) if segmenter.model.config.baseline else (SINGLE_FRAME, WITH_MEMORY)


def consistency_text(report: dict) -> str:
    """The same in one line a prediction."""
    lines = []
    for name, tc in report["tc"].items():
        mvc = report.get("mvc", {}).get(name, {})
        lines.append(", ".join([f"{name}: TC {percent(tc)} %", *(f"{k} {percent(v)} %" for k, v in mvc.items())]))
    return "\n".join(lines)


def _place(frame: Path) -> tuple[str, int]:
    """``CITY_SEQ`` and the number of a frame called ``CITY_SEQ_FRAME_leftImg8bit``."""
    video, number = frame.stem.removesuffix("_leftImg8bit").rsplit("_", 1)
    return video, int(number)
