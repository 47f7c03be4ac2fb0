"""What stands, walks and drives on the street: people, two-wheelers, vehicles, poles, signs, lights, trees.

Every function adds one thing to a mesh. ``x`` is its middle across the street, ``z`` its end nearer to the camera's
start, ``velocity`` its motion in metres a frame. Sizes are in metres.
"""

import math

import numpy as np

from ..classes import CLASSES
from .camera import exact
from .mesh import ALONG_X, ALONG_Z, ALWAYS, DECAL, PHASES, STREET, UPWARDS, Colour, Group, Mesh, Point

ID = {c.name: c.train_id for c in CLASSES}
STILL: Point = (0.0, 0.0, 0.0)
_TOWARDS, _LEFT, _RIGHT = (0.0, 0.0, -1.0), (-1.0, 0.0, 0.0), (1.0, 0.0, 0.0)

# One list for walls, another for everything painted or worn: a colour never gives the class away.
_DULL = [
    (128, 122, 116),
    (168, 150, 128),
    (150, 104, 84),
    (186, 180, 170),
    (112, 106, 108),
    (160, 138, 104),
    (96, 88, 84),
]
_BRIGHT = [(28, 30, 34), (70, 74, 80), (150, 154, 158), (206, 206, 202), (134, 30, 30), (36, 56, 112), (40, 84, 62)]
_BRIGHT += [(176, 160, 124), (184, 148, 40), (92, 64, 46), (72, 112, 150)]
_GREENS = [(64, 82, 40), (82, 92, 48), (56, 72, 46), (100, 100, 56), (74, 90, 34)]
_SKINS = [(198, 152, 126), (160, 112, 84), (110, 74, 54), (212, 172, 148)]
GLASS = (52, 60, 68)


def jitter(rng: np.random.RandomState, colour: Colour, amount: int = 14) -> Colour:
    """``colour`` with each channel moved by up to ``amount``."""
    moved = [int(c) + int(rng.randint(-amount, amount + 1)) for c in colour]
    return (max(4, moved[0]), max(4, moved[1]), max(4, moved[2]))


def pick(rng: np.random.RandomState, choices: list):
    """One of ``choices``."""
    return choices[rng.randint(len(choices))]


def dull(rng: np.random.RandomState) -> Colour:
    """A wall's colour."""
    return jitter(rng, pick(rng, _DULL))


def bright(rng: np.random.RandomState) -> Colour:
    """A colour of paint or cloth."""
    return jitter(rng, pick(rng, _BRIGHT))


def green(rng: np.random.RandomState) -> Colour:
    """A plant's colour."""
    return jitter(rng, pick(rng, _GREENS), 10)


def uniform(rng: np.random.RandomState, low: float, high: float) -> float:
    """A number between ``low`` and ``high``."""
    return low + (high - low) * float(rng.random_sample())


def rectangle(left: float, bottom: float, right: float, top: float) -> list[tuple[float, float]]:
    """A rectangle's corners."""
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def disc(x: float, y: float, radius: float, corners: int = 12, squeeze: float = 1.0) -> list[tuple[float, float]]:
    """A regular polygon around (x, y)."""
    angles = [2 * math.pi * (k + 0.5) / corners for k in range(corners)]
    return [(x + squeeze * radius * exact(math.cos(a)), y + radius * exact(math.sin(a))) for a in angles]


_PANTOGRAPH = [(1.1, 0.0), (1.3, 0.0), (1.7, 0.7), (0.7, 0.7), (0.7, 0.6), (1.5, 0.6)]


