"""Cars, trucks, buses and trams: boxes whose visible faces are drawn in perspective.

``x``: the middle across the street; ``z``: the near end; ``velocity``: meters a frame; ``rear``: whether the near end
is the rear or the front.
"""

import math
from typing import Protocol

import numpy as np

from .camera import exact
from .mesh import ALONG_X, ALONG_Z, STREET, UPWARDS, Mesh, Outline, Point
from .parts import GLASS, ID, LEFT, RIGHT, STILL, TOWARDS, bright, disc, pick, rectangle, shadow, uniform

_PANTOGRAPH = [(1.1, 0.0), (1.3, 0.0), (1.7, 0.7), (0.7, 0.7), (0.7, 0.6), (1.5, 0.6)]


def car(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point, rear: bool) -> None:
    """A car; rear: whether its rear or its front is the near end."""
    tall = uniform(rng, 0.0, 0.35)
    length, wide, roof = uniform(rng, 3.7, 4.7), 0.88, 1.42 + tall
    color = bright(rng)
    body, glass = mesh.paint(color, GLASS), mesh.paint(GLASS, (120, 130, 138))
    dim, dark = mesh.paint(color, GLASS, 0.72), mesh.paint((24, 24, 26), (120, 122, 126))
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

    def put(
        shape: Outline,
        origin: Point,
        along: Point,
        up: Point,
        paint: int,
        texture: str = "plain",
        normal: Point = STILL,
        tile: tuple[float, float] = (2.5, 2.5),
    ) -> None:
        group.add(shape, origin, along, up, paint, texture, thing, tile, normal)

    for side, normal in ((-wide, LEFT), (wide, RIGHT)):
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
    put(rectangle(-wide, 0.3, wide, belt if rear else 0.74), near, ALONG_X, UPWARDS, body, "plain", TOWARDS)
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
        put(rectangle(left, high, left + 0.32, high + 0.2), near, ALONG_X, UPWARDS, lamp, "plain", TOWARDS)
    put(rectangle(-wide, 0.28, wide, 0.44), near, ALONG_X, UPWARDS, dark, "plain", TOWARDS)
    put(rectangle(-0.26, 0.46, 0.26, 0.58), near, ALONG_X, UPWARDS, mesh.paint((216, 216, 206)), "plain", TOWARDS)
    for left in (-wide, wide - 0.22):
        put(rectangle(left, 0.0, left + 0.22, 0.3), near, ALONG_X, UPWARDS, dark, "plain", TOWARDS)
    shadow(mesh, x - wide - 0.15, x + wide + 0.15, z - 0.2, z + length + 0.2, velocity)


def truck(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point, rear: bool) -> None:
    """A truck with a box; its cab is the far end if ``rear``."""
    color, cab = bright(rng), bright(rng)
    length, high = uniform(rng, 5.0, 7.5), uniform(rng, 3.0, 3.7)
    paint, other = mesh.paint(color, bright(rng)), mesh.paint(color, bright(rng), 0.75)
    box = (z, z + length) if rear else (z + 2.2, z + 2.2 + length)
    front = z + length + 0.1 if rear else z
    _box_side(mesh, "truck", x, 1.2, *box, 0.85, high, other, "ridges", velocity, (2.6, 2.6), [1.2, length - 1.0])
    cab_paint = mesh.paint(cab, GLASS, 0.75)
    _box_side(mesh, "truck", x, 1.15, front, front + 2.0, 0.45, 2.6, cab_paint, "plain", velocity, (2.0, 2.0), [1.0])
    doors = mesh.group((x, 0, z - 0.4), STREET, velocity)
    shape, corner = rectangle(0, 0, 2.4, high - 0.85), (x - 1.2, 0.85, box[0])
    doors.add(shape, corner, ALONG_X, UPWARDS, paint, "ridges", ID["truck"], (2.4, 2.8), TOWARDS)
    put, dark = _face(mesh, "truck", x, z, velocity), mesh.paint((26, 26, 28))
    if rear:
        put(rectangle(0, 0.3, 2.4, 0.85), dark)
        put(rectangle(1.17, 0.9, 1.23, high - 0.05), dark)
    else:
        put(rectangle(0.05, 0.4, 2.35, 2.6), mesh.paint(cab, GLASS))
        put(rectangle(0.2, 1.5, 2.2, 2.4), mesh.paint(GLASS, (120, 130, 138)), "glass")
        put(rectangle(0.5, 0.6, 1.9, 1.1), dark)
    _lamps(mesh, put, 2.4, 0.52, rear)
    shadow(mesh, x - 1.4, x + 1.4, z - 0.2, z + length + 2.2, velocity)


