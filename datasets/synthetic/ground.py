"""The street's plan and its ground: road, tracks, verges, sidewalks, grass, with lines, kerbs and shadows on them."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .mesh import ALONG_X, ALONG_Z, DECAL, GROUND, Color, Mesh
from .parts import ID, brighter, green, jitter, pick, rectangle, uniform

NEAR = -4.0  # the street's beginning, meters from the camera's start


@dataclass(frozen=True)
class Plan:
    """Layout of the street across: x of its strips' edges, from the left."""

    built_left: float
    walk_left: float
    road_left: float
    road_right: float
    walk_right: float
    built_right: float
    verge_left: float  # width of the grass between sidewalk and road
    verge_right: float
    park_left: bool  # whether cars are parked along that kerb
    park_right: bool
    tracks: float | None  # middle of the tram's tracks
    green_tracks: bool  # they lie in grass
    lane_left: float  # middle of the lane of oncoming traffic
    lane_right: float | None  # middle of a second lane on our side


def make_plan(rng: np.random.RandomState) -> Plan:
    """A random layout; x = 0 is the middle of the camera's lane."""
    edge = 1.9
    lane_right = None
    if rng.randint(3) == 0:
        lane_right, edge = edge + 1.5, edge + 3.2
    park_right, park_left = rng.randint(3) == 0, rng.randint(2) == 0
    road_right = edge + (2.3 if park_right else 0.3)
    lane_left, edge = -3.5, -5.2
    tracks = None
    if rng.randint(100) < 50:
        tracks, edge = edge - 1.5, edge - 3.2
    road_left = edge - (2.3 if park_left else 0.3)
    verge_left, verge_right = (uniform(rng, 0.9, 2.0) if rng.randint(5) < 2 else 0.0 for _ in range(2))
    walk_left = road_left - verge_left - uniform(rng, 2.6, 4.6)
    walk_right = road_right + verge_right + uniform(rng, 2.6, 4.6)
    built_left, built_right = (
        walk + sign * (uniform(rng, 1.2, 3.2) if rng.randint(100) < 65 else 0.0)
        for walk, sign in ((walk_left, -1), (walk_right, 1))
    )
    return Plan(
        *(built_left, walk_left, road_left, road_right, walk_right, built_right, verge_left, verge_right),
        *(park_left, park_right, tracks, rng.randint(2) == 0, lane_left, lane_right),
    )


def paved(mesh: Mesh, rng: np.random.RandomState, plan: Plan, far: float) -> None:
    """Adds the ground from the street's beginning to ``far``, and its strips to ``mesh.strips``."""
    gray = jitter(rng, pick(rng, [(96, 96, 98), (112, 110, 108), (84, 84, 88), (122, 116, 112)]), 4)
    worn, paler = int(rng.randint(-16, 17)), int(rng.randint(36))
    pale = jitter(rng, brighter(gray, paler), 8)
    grass = green(rng) if rng.randint(3) else jitter(rng, (124, 108, 76))
    road_look = (pick(rng, ["asphalt"] * 5 + ["cobbles"]), gray, brighter(gray, worn))
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
        tile = (1.6, 1.6) if texture == "cobbles" else (3.0, 3.0)
        strip = mesh.group((0, 0, 0), GROUND)
        shape = rectangle(left, NEAR, right, far)
        strip.add(shape, (0, 0.0, 0), ALONG_X, ALONG_Z, mesh.paint(first, second), texture, ID[name], tile)
        mesh.strips.append((right, ID[name], mesh.paint(first, second, 0.45), texture))
        left = right
    _kerbs_and_marks(mesh, rng, plan, far, pale)
    _long_shadows(mesh, rng, plan)


def _kerbs_and_marks(mesh: Mesh, rng: np.random.RandomState, plan: Plan, far: float, pale: Color) -> None:
    kerb = mesh.paint(brighter(pale, 26))
    group = mesh.group((0, 0, 0), DECAL)

    def mark(
        left: float, near: float, right: float, end: float, paint: int, name: str = "road", texture: str = "plain"
    ) -> None:
        shape = rectangle(left, near, right, end)
        group.add(shape, (0, 0.0, 0), ALONG_X, ALONG_Z, paint, texture, ID[name], (1.0, 1.0))

    mark(plan.road_left - 0.2, NEAR, plan.road_left, far, kerb, "sidewalk")
    mark(plan.road_right, NEAR, plan.road_right + 0.2, far, kerb, "sidewalk")
    white = mesh.paint(jitter(rng, (206, 204, 196), 20))
    lines = [-1.75] + ([plan.tracks + 1.6] if plan.tracks is not None else [])
    lines += [1.8] if plan.lane_right is not None else []
    offset = uniform(rng, 0, 6)
    for line in lines:
        for step in range(int((far - NEAR) // 6)):
            mark(line - 0.08, NEAR + offset + 6 * step, line + 0.08, NEAR + offset + 6 * step + 3, white)
    if plan.tracks is not None:
        bed = "terrain" if plan.green_tracks else "road"
        for rail in (-0.72, 0.72):
            mark(plan.tracks + rail - 0.08, NEAR, plan.tracks + rail + 0.08, far, mesh.paint((66, 64, 64)), bed)
    if rng.randint(3) == 0:
        start = uniform(rng, 14, 34)
        for bar in range(int((plan.road_right - plan.road_left) // 1.0)):
            left = plan.road_left + 0.3 + bar
            if mesh.ground_at(left + 0.25)[0] == ID["road"]:
                mark(left, start, left + 0.5, start + 3.0, white)
    for _ in range(6):
        x, z = uniform(rng, -1.6, plan.road_right - 1), uniform(rng, 4, 40)
        level = 70 + int(rng.randint(50))
        patch = mesh.paint((level, level, level))
        mark(x, z, x + uniform(rng, 0.5, 1.0), z + uniform(rng, 1.0, 4.0), patch, "road", "asphalt")


def _long_shadows(mesh: Mesh, rng: np.random.RandomState, plan: Plan) -> None:
    """Shadows that buildings and trees cast across the street."""
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