def _limb(hip: tuple[float, float], swing: float, length: float, width: float) -> list[tuple[float, float]]:
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
    stride = uniform(rng, 0.25, 0.4) if walks else 0.08
    hip, shoulder, wide = 0.9 * size, 1.45 * size, 0.25 * size * uniform(rng, 0.9, 1.25)

    def put(shape, paint, name="cloth", phase=ALWAYS):
        body.add(shape, origin, ALONG_X, UPWARDS, paint, name, person_id, (0.6, 0.6), phase=phase)

    for phase in range(PHASES) if walks else [ALWAYS]:
        swing = stride * exact(math.sin(2 * math.pi * (phase + shift) / PHASES)) if walks else stride
        for side, sign in ((-0.09, 1), (0.09, -1)):
            put(_limb((side * size, hip), sign * swing, hip, 0.16 * size), leg_paint, phase=phase)
            put(_limb((side * 2.6 * size, shoulder), -sign * swing, 0.62 * size, 0.11 * size), coat_paint, phase=phase)
    long_coat = uniform(rng, 0.55, 0.85) * size
    put([(-wide * 0.85, long_coat), (wide * 0.85, long_coat), (wide, shoulder), (-wide, shoulder)], coat_paint, texture)
    put(rectangle(-0.05, shoulder - 0.02, 0.05, shoulder + 0.1), mesh.paint(skin))
    put(disc(0, shoulder + 0.2 * size, 0.135 * size, 10, 0.85), mesh.paint(skin))
    hair = mesh.paint(jitter(rng, pick(rng, [(40, 30, 24), (90, 66, 40), (24, 22, 22), (150, 140, 130)])))
    put([(-0.12, shoulder + 0.2), (0.12, shoulder + 0.2), (0.1, shoulder + 0.36), (-0.1, shoulder + 0.36)], hair)
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
    sense = 1.0 if velocity[0] >= 0 else -1.0
    along = (sense * exact(math.cos(turn)), 0.0, exact(math.sin(turn)))
    body = mesh.group((x, 0, z), STREET, velocity)
    thing = ID[kind]
    paint, dark = (
        mesh.paint(bright(rng), GLASS),
        mesh.paint((34, 34, 36), (150, 150, 146) if not motor else (120, 120, 122)),
    )

    def put(shape, colour, texture="plain", train_id=thing, origin=(x, 0.0, z), tile=(0.5, 0.5)):
        body.add(shape, origin, along, UPWARDS, colour, texture, train_id, tile)

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
            put(_bar(start, end, 0.05), paint)
        put(_bar((-0.12, 0.8), (0.44, 0.84), 0.06), paint)
        put(_bar((-0.05, 0.3), (-0.18, 0.92), 0.05), paint)
        put(_bar((0.56, 0.37), (0.42, 1.0), 0.05), paint)
        put(_bar((0.34, 1.02), (0.52, 1.0), 0.06), dark)
        put(_bar((-0.3, 0.94), (-0.06, 0.92), 0.08), dark)
    if ridden:
        _rider(mesh, rng, put, motor)
    shadow(mesh, x - 0.7, x + 0.7, z - 0.2, z + 0.2, velocity)


def _bar(start: tuple[float, float], end: tuple[float, float], width: float) -> list[tuple[float, float]]:
    (x0, y0), (x1, y1) = start, end
    length = exact(math.sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2))
    dx, dy = -(y1 - y0) / length * width / 2, (x1 - x0) / length * width / 2
    return [(x0 - dx, y0 - dy), (x1 - dx, y1 - dy), (x1 + dx, y1 + dy), (x0 + dx, y0 + dy)]


def _rider(mesh: Mesh, rng: np.random.RandomState, put, motor: bool) -> None:
    rider = ID["rider"]
    coat, trousers = mesh.paint(bright(rng), bright(rng)), mesh.paint(bright(rng))
    hip = (-0.25, 0.92) if motor else (-0.2, 1.0)
    neck = (hip[0] + (0.22 if motor else 0.3), hip[1] + 0.58)
    knee = (hip[0] + 0.38, hip[1] - 0.12 if motor else hip[1] - 0.22)
    put(_bar(hip, knee, 0.2), trousers, "cloth", rider)
    put(_bar(knee, (knee[0] - 0.2, 0.3), 0.15), trousers, "cloth", rider)
    put(_bar((hip[0] - 0.04, hip[1] - 0.08), neck, 0.4), coat, "cloth", rider)
    put(_bar((neck[0], neck[1] - 0.1), (0.45, 1.05), 0.13), coat, "cloth", rider)
    head = (neck[0] + 0.08, neck[1] + 0.17)
    put(disc(*head, 0.15, 10), mesh.paint(pick(rng, _SKINS)), "plain", rider)
    helmet = mesh.paint(bright(rng))
    x, y, reach = *head, 0.19 if motor else 0.16
    put([(x - reach, y - reach / 3), (x + reach, y), (x, y + reach + 0.03)], helmet, "plain", rider)
    put(disc(head[0] - 0.02, head[1] + 0.06, 0.15, 8), helmet, "plain", rider)


