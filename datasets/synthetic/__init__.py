"""Synthetic street clips: a camera drives down a street in perspective, with the classes of Cityscapes.

``clip.render_clip`` draws a clip in memory; ``disk.write_dataset`` and ``disk.ensure_dataset`` write a set of them in
Cityscapes' layout, as ``python -m datasets.synthetic OUT`` does; ``options`` holds the options. A clip depends on
its options and its seed alone, and is the same on every machine.
"""
