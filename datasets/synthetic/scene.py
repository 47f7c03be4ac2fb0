"""One street: its ground, buildings, traffic, people, light, and the camera's path."""

import math
from dataclasses import dataclass

import numpy as np

from .buildings import built_side, skyline
from .camera import Camera, exact
from .furniture import street_lamp, traffic_light, traffic_sign, tree
from .ground import Plan, make_plan, paved
from .mesh import ALONG_Z, STREET, UPWARDS, Mesh, Point, Surfaces
from .options import StreetOptions
from .parts import ID, STILL, bright, dull, jitter, pick, rectangle, uniform
from .people import person, two_wheeler
from .textures import material
from .vehicles import bus, car, tram, truck

_FAR = 120.0  # the street's end, meters from the camera's start
_SHORT = 20.0  # a camera that drives farther than that has more street before it
_CROSSING = 11.5  # meters: people and two-wheelers cross the street nearer than this, vehicles begin beyond it


@dataclass(frozen=True)
class Scene:
    """Inputs of ``render`` for a clip. Motion is already multiplied by the options' speed."""

    surfaces: Surfaces
    sky: np.ndarray  # 256 x 4 uint8
    fog: np.ndarray  # 128 x 4 int32: share of 256, red, green, blue at each meter
    path: "Path"


@dataclass(frozen=True)
class Path:
    """The camera's path: along z at constant speed while its yaw swings gently."""

    x: float
    eye: float  # meters above the ground
    advance: float  # meters a frame
    yaw: float
    turn: float  # radians a frame at the middle of a swing
    pitch: float

    def camera(self, options: StreetOptions, time: float) -> Camera:
        """The camera at ``time`` frames."""
        swing = exact(math.sin(0.25 * time * options.speed)) / 0.25
        position = (self.x, self.eye, self.advance * time * options.speed)
        return Camera(options.height, options.width, position, self.yaw + self.turn * swing, self.pitch)


def street(options: StreetOptions, clip_seed: int) -> Scene:
    """Builds a clip's street. Each part has its own random generator, so that none changes when another one does."""
    parts = iter(range(100))

    def chance() -> np.random.RandomState:
        return np.random.RandomState([options.seed, clip_seed, next(parts)])

    rng = chance()
    path, (sky, fog) = _path(rng), _weather(rng)
    mesh = Mesh(daylight=uniform(rng, 0.9, 1.4))
    far = _FAR + max(0.0, path.advance * options.speed * options.length - _SHORT)
    plan = make_plan(chance())
    paved(mesh, chance(), plan, far)
    for side in (-1, 1):
        built_side(mesh, chance(), plan, side, far)
    skyline(mesh, chance(), far)
    _furniture(mesh, chance(), plan, far)
    _traffic(mesh, chance(), plan, options.speed)
    _parked(mesh, chance(), plan, far)
    _walkers(mesh, chance(), plan, options.speed)
    return Scene(mesh.surfaces(), sky, fog, path)


def _path(rng: np.random.RandomState) -> Path:
    return Path(
        x=uniform(rng, -0.3, 0.4),
        eye=uniform(rng, 1.5, 2.0),
        advance=uniform(rng, 0.3, 0.65),
        yaw=uniform(rng, -0.06, 0.06),
        turn=uniform(rng, -0.008, 0.008),
        pitch=uniform(rng, -0.01, 0.03),
    )