def shadow(mesh: Mesh, left: float, right: float, near: float, far: float, velocity: Point) -> None:
    """A dark patch of the ground; its class is that of the strip it lies on."""
    middle = (left + right) / 2
    train_id, paint, texture = mesh.ground_at(middle)
    patch = mesh.group((middle, 0, near), DECAL, velocity)
    patch.add(rectangle(left, near, right, far), (0, 0.0, 0), ALONG_X, ALONG_Z, paint, texture, train_id, (2.0, 2.0))


def car(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point, rear: bool) -> None:
    """A car; rear: whether its rear or its front is the near end."""
    tall = uniform(rng, 0.0, 0.35)
    length, wide, roof = uniform(rng, 3.7, 4.7), 0.88, 1.42 + tall
    colour = bright(rng)
    body, glass = mesh.paint(colour, GLASS), mesh.paint(GLASS, (120, 130, 138))
    dim, dark = mesh.paint(colour, GLASS, 0.72), mesh.paint((24, 24, 26), (120, 122, 126))
    tail = pick(rng, [0.15, 0.55, 0.9])
    belt = 0.92 + tall / 3
    outline = [(0.0, 0.3), (length, 0.3), (length, 0.72), (length - 1.1, belt), (length - 1.9, roof)]
    outline += [(tail + 0.25, roof), (tail, belt), (0.05, belt - 0.02)]
    panes = [
        (length - 1.3, belt + 0.02),
        (length - 1.95, roof - 0.1),
        (tail + 0.4, roof - 0.1),
        (tail + 0.2, belt + 0.02),
    ]
    if not rear:
        outline, panes = ([(length - s, y) for s, y in points] for points in (outline, panes))
    thing = ID["car"]
    group = mesh.group((x, 0, z + 1.0), STREET, velocity)

    def put(shape, origin, along, up, paint, texture="plain", normal=STILL, tile=(2.5, 2.5)):
        group.add(shape, origin, along, up, paint, texture, thing, tile, normal)

    for side, normal in ((-wide, _LEFT), (wide, _RIGHT)):
        origin = (x + side, 0.0, z)
        put(outline, origin, ALONG_Z, UPWARDS, dim, normal=normal)
        put(panes, origin, ALONG_Z, UPWARDS, glass, "glass", normal)
        pillar = length * 0.48
        put(rectangle(pillar, belt, pillar + 0.09, roof - 0.08), origin, ALONG_Z, UPWARDS, dim, normal=normal)
        for axle in (0.8, length - 0.85):
            hub = (x + side, 0.0, z + axle - 0.33)
            put(disc(0.33, 0.33, 0.33), hub, ALONG_Z, UPWARDS, dark, "hub", normal, (0.66, 0.66))
    near = (x, 0.0, z)
    # The sloped parts between bumper and roof as seen from the near end: (distance, height) pairs of their lower and
    # upper edges.
    slopes = [((0.02, belt), (tail, belt)), ((tail, belt), (tail + 0.25, roof))]
    if not rear:
        slopes = [((0.0, 0.72), (1.1, belt)), ((1.1, belt), (1.9, roof))]
    put(rectangle(-wide, 0.3, wide, belt if rear else 0.74), near, ALONG_X, UPWARDS, body, "plain", _TOWARDS)
    for part, ((s0, y0), (s1, y1)) in enumerate(slopes):
        reach = exact(math.sqrt((s1 - s0) ** 2 + (y1 - y0) ** 2))
        up = (0.0, (y1 - y0) / reach, (s1 - s0) / reach)
        put(rectangle(-wide, 0, wide, reach), (x, y0, z + s0), ALONG_X, up, body)
        if part == 1:
            inset = [(-wide * 0.9, 0.05), (wide * 0.9, 0.05), (wide * 0.78, reach * 0.86), (-wide * 0.78, reach * 0.86)]
            put(inset, (x, y0, z + s0), ALONG_X, up, glass, "glass")
    lamp = mesh.paint((186, 26, 24)) if rear else mesh.paint((230, 228, 214))
    high = belt - 0.3 if rear else 0.52
    for left in (-wide, wide - 0.32):
        put(rectangle(left, high, left + 0.32, high + 0.2), near, ALONG_X, UPWARDS, lamp, "plain", _TOWARDS)
    put(rectangle(-wide, 0.28, wide, 0.44), near, ALONG_X, UPWARDS, dark, "plain", _TOWARDS)
    put(rectangle(-0.26, 0.46, 0.26, 0.58), near, ALONG_X, UPWARDS, mesh.paint((216, 216, 206)), "plain", _TOWARDS)
    for left in (-wide, wide - 0.22):
        put(rectangle(left, 0.0, left + 0.22, 0.3), near, ALONG_X, UPWARDS, dark, "plain", _TOWARDS)
    shadow(mesh, x - wide - 0.15, x + wide + 0.15, z - 0.2, z + length + 0.2, velocity)


