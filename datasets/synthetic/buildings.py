"""Both sides of the street: houses, and plots with walls, fences and trees; the skyline at its end."""

import numpy as np

from .furniture import bush, tree
from .ground import NEAR, Plan
from .mesh import ALONG_X, ALONG_Z, BACKGROUND, FRONT, UPWARDS, Mesh
from .parts import GLASS, ID, LEFT, RIGHT, TOWARDS, bright, dull, green, jitter, pick, rectangle, uniform

_FACADES = ["facade_a", "facade_b", "facade_c", "facade_d", "facade_e"]


def built_side(mesh: Mesh, rng: np.random.RandomState, plan: Plan, side: int, far: float) -> None:
    """Plots along one side of the street, from near to far."""
    line = plan.built_left if side < 0 else plan.built_right
    kinds = ["wall", "fence", "wall", "house", "house", "park"]
    rng.shuffle(kinds)
    z = NEAR - uniform(rng, 0, 4)
    number = 0
    while z < far:
        kind = kinds[number] if number < len(kinds) else pick(rng, ["house"] * 3 + ["wall", "fence", "park"])
        length = uniform(rng, 9, 18) if kind == "house" else uniform(rng, 7, 13)
        if kind == "house":
            _house(mesh, rng, side, line, z, length, uniform(rng, 7, 17))
        else:
            _open_plot(mesh, rng, side, line, z, length, kind)
        z += length
        number += 1


def _house(
    mesh: Mesh, rng: np.random.RandomState, side: int, line: float, z: float, length: float, high: float
) -> None:
    wall, glass = dull(rng), jitter(rng, GLASS, 20)
    sunny = uniform(rng, 0.7, 1.05)
    face, end = mesh.paint(wall, glass, sunny), mesh.paint(wall, glass, uniform(rng, 0.6, 1.0))
    texture, building = pick(rng, _FACADES), ID["building"]
    normal = RIGHT if side < 0 else LEFT
    tile = (uniform(rng, 5, 7), 6.2)
    shop = rng.randint(2)
    bottom = 3.2 if shop else 0.0
    shop_paint = mesh.paint(bright(rng), glass, sunny)
    slices = int(length // 4) + 1
    step = length / slices
    for part in range(slices):
        group = mesh.group((line, 0, z + (part + 0.5) * step), BACKGROUND)
        piece = (part * step, (part + 1) * step)
        edge = rectangle(piece[0], bottom, piece[1], high)
        group.add(edge, (line, 0.0, z), ALONG_Z, UPWARDS, face, texture, building, tile, normal)
        if shop:
            edge = rectangle(piece[0], 0, piece[1], bottom)
            group.add(edge, (line, 0.0, z), ALONG_Z, UPWARDS, shop_paint, "shop", building, (4.0, 3.2), normal)
    depth = mesh.group((line + side * 6, 0, z), BACKGROUND)
    shape = rectangle(0, 0, 12, high)
    blind = "brick" if texture in ("facade_b", "facade_e") else "concrete"
    origin = (line if side > 0 else line - 12, 0.0, z)
    blind_tile = (2.0, 2.0) if blind == "brick" else (6.0, 6.0)
    depth.add(shape, origin, ALONG_X, UPWARDS, end, blind, building, blind_tile, TOWARDS)
    if rng.randint(2):
        gable = [(0, high), (12, high), (6, high + uniform(rng, 2, 4))]
        roof = mesh.paint(jitter(rng, (120, 74, 60)), None, 0.9)
        depth.add(gable, origin, ALONG_X, UPWARDS, roof, "planks", building, (2, 2), TOWARDS)


def _open_plot(
    mesh: Mesh, rng: np.random.RandomState, side: int, line: float, z: float, length: float, kind: str
) -> None:
    """A garden or yard behind a wall or fence, or an open park; trees in it, often a house at its back."""
    if rng.randint(3):
        back = line + side * uniform(rng, 9, 14)
        _house(mesh, rng, side, back, z - 3, length + 6, uniform(rng, 5, 11))
    for _ in range(3 if kind == "park" else 2):
        x = line + side * uniform(rng, 1.5, 6)
        tree(mesh, rng, x, z + uniform(rng, 0, length), BACKGROUND, uniform(rng, 4, 9))
    slices = int(length // 3) + 1
    step = length / slices
    if kind == "park":
        hedge = mesh.paint(green(rng), green(rng))
        for part in range(slices * 2):
            at = z + (part + 0.5) * step / 2
            group = mesh.group((line + side, 0, at), BACKGROUND)
            bush(group, rng, line + side * uniform(rng, 0.6, 2.0), 0.5, at, uniform(rng, 0.7, 1.1), hedge)
        return
    high = uniform(rng, 1.3, 2.8)
    if kind == "wall":
        name, texture, tile = "wall", pick(rng, ["brick", "concrete", "concrete", "planks"]), (2.2, 2.2)
        paint = mesh.paint(dull(rng), dull(rng), uniform(rng, 0.75, 1.0))
    else:
        name, texture, tile = "fence", pick(rng, ["bars", "bars", "mesh", "planks"]), (1.6, high)
        paint = mesh.paint(pick(rng, [bright(rng), dull(rng)]), green(rng), uniform(rng, 0.8, 1.0))
    for part in range(slices):
        group = mesh.group((line, 0, z + (part + 0.5) * step), FRONT)
        edge = rectangle(part * step, 0, (part + 1) * step, high)
        group.add(edge, (line, 0.0, z), ALONG_Z, UPWARDS, paint, texture, ID[name], tile)
    near = mesh.group((line + side * 2, 0, z), FRONT)
    corner = (line if side > 0 else line - 5, 0.0, z)
    near.add(rectangle(0, 0, 5, high), corner, ALONG_X, UPWARDS, paint, texture, ID[name], tile)


def skyline(mesh: Mesh, rng: np.random.RandomState, far: float) -> None:
    x = -60.0
    while x < 60:
        wide = uniform(rng, 8, 18)
        group = mesh.group((x, 0, far), BACKGROUND)
        paint = mesh.paint(dull(rng), jitter(rng, GLASS, 20), 0.85)
        shape = rectangle(0, 0, wide, uniform(rng, 6, 20))
        group.add(shape, (x, 0.0, far), ALONG_X, UPWARDS, paint, pick(rng, _FACADES), ID["building"], (6.0, 6.2))
        x += wide * 0.8