def bus(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point, rear: bool) -> None:
    """A town bus."""
    color, length, high = bright(rng), uniform(rng, 9, 12), 3.0
    _box_side(mesh, "bus", x, 1.25, z, z + length, 0.3, high, mesh.paint(color, GLASS, 0.78), "coach", velocity,
              (3.2, high - 0.1), [2.2, length - 2.6])  # fmt: skip
    paint, glass = mesh.paint(color, GLASS), mesh.paint(GLASS, (130, 140, 146))
    put = _face(mesh, "bus", x, z, velocity)
    put(rectangle(0, 0.3, 2.5, high), paint)
    put(rectangle(0.15, 1.5 if rear else 1.0, 2.35, 2.45), glass, "glass")
    put(rectangle(0.5, 2.55, 2.0, 2.85), mesh.paint((30, 30, 30), (230, 170, 60)), "stripes", (0.4, 0.5))
    _lamps(mesh, put, 2.5, 0.55 if not rear else 0.8, rear)
    shadow(mesh, x - 1.4, x + 1.4, z - 0.2, z + length + 0.2, velocity)


def tram(mesh: Mesh, rng: np.random.RandomState, x: float, z: float, velocity: Point, rear: bool) -> None:
    """A tram: longer, higher and narrower of face than a bus, without visible wheels, a current collector on top."""
    color, length, high = bright(rng), uniform(rng, 16, 24), 3.5
    _box_side(mesh, "train", x, 1.2, z, z + length, 0.2, high, mesh.paint(color, GLASS, 0.8), "tram", velocity,
              (4.0, high), [])  # fmt: skip
    paint, glass = mesh.paint(color, GLASS), mesh.paint(GLASS, (130, 140, 146))
    put = _face(mesh, "train", x, z, velocity)
    put([(0.0, 0.2), (2.4, 0.2), (2.4, 2.7), (2.0, high), (0.4, high), (0.0, 2.7)], paint)
    put([(0.2, 1.3), (2.2, 1.3), (2.2, 2.5), (1.9, 2.9), (0.5, 2.9), (0.2, 2.5)], glass, "glass")
    put(rectangle(0.7, 3.0, 1.7, 3.3), mesh.paint((30, 30, 30), (230, 170, 60)), "stripes", (0.4, 0.5))
    put(rectangle(0.0, 0.2, 2.4, 0.5), mesh.paint((40, 40, 42)))
    put([(a, high + b) for a, b in _PANTOGRAPH], mesh.paint((50, 50, 52)))
    _lamps(mesh, put, 2.4, 0.75, rear)
    shadow(mesh, x - 1.3, x + 1.3, z - 0.2, z + length + 0.2, velocity)


class _Put(Protocol):
    """Adds a polygon to the near end of a vehicle."""

    def __call__(
        self, shape: Outline, paint: int, texture: str = "plain", tile: tuple[float, float] = (2.5, 2.5)
    ) -> None: ...


def _face(mesh: Mesh, kind: str, x: float, z: float, velocity: Point) -> _Put:
    group = mesh.group((x, 0, z - 0.5), STREET, velocity)
    half = 1.25 if kind == "bus" else 1.2

    def put(shape: Outline, paint: int, texture: str = "plain", tile: tuple[float, float] = (2.5, 2.5)) -> None:
        group.add(shape, (x - half, 0.0, z), ALONG_X, UPWARDS, paint, texture, ID[kind], tile, TOWARDS)

    return put


def _lamps(mesh: Mesh, put: _Put, wide: float, high: float, rear: bool) -> None:
    lamp, dark = mesh.paint((186, 28, 24) if rear else (232, 228, 212)), mesh.paint((24, 24, 26))
    for left in (0.08, wide - 0.43):
        put(rectangle(left, high, left + 0.35, high + 0.25), lamp)
        put(rectangle(left, 0.0, left + 0.35, 0.3), dark)


def _box_side(
    mesh: Mesh, kind: str, x: float, half: float, near: float, far: float, low: float, high: float,
    paint: int, texture: str, velocity: Point, tile: tuple[float, float], axles: list[float],
) -> None:  # fmt: skip
    """Both sides of a long vehicle, in slices short enough to be ordered by their middles."""
    dark = mesh.paint((24, 24, 26), (120, 122, 126))
    slices = max(1, math.ceil((far - near) / 2.5))
    step = (far - near) / slices
    for side, normal in ((-half, LEFT), (half, RIGHT)):
        origin = (x + side, low, near)
        for part in range(slices):
            middle = near + (part + 0.5) * step
            group = mesh.group((x + side, 0, middle), STREET, velocity)
            edge = rectangle(part * step, 0, (part + 1) * step, high - low)
            group.add(edge, origin, ALONG_Z, UPWARDS, paint, texture, ID[kind], tile, normal)
            for axle in (a for a in axles if part * step <= a < (part + 1) * step):
                hub = (x + side, 0.0, near + axle - 0.48)
                group.add(disc(0.48, 0.48, 0.48), hub, ALONG_Z, UPWARDS, dark, "hub", ID[kind], (0.96, 0.96), normal)
