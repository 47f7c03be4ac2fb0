"""People and two-wheelers. ``x``, ``z``: the middle; ``velocity``: meters a frame."""

import math
from collections.abc import Callable

import numpy as np

from .camera import exact
from .mesh import ALONG_X, ALWAYS, PHASES, STREET, UPWARDS, Corner, Mesh, Outline, Point
from .parts import GLASS, ID, STILL, bar, bright, disc, jitter, pick, rectangle, shadow, uniform

_SKINS = [(198, 152, 126), (160, 112, 84), (110, 74, 54), (212, 172, 148)]


def _limb(hip: Corner, swing: float, length: float, width: float) -> Outline:
    x, y = hip
    foot_x, foot_y = x + length * swing, y - length * exact(math.sqrt(1 - swing * swing))
    return [(x - width / 2, y), (x + width / 2, y), (foot_x + width / 2, foot_y), (foot_x - width / 2, foot_y)]


def person(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point) -> None:
    """A pedestrian, walking if it has a velocity."""
    walks = velocity != STILL
    size = uniform(rng, 0.86, 1.08)
    body = mesh.group((x, 0, z), STREET, velocity)
    origin, person_id = (x, 0.0, z), ID["person"]
    coat, trousers, skin = bright(rng), bright(rng), pick(rng, _SKINS)
    coat_paint, leg_paint = mesh.paint(coat, bright(rng)), mesh.paint(trousers, trousers, 0.9)
    texture = pick(rng, ["cloth", "cloth", "stripes"])
    shift = int(rng.randint(PHASES))
    stride = uniform(rng, 0.25, 0.4)
    hip, shoulder, wide = 0.9 * size, 1.45 * size, 0.25 * size * uniform(rng, 0.9, 1.25)

    def put(shape: Outline, paint: int, name: str = "cloth", phase: int = ALWAYS) -> None:
        body.add(shape, origin, ALONG_X, UPWARDS, paint, name, person_id, (0.6, 0.6), phase=phase)

    for phase in range(PHASES) if walks else [ALWAYS]:
        swing = stride * exact(math.sin(2 * math.pi * (phase + shift) / PHASES)) if walks else 0.08
        for side, sign in ((-0.09, 1), (0.09, -1)):
            put(_limb((side * size, hip), sign * swing, hip, 0.16 * size), leg_paint, phase=phase)
            put(_limb((side * 2.6 * size, shoulder), -sign * swing, 0.62 * size, 0.11 * size), coat_paint, phase=phase)
    long_coat = uniform(rng, 0.55, 0.85) * size
    put([(-wide * 0.85, long_coat), (wide * 0.85, long_coat), (wide, shoulder), (-wide, shoulder)], coat_paint, texture)
    put(rectangle(-0.05, shoulder - 0.02, 0.05, shoulder + 0.1), mesh.paint(skin))
    put(disc(0, shoulder + 0.2 * size, 0.135 * size, 10, 0.85), mesh.paint(skin))
    hair = mesh.paint(jitter(rng, pick(rng, [(40, 30, 24), (90, 66, 40), (24, 22, 22), (150, 140, 130)])))
    top = shoulder + 0.24 * size
    put(
        [(-0.12, top - 0.04), (0.12, top), (0.11, top + 0.08), (0.05, top + 0.13), (-0.06, top + 0.13), (-0.13, top)],
        hair,
    )
    if rng.randint(3) == 0:
        bag = bright(rng)
        put(rectangle(0.14, hip - 0.2, 0.42, hip + 0.16), mesh.paint(bag), "plain")
    shadow(mesh, x - 0.3, x + 0.3, z - 0.12, z + 0.12, velocity)


