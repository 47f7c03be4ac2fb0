"""Clips of the training split that are held out of the training, to validate on: whole scenes."""

from collections.abc import Sequence

import torch

from datasets.clips import Clip
from datasets.sampling import FOR_HOLD_OUT, seeded_generator
from utils.errors import OptionError


def split_by_scene(clips: Sequence[Clip], share: float, seed: int) -> tuple[list[Clip], list[Clip]]:
    """The clips to train on and those held out, in order: about a ``share`` of them, and no scene on both sides.

    Scenes are drawn by the seed alone; one at least, and not all. Raises ``OptionError`` where there is only one.
    """
    scenes = sorted({clip.scene for clip in clips})
    if len(scenes) < 2:
        raise OptionError(
            f"--hold-out {share:g} takes whole videos, and the training split has one alone ({scenes[0]}): expected "
            "two or more; leave it out"
        )
    counts = {scene: sum(clip.scene == scene for clip in clips) for scene in scenes}
    held, left = set[str](), share * len(clips)
    for place in torch.randperm(len(scenes), generator=seeded_generator(seed, 0, 0, FOR_HOLD_OUT)).tolist():
        scene = scenes[place]
        # Those that would take more than is wanted by over half of themselves are passed over.
        if len(held) < len(scenes) - 1 and counts[scene] <= 2 * left:
            held.add(scene)
            left -= counts[scene]
    if not held:
        held.add(min(scenes, key=lambda scene: counts[scene]))
    return [clip for clip in clips if clip.scene not in held], [clip for clip in clips if clip.scene in held]