def truck(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point, rear: bool) -> None:
    """A lorry with a box; its cab is the far end if ``rear``."""
    colour, cab = bright(rng), bright(rng)
    length, high = uniform(rng, 5.0, 7.5), uniform(rng, 3.0, 3.7)
    paint, other = mesh.paint(colour, bright(rng)), mesh.paint(colour, bright(rng), 0.75)
    box = (z, z + length) if rear else (z + 2.2, z + 2.2 + length)
    front = z + length + 0.1 if rear else z
    _box_side(mesh, "truck", x, 1.2, *box, 0.85, high, other, "ridges", velocity, (2.6, 2.6), [1.2, length - 1.0])
    cab_paint = mesh.paint(cab, GLASS, 0.75)
    _box_side(mesh, "truck", x, 1.15, front, front + 2.0, 0.45, 2.6, cab_paint, "plain", velocity, (2.0, 2.0), [1.0])
    face = mesh.group((x, 0, z - 0.4), STREET, velocity)
    thing = ID["truck"]

    def put(shape, paint_, texture="plain", at=z, tile=(2.4, 2.8)):
        face.add(
            shape,
            (x - 1.2, 0.85 if at != front or rear else 0.0, at),
            ALONG_X,
            UPWARDS,
            paint_,
            texture,
            thing,
            tile,
            _TOWARDS,
        )

    dark, lamp = mesh.paint((26, 26, 28)), mesh.paint((180, 28, 24) if rear else (230, 226, 210))
    put(rectangle(0, 0, 2.4, high - 0.85), paint, "ridges", box[0])
    if rear:
        put(rectangle(0, -0.35, 2.4, 0.0), dark)
        put(rectangle(1.17, 0.05, 1.23, high - 0.9), dark)
        for left in (0.05, 2.0):
            put(rectangle(left, -0.3, left + 0.35, -0.08), lamp)
            put(rectangle(left, -0.85, left + 0.35, -0.3), dark)
    else:
        put(rectangle(0.05, 0.4, 2.35, 2.6), mesh.paint(cab, GLASS))
        put(rectangle(0.2, 1.5, 2.2, 2.4), mesh.paint(GLASS, (120, 130, 138)), "glass")
        put(rectangle(0.5, 0.6, 1.9, 1.1), dark)
        for left in (0.1, 1.95):
            put(rectangle(left, 0.5, left + 0.35, 0.75), lamp)
            put(rectangle(left, 0.0, left + 0.35, 0.4), dark)
    shadow(mesh, x - 1.4, x + 1.4, z - 0.2, z + length + 2.2, velocity)


def bus(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point, rear: bool) -> None:
    """A town bus."""
    colour, length, high = bright(rng), uniform(rng, 9, 12), 3.0
    _box_side(mesh, "bus", x, 1.25, z, z + length, 0.3, high, mesh.paint(colour, GLASS, 0.78), "coach", velocity,
              (3.2, high - 0.1), [2.2, length - 2.6])  # fmt: skip
    paint, glass = mesh.paint(colour, GLASS), mesh.paint(GLASS, (130, 140, 146))
    put = _face(mesh, "bus", x, z, velocity)
    put(rectangle(0, 0.3, 2.5, high), paint)
    put(rectangle(0.15, 1.5 if rear else 1.0, 2.35, 2.45), glass, "glass")
    put(rectangle(0.5, 2.55, 2.0, 2.85), mesh.paint((30, 30, 30), (230, 170, 60)), "stripes", (0.4, 0.5))
    _lamps(mesh, put, 2.5, 0.55 if not rear else 0.8, rear)
    shadow(mesh, x - 1.4, x + 1.4, z - 0.2, z + length + 0.2, velocity)


