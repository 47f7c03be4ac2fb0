"""One street: its ground, its buildings, who is on it, its light, and the camera's way through it."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .camera import Camera, exact
from .mesh import ALONG_X, ALONG_Z, BACKGROUND, DECAL, FRONT, GROUND, STREET, UPWARDS, Mesh, Surfaces
from .options import StreetOptions
from .textures import material
from .things import (
    GLASS,
    ID,
    STILL,
    bright,
    bus,
    bush,
    car,
    dull,
    green,
    jitter,
    person,
    pick,
    rectangle,
    street_lamp,
    traffic_light,
    traffic_sign,
    tram,
    tree,
    truck,
    two_wheeler,
    uniform,
)

_NEAR, _FAR = -4.0, 120.0  # the street's beginning and end, metres from the camera's start
_LEFT_FACE, _RIGHT_FACE, _TOWARDS = (1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 0.0, -1.0)


@dataclass(frozen=True)
class Scene:
    """All that ``render`` needs for a clip. Motion is already multiplied by the options' speed."""

    surfaces: Surfaces
    sky: np.ndarray  # 256 x 4 uint8
    fog: np.ndarray  # 128 x 4 int32: share of 256, red, green, blue at each metre
    path: "Path"


@dataclass(frozen=True)
class Path:
    """The camera's way: it drives along z at an even pace while its yaw swings gently."""

    x: float
    eye: float  # metres above the ground
    advance: float  # metres a frame
    yaw: float
    turn: float  # radians a frame at the middle of a swing
    pitch: float

    def camera(self, options: StreetOptions, time: float) -> Camera:
        """The camera at ``time`` frames."""
        swing = exact(math.sin(0.25 * time * options.speed)) / 0.25
        position = (self.x, self.eye, self.advance * time * options.speed)
        return Camera(options.height, options.width, position, self.yaw + self.turn * swing, self.pitch)


@dataclass(frozen=True)
class _Plan:
    """Where the street's strips lie: x of the edges, from the left."""

    built_left: float
    walk_left: float
    road_left: float
    road_right: float
    walk_right: float
    built_right: float
    verge_left: float  # width of the grass between sidewalk and road
    verge_right: float
    tracks: float | None  # middle of the tram's tracks
    green_tracks: bool  # they lie in grass
    lane_left: float  # middle of the lane of those who come towards us
    lane_right: float | None  # middle of a second lane on our side


def street(options: StreetOptions, rng: np.random.RandomState) -> Scene:
    """Build a street from the numbers that ``rng`` gives."""
    mesh = Mesh()
    far = _FAR + 0.7 * options.length * min(options.speed, 3.0)
    plan = _plan(rng)
    _ground(mesh, rng, plan, far)
    for side in (-1, 1):
        _built_side(mesh, rng, plan, side, far)
    _skyline(mesh, rng, far)
    _furniture(mesh, rng, plan)
    _traffic(mesh, rng, plan, options.speed)
    _walkers(mesh, rng, plan, options.speed)
    return Scene(mesh.surfaces(), *_weather(rng), _path(rng))


def _path(rng: np.random.RandomState) -> Path:
    return Path(
        x=uniform(rng, -0.3, 0.4),
        eye=uniform(rng, 1.35, 1.75),
        advance=uniform(rng, 0.25, 0.6),
        yaw=uniform(rng, -0.06, 0.06),
        turn=uniform(rng, -0.008, 0.008),
        pitch=uniform(rng, -0.01, 0.03),
    )


