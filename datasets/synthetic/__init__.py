"""Synthetic street clips: a camera drives down a street in perspective, with the 19 classes of Cityscapes.

``render_clip`` draws a clip in memory; ``write_dataset`` and ``ensure_dataset`` write a set of them in Cityscapes'
layout, as ``python -m datasets.synthetic OUT`` does. A clip depends on its options and its seed alone, and is the same
on every machine.
"""

from .clip import render_clip
from .disk import ensure_dataset, write_dataset
from .options import StreetOptions

__all__ = ["StreetOptions", "ensure_dataset", "render_clip", "write_dataset"]
