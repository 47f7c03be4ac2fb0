"""Rendering: polygons in the world to an image and its labels.

The polygons are drawn from far to near into a buffer of their ranks, at twice the resolution; then every sample looks
up its polygon's texture once, by the plane's homography. No floats are reduced and no fused operation is used, so that
the result is the same on every machine.
"""

import math
from dataclasses import dataclass

import numpy as np

from .mesh import ALWAYS, PHASES, Surfaces
from .raster import filled, fixed
from .textures import LEVELS, SIZE, atlas

_SUPER = 2  # samples a pixel, each way
_NEAR = 0.4  # meters
_BLOCK = 32  # rows shaded at once, so that they stay in the cache
_FAR = 127


def exact(value: float) -> float:
    """Rounds a result of the C library, such as a sine, whose last bits differ between machines."""
    return round(value, 9)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: size in pixels, place in meters, angles in radians (yaw to the right, pitch downwards)."""

    height: int
    width: int
    position: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0

    @property
    def focal(self) -> float:
        """Focal length in pixels: that of Cityscapes' camera, 1.1 image widths of a 2:1 image."""
        return 2.2 * self.height

    @property
    def center(self) -> tuple[float, float]:
        """The principal point (x, y) in pixels; a pixel's middle is at a half."""
        return self.width / 2, self.height * 0.46

    def turned(self, vectors: np.ndarray) -> np.ndarray:
        """World directions ... x 3 in the camera's axes: right, up, forwards."""
        sin_y, cos_y = exact(math.sin(self.yaw)), exact(math.cos(self.yaw))
        sin_p, cos_p = exact(math.sin(self.pitch)), exact(math.cos(self.pitch))
        x, y, z = vectors[..., 0], vectors[..., 1], vectors[..., 2]
        ahead = x * sin_y + z * cos_y
        return np.stack([x * cos_y - z * sin_y, y * cos_p + ahead * sin_p, ahead * cos_p - y * sin_p], -1)

    def seen(self, points: np.ndarray) -> np.ndarray:
        """World points ... x 3 in the camera's axes."""
        return self.turned(points - np.array(self.position))

    def world(self, seen: np.ndarray) -> np.ndarray:
        """World points ... x 3 of points ... x 3 in the camera's axes."""
        sin_y, cos_y = exact(math.sin(self.yaw)), exact(math.cos(self.yaw))
        sin_p, cos_p = exact(math.sin(self.pitch)), exact(math.cos(self.pitch))
        right, up, forwards = seen[..., 0], seen[..., 1], seen[..., 2]
        ahead = up * sin_p + forwards * cos_p
        turned = [right * cos_y + ahead * sin_y, up * cos_p - forwards * sin_p, ahead * cos_y - right * sin_y]
        return np.stack(turned, -1) + np.array(self.position)

    def pixels(self, seen: np.ndarray) -> np.ndarray:
        """Positions ... x 2 (x, y) in the image of points ... x 3 in the camera's axes, in front of it."""
        x = self.center[0] + self.focal * seen[..., 0] / seen[..., 2]
        y = self.center[1] - self.focal * seen[..., 1] / seen[..., 2]
        return np.stack([x, y], -1)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Positions ... x 2 (x, y) in the image of world points ... x 3 in front of the camera."""
        return self.pixels(self.seen(points))


def _clipped(polygon: np.ndarray) -> np.ndarray:
    """The part of a polygon, K x 3 in the camera's axes, that lies beyond the near plane."""
    kept = []
    for here, there in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if here[2] >= _NEAR:
            kept.append(here)
        if (here[2] >= _NEAR) != (there[2] >= _NEAR):
            kept.append(here + (there - here) * ((_NEAR - here[2]) / (there[2] - here[2])))
    return np.array(kept)


def _draw_order(surfaces: Surfaces, camera: Camera, time: float, seen: np.ndarray) -> np.ndarray:
    """Numbers of the polygons that may be visible, in drawing order. seen: N x 3 in the camera's axes."""
    moved = surfaces.velocity * time
    depth = np.maximum.reduceat(seen[:, 2], surfaces.starts)
    towards = surfaces.origin + moved - np.array(camera.position)
    product = surfaces.normal * towards
    facing = product[:, 0] + product[:, 1] + product[:, 2] <= 0
    phase = (surfaces.phase == ALWAYS) | (surfaces.phase == _phase(time))
    # Beyond this slope a point is outside the image: cheap, and generous.
    reach = camera.width / (2 * camera.focal) * 1.02
    outside = (np.minimum.reduceat(seen[:, 0] - reach * seen[:, 2], surfaces.starts) > 0) | (
        np.maximum.reduceat(seen[:, 0] + reach * seen[:, 2], surfaces.starts) < 0
    )
    visible = np.flatnonzero((depth > _NEAR) & facing & phase & ~outside)
    away = surfaces.anchor[visible] + moved[visible] - np.array(camera.position)
    away = away[:, 0] * away[:, 0] + away[:, 2] * away[:, 2]
    return visible[np.lexsort((visible, -away, surfaces.layer[visible]))]