def _weather(rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    blue = pick(rng, [(108, 150, 200), (150, 170, 190), (170, 176, 180), (128, 140, 156), (196, 196, 192)])
    cloud = jitter(rng, pick(rng, [(226, 228, 230), (178, 182, 186), (150, 152, 156)]))
    haze = np.array(cloud) * 9 // 10
    thick = uniform(rng, 60, 400)
    share = np.array([int(200 * (1 - thick / (thick + metre))) for metre in range(127)] + [0])
    return material(jitter(rng, blue), cloud), np.column_stack([share, np.tile(haze, (128, 1))]).astype(np.int32)


def _plan(rng: np.random.RandomState) -> _Plan:
    edge = 1.9
    lane_right = None
    if rng.randint(3) == 0:
        lane_right, edge = edge + 1.5, edge + 3.2
    road_right = edge + pick(rng, [0.3, 2.3, 2.3])
    lane_left, edge = -3.5, -5.2
    tracks = None
    if rng.randint(100) < 50:
        tracks, edge = edge - 1.5, edge - 3.2
    road_left = edge - pick(rng, [0.3, 2.3])
    verge_left, verge_right = (uniform(rng, 0.9, 2.0) if rng.randint(5) < 2 else 0.0 for _ in range(2))
    walk_left = road_left - verge_left - uniform(rng, 2.4, 4.2)
    walk_right = road_right + verge_right + uniform(rng, 2.4, 4.2)
    built_left, built_right = (
        walk + sign * (uniform(rng, 1.2, 3.2) if rng.randint(100) < 65 else 0.0)
        for walk, sign in ((walk_left, -1), (walk_right, 1))
    )
    return _Plan(
        *(built_left, walk_left, road_left, road_right, walk_right, built_right, verge_left, verge_right),
        *(tracks, rng.randint(2) == 0, lane_left, lane_right),
    )


def _ground(mesh: Mesh, rng: np.random.RandomState, plan: _Plan, far: float) -> None:
    grey = jitter(rng, pick(rng, [(96, 96, 98), (116, 112, 110), (84, 84, 90), (126, 118, 112)]), 8)
    pale = tuple(c + int(rng.randint(0, 40)) for c in grey)
    grass = green(rng) if rng.randint(3) else jitter(rng, (124, 108, 76))
    road_look = (pick(rng, ["asphalt", "asphalt", "asphalt", "cobbles"]), grey, jitter(rng, grey, 10))
    walk_look = (pick(rng, ["paving", "paving", "cobbles", "asphalt"]), pale, jitter(rng, pale, 12))
    grass_look = ("grass", grass, jitter(rng, (120, 108, 74)))
    looks = {"road": road_look, "sidewalk": walk_look, "terrain": grass_look}
    edges = [
        (plan.walk_left, "terrain"),
        (plan.road_left - plan.verge_left, "sidewalk"),
        (plan.road_left, "terrain"),
        (plan.road_right, "road"),
        (plan.road_right + plan.verge_right, "terrain"),
        (plan.walk_right, "sidewalk"),
        (60.0, "terrain"),
    ]
    if plan.tracks is not None and plan.green_tracks:
        edges[3:3] = [(plan.tracks - 1.5, "road"), (plan.tracks + 1.5, "terrain")]
    left = -60.0
    for right, name in edges:
        if right <= left:
            continue
        texture, first, second = looks[name]
        strip = mesh.group((0, 0, 0), GROUND)
        shape = rectangle(left, _NEAR, right, far)
        strip.add(shape, (0, 0.0, 0), ALONG_X, ALONG_Z, mesh.paint(first, second), texture, ID[name], (3.0, 3.0))
        mesh.strips.append((right, ID[name], mesh.paint(first, second, 0.45), texture))
        left = right
    _kerbs_and_marks(mesh, rng, plan, far, pale)
    _long_shadows(mesh, rng, plan)


def _kerbs_and_marks(mesh: Mesh, rng: np.random.RandomState, plan: _Plan, far: float, pale) -> None:
    kerb = mesh.paint(tuple(min(255, c + 26) for c in pale))
    group = mesh.group((0, 0, 0), DECAL)

    def mark(left, near, right, end, paint, name="road", texture="plain"):
        shape = rectangle(left, near, right, end)
        group.add(shape, (0, 0.0, 0), ALONG_X, ALONG_Z, paint, texture, ID[name], (1.0, 1.0))

    mark(plan.road_left - 0.2, _NEAR, plan.road_left, far, kerb, "sidewalk")
    mark(plan.road_right, _NEAR, plan.road_right + 0.2, far, kerb, "sidewalk")
    white = mesh.paint(jitter(rng, (206, 204, 196), 20))
    lines = [-1.75] + ([plan.tracks + 1.6] if plan.tracks is not None else [])
    lines += [1.8] if plan.lane_right is not None else []
    offset = uniform(rng, 0, 6)
    for line in lines:
        for step in range(int((far - _NEAR) // 6)):
            mark(line - 0.08, _NEAR + offset + 6 * step, line + 0.08, _NEAR + offset + 6 * step + 3, white)
    if plan.tracks is not None:
        bed = "terrain" if plan.green_tracks else "road"
        for rail in (-0.72, 0.72):
            mark(plan.tracks + rail - 0.08, _NEAR, plan.tracks + rail + 0.08, far, mesh.paint((66, 64, 64)), bed)
    if rng.randint(3) == 0:
        start = uniform(rng, 14, 34)
        for bar in range(int((plan.road_right - plan.road_left) // 1.0)):
            left = plan.road_left + 0.3 + bar
            if mesh.ground_at(left + 0.25)[0] == ID["road"]:
                mark(left, start, left + 0.5, start + 3.0, white)
    for _ in range(6):
        x, z = uniform(rng, -1.6, plan.road_right - 1), uniform(rng, 4, 40)
        patch = mesh.paint(jitter(rng, (92, 90, 92), 20))
        mark(x, z, x + uniform(rng, 0.5, 1.0), z + uniform(rng, 1.0, 4.0), patch, "road", "asphalt")


def _long_shadows(mesh: Mesh, rng: np.random.RandomState, plan: _Plan) -> None:
    """Shadows that buildings and trees throw across the street."""
    if rng.randint(2):
        return
    for _ in range(4):
        near, size = uniform(rng, 3, 70), uniform(rng, 2, 9)
        reach = uniform(rng, 0.3, 1.0)
        bounds = [plan.built_left, *(edge for edge, *_ in mesh.strips[:-1]), plan.built_right]
        stop = plan.built_left + reach * (plan.built_right - plan.built_left)
        for left, right in pairwise(bounds):
            if left < stop and right > left:
                train_id, paint, texture = mesh.ground_at((left + right) / 2)
                patch = mesh.group((0, 0, 1), DECAL)
                shape = rectangle(left, near, min(right, stop), near + size)
                patch.add(shape, (0, 0.0, 0), ALONG_X, ALONG_Z, paint, texture, train_id, (3.0, 3.0))


_FACADES = ["facade_a", "facade_b", "facade_c", "facade_d", "facade_e"]


def _built_side(mesh: Mesh, rng: np.random.RandomState, plan: _Plan, side: int, far: float) -> None:
    """Plots along one side of the street, from near to far."""
    line = plan.built_left if side < 0 else plan.built_right
    kinds = ["wall", "fence", "house", "house", "park"]
    rng.shuffle(kinds)
    z = _NEAR - uniform(rng, 0, 4)
    number = 0
    while z < far:
        kind = kinds[number] if number < len(kinds) else pick(rng, ["house"] * 4 + ["wall", "fence", "park"])
        length = uniform(rng, 9, 18) if kind == "house" else uniform(rng, 7, 13)
        if kind == "house":
            _house(mesh, rng, side, line, z, length, uniform(rng, 7, 17))
        else:
            _open_plot(mesh, rng, side, line, z, length, kind)
        z += length
        number += 1


def _house(mesh: Mesh, rng, side: int, line: float, z: float, length: float, high: float) -> None:
    wall, glass = dull(rng), jitter(rng, GLASS, 20)
    sunny = uniform(rng, 0.7, 1.05)
    face, end = mesh.paint(wall, glass, sunny), mesh.paint(wall, glass, uniform(rng, 0.6, 1.0))
    texture, building = pick(rng, _FACADES), ID["building"]
    normal = _LEFT_FACE if side < 0 else _RIGHT_FACE
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
    depth.add(shape, origin, ALONG_X, UPWARDS, end, blind, building, blind_tile, _TOWARDS)
    if rng.randint(2):
        gable = [(0, high), (12, high), (6, high + uniform(rng, 2, 4))]
        roof = mesh.paint(jitter(rng, (120, 74, 60)), None, 0.9)
        depth.add(gable, origin, ALONG_X, UPWARDS, roof, "planks", building, (2, 2), _TOWARDS)


def _open_plot(mesh: Mesh, rng, side: int, line: float, z: float, length: float, kind: str) -> None:
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
    high = uniform(rng, 1.1, 2.2)
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


def _skyline(mesh: Mesh, rng: np.random.RandomState, far: float) -> None:
    x = -60.0
    while x < 60:
        wide = uniform(rng, 8, 18)
        group = mesh.group((x, 0, far), BACKGROUND)
        paint = mesh.paint(dull(rng), jitter(rng, GLASS, 20), 0.85)
        shape = rectangle(0, 0, wide, uniform(rng, 6, 20))
        group.add(shape, (x, 0.0, far), ALONG_X, UPWARDS, paint, pick(rng, _FACADES), ID["building"], (6.0, 6.2))
        x += wide * 0.8


def _furniture(mesh: Mesh, rng: np.random.RandomState, plan: _Plan) -> None:
    """What stands at the kerbs: lamps, lights, signs, trees."""
    for side, kerb in ((-1, plan.road_left), (1, plan.road_right)):
        z = uniform(rng, 7, 14)
        while z < 90:
            street_lamp(mesh, rng, kerb + side * 0.5, z, -side)
            z += uniform(rng, 9, 20)
        for _ in range(3):
            traffic_sign(mesh, rng, kerb + side * uniform(rng, 0.4, 0.9), uniform(rng, 8, 32))
        crossing = uniform(rng, 10, 26)
        for near in (crossing, crossing + uniform(rng, 9, 16)):
            traffic_light(mesh, rng, kerb + side * uniform(rng, 0.3, 0.6), near)
        if rng.randint(2):
            z = uniform(rng, 8, 16)
            gap = uniform(rng, 8, 14)
            while z < 80:
                tree(mesh, rng, kerb + side * 0.9, z, STREET, uniform(rng, 4.5, 7.5))
                z += gap
        if rng.randint(3) == 0:
            _railing(mesh, rng, kerb + side * 0.35, uniform(rng, 8, 20))


def _railing(mesh: Mesh, rng: np.random.RandomState, x: float, z: float) -> None:
    """A railing between the road and the sidewalk."""
    paint, high = mesh.paint(bright(rng), dull(rng), 0.9), 1.0
    for part in range(5):
        group = mesh.group((x, 0, z + 2 * part + 1), STREET)
        edge = rectangle(2 * part, 0, 2 * part + 2, high)
        group.add(edge, (x, 0.0, z), ALONG_Z, UPWARDS, paint, "bars", ID["fence"], (2.0, high))


def _traffic(mesh: Mesh, rng: np.random.RandomState, plan: _Plan, speed: float) -> None:
    def along(metres: float):
        return (0.0, 0.0, metres * speed)

    big = [truck, bus]
    rng.shuffle(big)
    # Our own lane: one vehicle ahead that keeps about our pace.
    lead = pick(rng, [car, car, big[0], None])
    if lead is not None:
        near = uniform(rng, 11, 24)
        lead(mesh, rng, uniform(rng, -0.3, 0.3), near, along(uniform(rng, 0.25, 0.6)), True)
    # Towards us.
    z = uniform(rng, 12, 24)
    for index in range(4):
        kind = big[1] if index == 1 and rng.randint(3) else car
        kind(mesh, rng, plan.lane_left + uniform(rng, -0.3, 0.3), z, along(-uniform(rng, 0.12, 0.45)), False)
        z += uniform(rng, 9, 20) + (12 if kind is not car else 0)
    if plan.tracks is not None:
        coming = bool(rng.randint(2))
        tram(mesh, rng, plan.tracks, uniform(rng, 13, 34), along(-0.3 if coming else 0.35), not coming)
    if plan.lane_right is not None:
        z = uniform(rng, 9, 20)
        for kind in (pick(rng, [truck, bus, car]), car):
            kind(mesh, rng, plan.lane_right, z, along(uniform(rng, 0.2, 0.6)), True)
            z += uniform(rng, 16, 24)
    _parked(mesh, rng, plan)
    # Two-wheelers: between the lanes, or across the street.
    for kind in ("bicycle", "motorcycle", pick(rng, ["bicycle", "motorcycle"])):
        z = uniform(rng, 8, 22)
        if rng.randint(2):
            side = pick(rng, [-1, 1])
            two_wheeler(mesh, rng, uniform(rng, -6, 6), z, (side * 0.14 * speed, 0.0, 0.0), kind, True, 0.0)
        else:
            x = pick(rng, [1.35, -1.9, plan.road_right - 0.6, plan.road_left + 0.8])
            turn = uniform(rng, 0.6, 1.1)
            two_wheeler(mesh, rng, x, z, along(uniform(rng, 0.15, 0.4)), kind, True, turn)


def _parked(mesh: Mesh, rng: np.random.RandomState, plan: _Plan) -> None:
    for kerb, inwards, wide in (
        (plan.road_right, -1, plan.road_right - (1.9 if plan.lane_right is None else 5.1) > 2),
        (plan.road_left, 1, (-5.2 if plan.tracks is None else -8.4) - plan.road_left > 2),
    ):
        z = uniform(rng, 5, 12)
        while wide and z < 70:
            choice = rng.randint(12)
            x = kerb + inwards * 1.15
            if choice == 0:
                truck(mesh, rng, kerb + inwards * 1.3, z, STILL, bool(inwards < 0))
                z += 11
            elif choice < 3:
                for _ in range(3):
                    two_wheeler(mesh, rng, x, z, STILL, "motorcycle", False, uniform(rng, 0.0, 0.5))
                    z += 1.2
            else:
                car(mesh, rng, x, z, STILL, inwards < 0)
                z += 5.2
            z += uniform(rng, 0.6, 6)
    # Bicycles and motorcycles leaning at the houses and kerbs.
    for side, walk, kerb in ((-1, plan.walk_left, plan.road_left), (1, plan.walk_right, plan.road_right)):
        for kind in ("bicycle", pick(rng, ["bicycle", "motorcycle"])):
            z, x = uniform(rng, 8, 24), pick(rng, [walk - side * 0.5, kerb + side * 0.9])
            for _ in range(1 + rng.randint(3)):
                two_wheeler(mesh, rng, x, z, STILL, kind, False, uniform(rng, 0.0, 0.7))
                z += uniform(rng, 0.5, 0.9)


def _walkers(mesh: Mesh, rng: np.random.RandomState, plan: _Plan, speed: float) -> None:
    for walk, kerb in ((plan.walk_left, plan.road_left), (plan.walk_right, plan.road_right)):
        for _ in range(4 + rng.randint(4)):
            across = uniform(rng, 0.25, 0.85)
            x = kerb + (walk - kerb) * across
            pace = pick(rng, [-0.09, -0.07, 0.07, 0.09, 0.0]) * speed
            person(mesh, rng, x, uniform(rng, 7, 38), (0.0, 0.0, pace) if pace else STILL)
    for _ in range(rng.randint(3)):
        pace = pick(rng, [-0.08, 0.08]) * speed
        velocity = (pace, 0.0, 0.0) if pace else STILL
        person(mesh, rng, uniform(rng, plan.road_left, plan.road_right), uniform(rng, 10, 26), velocity)
