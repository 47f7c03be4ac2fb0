"""Objects along the street: lamps, lights, signs, trees. ``x``, ``z``: the foot."""

import numpy as np

from .mesh import ALONG_X, STREET, UPWARDS, Group, Mesh, Outline, Point
from .parts import ID, bar, disc, green, jitter, pick, rectangle, uniform


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
    group.add(bar((0, high), (arm, high + 0.3), 0.12), (x, 0.0, z), ALONG_X, UPWARDS, paint, "plain", ID["pole"])
    head = [(arm - 0.35, high + 0.2), (arm + 0.35, high + 0.2), (arm + 0.25, high + 0.4), (arm - 0.25, high + 0.4)]
    group.add(head, (x, 0.0, z), ALONG_X, UPWARDS, paint, "plain", ID["pole"])


def traffic_light(mesh: Mesh, rng: np.random.RandomState, x: float, z: float) -> None:
    """A traffic light on its pole, sometimes with a second head above."""
    group = mesh.group((x, 0, z), STREET)
    pole(group, x, z, 3.6, 0.17, mesh.paint(jitter(rng, (90, 92, 94))))
    lit = rng.randint(3)
    for bottom in (2.5, 3.8) if rng.randint(2) else (2.5,):
        here = (x, bottom, z)

        def put(shape: Outline, paint: int, origin: Point = here) -> None:
            group.add(shape, origin, ALONG_X, UPWARDS, paint, "plain", ID["traffic light"])

        put(rectangle(-0.24, 0, 0.24, 1.15), mesh.paint(jitter(rng, (30, 32, 30), 8)))
        for lamp, color in enumerate([(40, 220, 130), (250, 190, 40), (240, 50, 40)]):
            red, green, blue = color
            shown = color if lamp == lit else (red // 4, green // 4, blue // 4)
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