def _weather(rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    blue = pick(rng, [(108, 150, 200), (150, 170, 190), (170, 176, 180), (128, 140, 156), (196, 196, 192)])
    cloud = jitter(rng, pick(rng, [(226, 228, 230), (188, 192, 196), (160, 162, 166)]), 5)
    haze = np.array(cloud) * 9 // 10
    thick = uniform(rng, 60, 400)
    share = np.array([int(200 * (1 - thick / (thick + meter))) for meter in range(127)] + [0])
    return material(jitter(rng, blue, 5), cloud), np.column_stack([share, np.tile(haze, (128, 1))]).astype(np.int32)


def _furniture(mesh: Mesh, rng: np.random.RandomState, plan: Plan, far: float) -> None:
    """Objects at the kerbs: lamps, lights, signs, trees."""
    for side, kerb in ((-1, plan.road_left), (1, plan.road_right)):
        z = uniform(rng, 7, 14)
        while z < far - 30:
            street_lamp(mesh, rng, kerb + side * 0.5, z, -side)
            z += uniform(rng, 9, 20)
        for _ in range(3):
            traffic_sign(mesh, rng, kerb + side * uniform(rng, 0.4, 0.9), uniform(rng, 8, 32))
        crossing = uniform(rng, 10, 26)
        for near in (crossing, crossing + uniform(rng, 9, 16)):
            traffic_light(mesh, rng, kerb + side * uniform(rng, 0.3, 0.6), near)
        if rng.randint(5) < 2:
            z = uniform(rng, 8, 16)
            gap = uniform(rng, 8, 14)
            while z < far - 40:
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


def _traffic(mesh: Mesh, rng: np.random.RandomState, plan: Plan, speed: float) -> None:
    def along(meters: float) -> Point:
        return (0.0, 0.0, meters * speed)

    order = [0, 1]
    rng.shuffle(order)
    big = [(truck, bus)[position] for position in order]
    # The camera's lane: one vehicle ahead at about the camera's speed.
    lead = pick(rng, [car, car, big[0], None])
    if lead is not None:
        near = uniform(rng, 12, 24)
        lead(mesh, rng, uniform(rng, -0.3, 0.3), near, along(uniform(rng, 0.25, 0.6)), True)
    # Oncoming traffic.
    z = uniform(rng, 13, 24)
    for index in range(4):
        vehicle = big[1] if index == 1 and rng.randint(3) else car
        vehicle(mesh, rng, plan.lane_left + uniform(rng, -0.3, 0.3), z, along(-uniform(rng, 0.12, 0.45)), False)
        z += uniform(rng, 9, 20) + (12 if vehicle is not car else 0)
    if plan.tracks is not None:
        coming = bool(rng.randint(2))
        tram(mesh, rng, plan.tracks, uniform(rng, 13, 34), along(-0.3 if coming else 0.35), not coming)
    if plan.lane_right is not None:
        z = uniform(rng, 12, 20)
        for vehicle in (pick(rng, [truck, bus, car]), car):
            vehicle(mesh, rng, plan.lane_right, z, along(uniform(rng, 0.2, 0.6)), True)
            z += uniform(rng, 16, 24)
    # Two-wheelers: between the lanes, or across the street.
    for kind in ("bicycle", "motorcycle", pick(rng, ["bicycle", "motorcycle"])):
        if rng.randint(2):
            side, z = pick(rng, [-1, 1]), uniform(rng, 7.5, _CROSSING)
            two_wheeler(mesh, rng, uniform(rng, -6, 6), z, (side * 0.14 * speed, 0.0, 0.0), kind, True, 0.0)
        else:
            z = uniform(rng, 8, 22)
            x = pick(rng, [1.35, -1.9, plan.road_right - 0.6, plan.road_left + 0.8])
            turn = uniform(rng, 0.6, 1.1)
            two_wheeler(mesh, rng, x, z, along(uniform(rng, 0.15, 0.4)), kind, True, turn)


def _parked(mesh: Mesh, rng: np.random.RandomState, plan: Plan, far: float) -> None:
    for kerb, inwards, there in ((plan.road_right, -1, plan.park_right), (plan.road_left, 1, plan.park_left)):
        z = uniform(rng, 5, 12)
        while there and z < far - 50:
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
    # Bicycles and motorcycles parked at the houses and kerbs.
    for side, walk, kerb in ((-1, plan.walk_left, plan.road_left), (1, plan.walk_right, plan.road_right)):
        for kind in ("bicycle", pick(rng, ["bicycle", "motorcycle"])):
            z, x = uniform(rng, 8, 24), pick(rng, [walk - side * 0.5, kerb + side * 0.9])
            for _ in range(1 + rng.randint(3)):
                two_wheeler(mesh, rng, x, z, STILL, kind, False, uniform(rng, 0.0, 0.7))
                z += uniform(rng, 0.5, 0.9)


def _walkers(mesh: Mesh, rng: np.random.RandomState, plan: Plan, speed: float) -> None:
    for walk, kerb in ((plan.walk_left, plan.road_left), (plan.walk_right, plan.road_right)):
        for _ in range(4 + rng.randint(4)):
            across = uniform(rng, 0.25, 0.85)
            x = kerb + (walk - kerb) * across
            pace = pick(rng, [-0.09, -0.07, 0.07, 0.09, 0.0]) * speed
            person(mesh, rng, x, uniform(rng, 7, 38), (0.0, 0.0, pace) if pace else STILL)
    for _ in range(rng.randint(3)):
        pace = pick(rng, [-0.08, 0.08]) * speed
        velocity = (pace, 0.0, 0.0) if pace else STILL
        person(mesh, rng, uniform(rng, plan.road_left, plan.road_right), uniform(rng, 8, _CROSSING), velocity)