def tram(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point, rear: bool) -> None:
    """A tram: longer, higher and narrower of face than a bus, without visible wheels, a current collector on top."""
    colour, length, high = bright(rng), uniform(rng, 16, 24), 3.5
    _box_side(mesh, "train", x, 1.2, z, z + length, 0.2, high, mesh.paint(colour, GLASS, 0.8), "tram", velocity,
              (4.0, high), [])  # fmt: skip
    paint, glass = mesh.paint(colour, GLASS), mesh.paint(GLASS, (130, 140, 146))
    put = _face(mesh, "train", x, z, velocity)
    put([(0.0, 0.2), (2.4, 0.2), (2.4, 2.7), (2.0, high), (0.4, high), (0.0, 2.7)], paint)
    put([(0.2, 1.3), (2.2, 1.3), (2.2, 2.5), (1.9, 2.9), (0.5, 2.9), (0.2, 2.5)], glass, "glass")
    put(rectangle(0.7, 3.0, 1.7, 3.3), mesh.paint((30, 30, 30), (230, 170, 60)), "stripes", (0.4, 0.5))
    put(rectangle(0.0, 0.2, 2.4, 0.5), mesh.paint((40, 40, 42)))
    put([(a, high + b) for a, b in _PANTOGRAPH], mesh.paint((50, 50, 52)))
    _lamps(mesh, put, 2.4, 0.75, rear)
    shadow(mesh, x - 1.3, x + 1.3, z - 0.2, z + length + 0.2, velocity)


def _face(mesh: Mesh, kind: str, x: float, z: float, velocity: Point):
    group = mesh.group((x, 0, z - 0.5), STREET, velocity)
    half = 1.25 if kind == "bus" else 1.2

    def put(shape, paint, texture="plain", tile=(2.5, 2.5)):
        group.add(shape, (x - half, 0.0, z), ALONG_X, UPWARDS, paint, texture, ID[kind], tile, _TOWARDS)

    return put


def _lamps(mesh: Mesh, put, wide: float, high: float, rear: bool) -> None:
    lamp, dark = mesh.paint((186, 28, 24) if rear else (232, 228, 212)), mesh.paint((24, 24, 26))
    for left in (0.08, wide - 0.43):
        put(rectangle(left, high, left + 0.35, high + 0.25), lamp)
        put(rectangle(left, 0.0, left + 0.35, 0.3), dark)


def _box_side(
    mesh: Mesh, kind: str, x: float, half: float, near: float, far: float, low: float, high: float,
    paint: int, texture: str, velocity: Point, tile: tuple[float, float], axles: list[float],
) -> None:  # fmt: skip
    """Both sides of a long vehicle, in slices that are short enough to be ordered by their middles."""
    dark = mesh.paint((24, 24, 26), (120, 122, 126))
    slices = max(1, math.ceil((far - near) / 2.5))
    step = (far - near) / slices
    for side, normal in ((-half, _LEFT), (half, _RIGHT)):
        origin = (x + side, low, near)
        for part in range(slices):
            middle = near + (part + 0.5) * step
            group = mesh.group((x + side, 0, middle), STREET, velocity)
            edge = rectangle(part * step, 0, (part + 1) * step, high - low)
            group.add(edge, origin, ALONG_Z, UPWARDS, paint, texture, ID[kind], tile, normal)
            for axle in (a for a in axles if part * step <= a < (part + 1) * step):
                hub = (x + side, 0.0, near + axle - 0.48)
                group.add(disc(0.48, 0.48, 0.48), hub, ALONG_Z, UPWARDS, dark, "hub", ID[kind], (0.96, 0.96), normal)


def pole(group: Group, x: float, z: float, high: float, width: float, paint: int) -> None:
    """An upright pole."""
    shape = rectangle(-width / 2, 0, width / 2, high)
    group.add(shape, (x, 0.0, z), ALONG_X, UPWARDS, paint, "plain", ID["pole"], (0.5, 3.0))


def street_lamp(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, inwards: float) -> None:
    """A lamp post with an arm over the road; inwards: +1 if the road is to its right."""
    paint = mesh.paint(jitter(rng, pick(rng, [(92, 94, 96), (60, 66, 62), (150, 150, 146)])))
    group, high = mesh.group((x, 0, z), STREET), uniform(rng, 5.5, 8.0)
    pole(group, x, z, high, uniform(rng, 0.14, 0.24), paint)
    arm = inwards * uniform(rng, 1.0, 2.2)
    group.add(_bar((0, high), (arm, high + 0.3), 0.12), (x, 0.0, z), ALONG_X, UPWARDS, paint, "plain", ID["pole"])
    head = [(arm - 0.35, high + 0.2), (arm + 0.35, high + 0.2), (arm + 0.25, high + 0.4), (arm - 0.25, high + 0.4)]
    group.add(head, (x, 0.0, z), ALONG_X, UPWARDS, paint, "plain", ID["pole"])