def two_wheeler(
    mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point, kind: str, ridden: bool, turn: float
) -> None:
    """A bicycle or motorcycle (``kind``) seen from its side; turn: angle in radians between it and the image plane."""
    motor = kind == "motorcycle"
    radius, base = (0.33, 1.35) if motor else (0.37, 1.12)
    sense = math.copysign(1.0, velocity[0])  # also when a speed of 0 leaves nothing but the sign
    along = (sense * exact(math.cos(turn)), 0.0, exact(math.sin(turn)))
    body = mesh.group((x, 0, z), STREET, velocity)
    thing = ID[kind]
    paint, dark = (
        mesh.paint(bright(rng), GLASS),
        mesh.paint((34, 34, 36), (150, 150, 146) if not motor else (120, 120, 122)),
    )

    def put(
        shape: Outline,
        color: int,
        texture: str = "plain",
        train_id: int = thing,
        origin: Point = (x, 0.0, z),
        tile: tuple[float, float] = (0.5, 0.5),
    ) -> None:
        body.add(shape, origin, along, UPWARDS, color, texture, train_id, tile)

    for wheel in (-base / 2, base / 2):
        corner = (x + along[0] * (wheel - radius), 0.0, z + along[2] * (wheel - radius))
        put(
            disc(radius, radius, radius, 14),
            dark,
            "hub" if motor else "spokes",
            thing,
            corner,
            (2 * radius, 2 * radius),
        )
    if motor:
        put(
            [
                (-0.75, 0.55),
                (-0.1, 0.4),
                (0.35, 0.35),
                (0.55, 0.6),
                (0.5, 0.95),
                (0.2, 0.85),
                (-0.3, 0.8),
                (-0.85, 0.85),
            ],
            paint,
        )
        put([(-0.3, 0.3), (0.3, 0.25), (0.35, 0.5), (-0.35, 0.5)], mesh.paint((70, 70, 74)))
        put([(-0.7, 0.78), (-0.05, 0.76), (0.0, 0.86), (-0.75, 0.92)], mesh.paint((26, 26, 28)))
        put([(0.4, 0.8), (0.62, 0.85), (0.55, 1.15), (0.42, 1.1)], mesh.paint(GLASS))
        put(rectangle(0.55, 0.7, 0.7, 0.85), mesh.paint((220, 214, 190)))
    else:
        for start, end in (((-0.56, 0.37), (-0.15, 0.85)), ((-0.56, 0.37), (-0.05, 0.3)), ((-0.05, 0.3), (0.45, 0.8))):
            put(bar(start, end, 0.05), paint)
        put(bar((-0.12, 0.8), (0.44, 0.84), 0.06), paint)
        put(bar((-0.05, 0.3), (-0.18, 0.92), 0.05), paint)
        put(bar((0.56, 0.37), (0.42, 1.0), 0.05), paint)
        put(bar((0.34, 1.02), (0.52, 1.0), 0.06), dark)
        put(bar((-0.3, 0.94), (-0.06, 0.92), 0.08), dark)
    if ridden:
        _rider(mesh, rng, put, motor)
    shadow(mesh, x - 0.7, x + 0.7, z - 0.2, z + 0.2, velocity)


def _rider(mesh: Mesh, rng: np.random.RandomState, put: Callable[[Outline, int, str, int], None], motor: bool) -> None:
    rider = ID["rider"]
    coat, trousers = mesh.paint(bright(rng), bright(rng)), mesh.paint(bright(rng))
    hip = (-0.25, 0.92) if motor else (-0.2, 1.0)
    neck = (hip[0] + (0.22 if motor else 0.3), hip[1] + 0.58)
    knee = (hip[0] + 0.38, hip[1] - 0.12 if motor else hip[1] - 0.22)
    put(bar(hip, knee, 0.2), trousers, "cloth", rider)
    put(bar(knee, (knee[0] - 0.2, 0.3), 0.15), trousers, "cloth", rider)
    put(bar((hip[0] - 0.04, hip[1] - 0.08), neck, 0.4), coat, "cloth", rider)
    put(bar((neck[0], neck[1] - 0.1), (0.45, 1.05), 0.13), coat, "cloth", rider)
    head = (neck[0] + 0.08, neck[1] + 0.17)
    put(disc(*head, 0.15, 10), mesh.paint(pick(rng, _SKINS)), "plain", rider)
    helmet = mesh.paint(bright(rng))
    x, y, reach = *head, 0.19 if motor else 0.16
    put([(x - reach, y - reach / 3), (x + reach, y), (x, y + reach + 0.03)], helmet, "plain", rider)
    put(disc(head[0] - 0.02, head[1] + 0.06, 0.15, 8), helmet, "plain", rider)
