"""A clip: a street, rendered frame by frame, each frame with its own corruption."""

from functools import partial

import numpy as np

from .camera import render
from .corruption import spoiled
from .lasting import worn
from .options import StreetOptions
from .parts import ID
from .scene import street


def render_clip(options: StreetOptions, clip_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a clip.

    Difficulty does not change the street, and speed only its motion. Returns the frames, L x H x W x 3 uint8
    RGB, and the train ids, L x H x W uint8, one for each pixel of each frame.
    """
    scene = street(options, clip_seed)
    cameras = partial(scene.path.camera, options)
    frames = np.empty((options.length, options.height, options.width, 3), np.uint8)
    train_ids = np.empty((options.length, options.height, options.width), np.uint8)
    for time in range(options.length):
        camera = scene.path.camera(options, time)
        image, train_ids[time] = render(scene.surfaces, camera, time, scene.sky, scene.fog, ID["sky"])
        if options.persistence:
            seed = [options.seed, clip_seed]
            frames[time] = worn(image, options.difficulty, options.persistence, seed, time, cameras)
        else:
            frames[time] = spoiled(image, options.difficulty, [options.seed, clip_seed, time])
    return frames, train_ids