def _phase(time: float) -> int:
    return math.floor(time) % PHASES


def _ranks(surfaces: Surfaces, camera: Camera, seen: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The rank buffer, 2H x 2W int32: 0 where nothing is, else 1 + place in ``order`` of the nearest polygon."""
    if len(order) == 0:
        return np.zeros((camera.height * _SUPER, camera.width * _SUPER), np.int32)
    ends = np.append(surfaces.starts[1:], len(seen))
    near = np.minimum.reduceat(seen[:, 2], surfaces.starts) < _NEAR
    polygons = [seen[surfaces.starts[polygon] : ends[polygon]] for polygon in order]
    for place in np.flatnonzero(near[order]):
        polygons[place] = _clipped(polygons[place])
    sizes = np.array([len(polygon) for polygon in polygons])
    corners = fixed(camera.pixels(np.concatenate(polygons)) * _SUPER - 0.5)
    return filled(corners, sizes, camera.height * _SUPER, camera.width * _SUPER)


def _homographies(surfaces: Surfaces, camera: Camera, time: float, order: np.ndarray) -> np.ndarray:
    """From buffer positions to texels: 9 x (1 + len(order)) float32; rank 0 is the sky."""
    m = np.stack(
        [
            camera.turned(surfaces.step_u[order]),
            camera.turned(surfaces.step_v[order]),
            camera.seen(surfaces.origin[order] + surfaces.velocity[order] * time),
        ],
        -1,
    )  # K x 3 x 3, columns: u, v, origin
    inverse = np.empty_like(m)
    for i in range(3):
        a, b = (i + 1) % 3, (i + 2) % 3
        for j in range(3):
            c, d = (j + 1) % 3, (j + 2) % 3
            inverse[:, j, i] = m[:, a, c] * m[:, b, d] - m[:, a, d] * m[:, b, c]
    determinant = m[:, 0, 0] * inverse[:, 0, 0] + m[:, 0, 1] * inverse[:, 1, 0] + m[:, 0, 2] * inverse[:, 2, 0]
    flat = np.abs(determinant) < 1e-12  # seen edge on: no texture to speak of
    inverse /= np.where(flat, 1.0, determinant)[:, None, None]
    inverse[flat] = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 0.1]])
    # ray = ((x + 1/2) / 2 - cx) / f, (cy - (y + 1/2) / 2) / f, 1
    scale = 1 / (_SUPER * camera.focal)
    x0 = (0.5 / _SUPER - camera.center[0]) / camera.focal
    y0 = (camera.center[1] - 0.5 / _SUPER) / camera.focal
    table = np.empty((3, 3, len(order) + 1), np.float32)
    table[:, 0, 1:] = (inverse[:, :, 0] * scale).T
    table[:, 1, 1:] = (inverse[:, :, 1] * -scale).T
    table[:, 2, 1:] = (inverse[:, :, 0] * x0 + inverse[:, :, 1] * y0 + inverse[:, :, 2]).T
    # The sky is infinitely far: its texels depend on the direction alone. A tile spans about 26 degrees.
    turn = camera.yaw * 280 + 64
    sky = [[280 * scale, 0, 280 * x0 + turn], [0, -400 * scale, 400 * y0 + 40], [0, 0, 1 / _FAR]]
    table[:, :, 0] = np.array(sky)
    table[:2, :, 0] /= _FAR
    return table.reshape(9, -1)


def _footprints(surfaces: Surfaces, camera: Camera, order: np.ndarray) -> np.ndarray:
    """Texels a sample at one meter's distance, (1 + len(order)) float32."""
    u = surfaces.step_u[order]
    size = np.sqrt(u[:, 0] * u[:, 0] + u[:, 1] * u[:, 1] + u[:, 2] * u[:, 2])
    oblique = np.where(np.abs(u[:, 2]) + (surfaces.layer[order] <= 1) > 1e-9, 1.6, 0.8)
    return np.append(0.001, oblique / (size * camera.focal * _SUPER)).astype(np.float32)


def render(
    surfaces: Surfaces, camera: Camera, time: float, sky: np.ndarray, fog: np.ndarray, sky_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draws one frame.

    time: in frames; sky: 256 x 4 uint8, its material; fog: 128 x 4 int32, for each whole meter of distance its share of
    256 and color. Returns the image, H x W x 3 uint8, and the train ids, H x W uint8.
    """
    order, ranks = _visible(surfaces, camera, time)
    samples, distance = _shaded(surfaces, camera, time, order, ranks, sky)
    image = _averaged(samples)
    share, color = fog[distance][..., :1], fog[distance][..., 1:]
    image += ((color - image) * share) >> 8
    train_ids = np.append(np.uint8(sky_id), surfaces.train_id[order])
    return image.astype(np.uint8), train_ids[_voted(ranks, train_ids)]


def moved(surfaces: Surfaces, camera: Camera, before: Camera, time: float) -> np.ndarray:
    """Length of the optical flow from one frame before ``time`` to ``time``, by pixel of the latter, H x W float32.

    before: the earlier camera. The sky moves by the camera's rotation alone. NaN where a point was behind that camera.
    """
    order, ranks = _visible(surfaces, camera, time)
    rank = ranks[::_SUPER, ::_SUPER]
    y, x = np.mgrid[: camera.height, : camera.width].astype(np.float32) * _SUPER
    row = [np.take(coefficient, rank) for coefficient in _homographies(surfaces, camera, time, order)[6:]]
    depth = 1 / np.maximum(row[0] * x + row[1] * y + row[2], np.float32(1 / _FAR))
    x, y = (x + 0.5) / _SUPER, (y + 0.5) / _SUPER
    ray = [(x - camera.center[0]) / camera.focal, (camera.center[1] - y) / camera.focal, np.ones_like(x)]
    place = np.stack(ray, -1) * depth[..., None] @ camera.turned(np.eye(3)).T  # in the world's axes, from the camera
    velocity = np.concatenate([np.zeros((1, 3)), surfaces.velocity[order]])[rank]
    travelled = np.where(rank[..., None] == 0, 0.0, np.subtract(camera.position, before.position))
    there = before.turned(place + travelled - velocity)
    there[there[..., 2] <= 0] = math.nan
    return np.linalg.norm(np.stack([x, y], -1) - before.pixels(there), axis=-1).astype(np.float32)


def _visible(surfaces: Surfaces, camera: Camera, time: float) -> tuple[np.ndarray, np.ndarray]:
    """The polygons in drawing order, and the buffer of their ranks."""
    points = surfaces.corners + (surfaces.velocity * time)[surfaces.owner]
    seen = camera.seen(points)
    order = _draw_order(surfaces, camera, time, seen)
    return order, _ranks(surfaces, camera, seen, order)


def _shaded(
    surfaces: Surfaces, camera: Camera, time: float, order: np.ndarray, ranks: np.ndarray, sky: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Colors, 2H x 2W uint32 (packed RGB0), and the distance of each pixel, H x W int32 in meters up to 127."""
    book = atlas()
    table = _homographies(surfaces, camera, time, order)
    footprint = _footprints(surfaces, camera, order)
    base = (np.append(np.int32(book.numbers["clouds"]), surfaces.texture[order]) * book.stride).astype(np.int32)
    palette = np.append(np.int32(len(surfaces.colors)), surfaces.material[order]).astype(np.int32) * 256
    colors = np.ascontiguousarray(np.concatenate([surfaces.colors, sky[None]]).reshape(-1, 4)).view(np.uint32)[:, 0]
    samples = np.empty(ranks.shape, np.uint32)
    distance = np.empty((camera.height, camera.width), np.int32)
    x = np.arange(ranks.shape[1], dtype=np.float32)[None]
    for top in range(0, ranks.shape[0], _BLOCK):
        rank = ranks[top : top + _BLOCK]
        y = np.arange(top, top + len(rank), dtype=np.float32)[:, None]
        row = [np.take(coefficient, rank) for coefficient in table]
        depth = 1 / np.maximum(row[6] * x + row[7] * y + row[8], np.float32(1 / _FAR))
        u = np.floor((row[0] * x + row[1] * y + row[2]) * depth).astype(np.int32) & (SIZE - 1)
        v = np.floor((row[3] * x + row[4] * y + row[5]) * depth).astype(np.int32) & (SIZE - 1)
        level = np.clip(np.frexp(np.take(footprint, rank) * depth)[1], 0, LEVELS - 1)
        texel = np.take(base, rank) + book.level_offset[level] + ((v >> level) << (7 - level)) + (u >> level)
        samples[top : top + _BLOCK] = colors[np.take(palette, rank) + book.texels[texel]]
        distance[top // _SUPER : (top + len(rank)) // _SUPER] = depth[::_SUPER, ::_SUPER].astype(np.int32)
    return samples, distance


def _averaged(samples: np.ndarray) -> np.ndarray:
    """The mean color of each pixel's four samples, H x W x 3 int32."""
    channels = samples.view(np.uint8).reshape(*samples.shape, 4)
    upper = channels[::2, ::2].astype(np.uint16) + channels[::2, 1::2]
    lower = channels[1::2, ::2].astype(np.uint16) + channels[1::2, 1::2]
    return ((upper + lower + 2) >> 2)[..., :3].astype(np.int32)


def _voted(ranks: np.ndarray, train_ids: np.ndarray) -> np.ndarray:
    """For each pixel the rank of a sample of its four samples' majority class; of four classes that of the nearest."""
    a, b, c, d = ranks[::2, ::2], ranks[::2, 1::2], ranks[1::2, ::2], ranks[1::2, 1::2]
    ka, kb, kc, kd = (train_ids[r] for r in (a, b, c, d))
    nearest = np.maximum(np.maximum(a, b), np.maximum(c, d))
    chosen = np.where(kc == kd, c, nearest)
    chosen = np.where((kb == kc) | (kb == kd), b, chosen)
    return np.where((ka == kb) | (ka == kc) | (ka == kd), a, chosen)
