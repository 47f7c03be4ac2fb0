"""Flat polygons in the world, of which the street is built.

The world's axes: x to the right, y up, z along the street, in meters; the ground is y = 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .textures import SIZE, atlas, material

Point = tuple[float, float, float]
Color = tuple[int, int, int]
Corner = tuple[float, float]
Outline = Sequence[Corner]  # of a polygon, in its own plane
PHASES = 8  # of a walking cycle
ALWAYS = -1
ALONG_X, UPWARDS, ALONG_Z = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)

# Layers in drawing order: later ones hide earlier ones. Everything on the street is between the camera and the
# buildings, so whole layers can be ordered; inside a layer the farther group is drawn first.
GROUND, DECAL, BACKGROUND, FRONT, STREET = range(5)


@dataclass(frozen=True)
class Surfaces:
    """All polygons of a clip as arrays; S polygons with N corners together."""

    corners: np.ndarray  # N x 3
    starts: np.ndarray  # S, first corner of each polygon
    owner: np.ndarray  # N, polygon of each corner
    origin: np.ndarray  # S x 3, where texel (0, 0) lies
    step_u: np.ndarray  # S x 3, meters a texel along u
    step_v: np.ndarray  # S x 3
    normal: np.ndarray  # S x 3, zero for what is seen from both sides
    anchor: np.ndarray  # S x 3, the point whose distance decides the order
    velocity: np.ndarray  # S x 3, meters a frame
    layer: np.ndarray  # S
    phase: np.ndarray  # S, frame of the walking cycle, or ALWAYS
    texture: np.ndarray  # S
    material: np.ndarray  # S
    train_id: np.ndarray  # S uint8
    colors: np.ndarray  # M x 256 x 4 uint8, the materials


@dataclass
class Group:
    """Polygons that move together and share an anchor for the drawing order; later ones hide earlier ones."""

    mesh: "Mesh"
    anchor: Point
    layer: int
    velocity: Point = (0.0, 0.0, 0.0)

    def add(
        self,
        shape: Outline,
        origin: Point,
        along: Point,
        up: Point,
        paint: int,
        texture: str,
        train_id: int,
        tile: tuple[float, float] = (2.0, 2.0),
        normal: Point = (0.0, 0.0, 0.0),
        phase: int = ALWAYS,
    ) -> None:
        """Adds the polygon ``shape``, corners (a, b) at ``origin + a * along + b * up``; ``tile``: texture size, m."""
        corners = np.array([[o + a * p + b * q for o, p, q in zip(origin, along, up, strict=True)] for a, b in shape])
        step_u, step_v = np.array(along) * (tile[0] / SIZE), np.array(up) * (tile[1] / SIZE)
        self.mesh.rows.append((self, corners, origin, step_u, step_v, normal, phase, texture, paint, train_id))


@dataclass
class Mesh:
    """Collects polygons and materials while a scene is built."""

    daylight: float = 1.0  # multiplies the light on all materials
    rows: list[tuple] = field(default_factory=list)
    materials: list[np.ndarray] = field(default_factory=list)
    strips: list[tuple[float, int, int, str]] = field(default_factory=list)
    _known: dict[tuple, int] = field(default_factory=dict)

    def ground_at(self, x: float) -> tuple[int, int, str]:
        """Train id, material (in the shade) and texture of the ground at ``x``; in ``strips`` after the right edge."""
        for edge, train_id, paint, texture in self.strips:
            if x < edge:
                return train_id, paint, texture
        return self.strips[-1][1:]

    def group(self, anchor: Point, layer: int, velocity: Point = (0.0, 0.0, 0.0)) -> Group:
        """A new group."""
        return Group(self, anchor, layer, velocity)

    def paint(self, first: Color, second: Color | None = None, light: float = 1.0) -> int:
        """The number of a material."""
        key = (first, second, light)
        if key not in self._known:
            self._known[key] = len(self.materials)
            self.materials.append(material(first, second if second is not None else first, light * self.daylight))
        return self._known[key]

    def surfaces(self) -> Surfaces:
        """The finished arrays."""
        groups, corners, origin, step_u, step_v, normal, phase, texture, paint, train_id = zip(*self.rows, strict=True)
        sizes = np.array([len(c) for c in corners])
        names = atlas().numbers
        return Surfaces(
            corners=np.concatenate(corners),
            starts=np.concatenate([[0], np.cumsum(sizes)[:-1]]),
            owner=np.repeat(np.arange(len(sizes)), sizes),
            origin=np.array(origin, np.float64),
            step_u=np.array(step_u),
            step_v=np.array(step_v),
            normal=np.array(normal, np.float64),
            anchor=np.array([g.anchor for g in groups], np.float64),
            velocity=np.array([g.velocity for g in groups], np.float64),
            layer=np.array([g.layer for g in groups]),
            phase=np.array(phase),
            texture=np.array([names[name] for name in texture], np.int32),
            material=np.array(paint, np.int32),
            train_id=np.array(train_id, np.uint8),
            colors=np.array(self.materials),
        )