def traffic_light(mesh: Mesh, rng: np.random.RandomState, x: float, z: float) -> None:
    """A traffic light on its pole, sometimes with a second head above."""
    group = mesh.group((x, 0, z), STREET)
    pole(group, x, z, 3.6, 0.17, mesh.paint(jitter(rng, (90, 92, 94))))
    lit = rng.randint(3)
    for bottom in (2.5, 3.8) if rng.randint(2) else (2.5,):
        origin = (x, bottom, z)

        def put(shape, paint, origin=origin):
            group.add(shape, origin, ALONG_X, UPWARDS, paint, "plain", ID["traffic light"])

        put(rectangle(-0.24, 0, 0.24, 1.15), mesh.paint(jitter(rng, (30, 32, 30), 8)))
        for lamp, colour in enumerate([(40, 220, 130), (250, 190, 40), (240, 50, 40)]):
            shown = colour if lamp == lit else tuple(c // 4 for c in colour)
            put(disc(0, 0.22 + 0.36 * lamp, 0.15, 10), mesh.paint(shown))


def traffic_sign(mesh: Mesh, rng: np.random.RandomState, x: float, z: float) -> None:
    """One or two signs on a pole."""
    group = mesh.group((x, 0, z), STREET)
    low = uniform(rng, 1.9, 2.4)
    pole(group, x, z, low + 0.9, 0.12, mesh.paint(jitter(rng, (130, 132, 132))))
    for level in range(1 + int(rng.randint(2))):
        half = uniform(rng, 0.36, 0.46)
        bottom = low + level * 0.95
        kind = rng.randint(4)
        shape, texture, first, second = [
            (disc(half, half, half, 16), "sign_ring", (226, 224, 220), (190, 30, 32)),
            (disc(half, half, half, 16), "sign_bar", (226, 224, 220), (184, 28, 32)),
            ([(0, 0), (2 * half, 0), (half, 1.8 * half)], "sign_bar", (40, 40, 40), (206, 40, 38)),
            (rectangle(0, 0, 2 * half, 2 * half), "sign_arrow", (226, 226, 222), (30, 70, 150)),
        ][kind]
        paint = mesh.paint(jitter(rng, first, 8), jitter(rng, second, 8))
        tile = (2 * half, 2 * half)
        group.add(shape, (x - half, bottom, z), ALONG_X, UPWARDS, paint, texture, ID["traffic sign"], tile)


def tree(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, layer: int, high: float) -> None:
    """A tree: trunk and crown are both vegetation, as in Cityscapes."""
    group, plant = mesh.group((x, 0, z), layer), ID["vegetation"]
    bark = mesh.paint(jitter(rng, (84, 68, 52)), (50, 44, 38))
    trunk = high * uniform(rng, 0.3, 0.45)
    group.add([(-0.16, 0), (0.16, 0), (0.1, trunk + 0.8), (-0.1, trunk + 0.8)], (x, 0.0, z), ALONG_X, UPWARDS, bark,
              "planks", plant, (0.6, 2.0))  # fmt: skip
    leaf = green(rng)
    crown = (high - trunk) / 2
    for blob in range(5):
        dx, dy = ((0, 0.2), (-0.6, -0.2), (0.6, -0.25), (-0.25, 0.55), (0.35, 0.35))[blob]
        size = crown * uniform(rng, 0.6, 0.85)
        paint = mesh.paint(leaf, green(rng), uniform(rng, 0.75, 1.05))
        bush(group, rng, x + dx * crown, trunk + crown + dy * crown, z, size, paint)


def bush(group: Group, rng: np.random.RandomState, x: float, y: float, z: float, size: float, paint: int) -> None:
    """One clump of leaves with a ragged outline."""
    shape = [(a * s, b * s) for (a, b), s in zip(disc(0, 0, size, 14), 0.75 + 0.5 * rng.random_sample(14), strict=True)]
    group.add(shape, (x, y, z), ALONG_X, UPWARDS, paint, "foliage", ID["vegetation"], (3.0, 3.0))
