"""Which quad a pixel sees, and where on it: a depth buffer over homographies, for cameras and for the sun.

A quad's plane maps to the picture by a homography. Its inverse A gives, for pixel p = (x, y, 1), the numbers
(a, b, c) = A p with s = a / c, t = b / c on the quad and depth = 1 / c, all three affine in the pixel. For
parallel light s = a and t = b, and c is the nearness itself, minus the depth.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from experiments.demo.cameras import Camera
from experiments.demo.scene import Quad, Scene

NOTHING = -1
_NEAREST_M = 0.3


@dataclass(frozen=True, kw_only=True, eq=False)
class Coverage:
    """Per pixel: the nearest quad, the position on it, and how near it is (larger is nearer).

    Attributes:
        quad: row in the scene's quads, NOTHING where the ray meets none.
        s: position along the quad, in [0, 1].
        t: position down the quad, in [0, 1].
        nearness: 1 / depth for a camera, minus the depth for parallel light; metres.
        footprints: per quad |det A|: a pixel's share of the quad's area is this over nearness**3.

    """

    quad: Int[np.ndarray, "height width"]
    s: Float[np.ndarray, "height width"]
    t: Float[np.ndarray, "height width"]
    nearness: Float[np.ndarray, "height width"]
    footprints: Float[np.ndarray, " quads"]


def camera_coverage(scene: Scene, camera: Camera, supersampling: int) -> Coverage:
    """Coverage of `supersampling` times as many pixels in each direction as the camera has."""
    focal = camera.focal_px * supersampling
    width, height = camera.width * supersampling, camera.height * supersampling
    calibration = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    centre = camera.centre_in_world
    inverses = []
    for quad in scene.quads:
        plane = camera.rotation @ np.stack([quad.along, quad.down, quad.corner], axis=1)
        plane[:, 2] += camera.translation
        inverses.append(_inverse(calibration @ plane, quad, centre - quad.corner))
    return _cover(scene, inverses, perspective=True, width=width, height=height)


def sun_coverage(
    scene: Scene,
    towards_sun: Float[np.ndarray, " 3"],
    centre: Float[np.ndarray, " 3"],
    extent_m: float,
    side: int,
) -> tuple[Coverage, Float[np.ndarray, "3 4"]]:
    """What the sun sees of a square of `extent_m` around `centre`, and the map world -> (x, y, nearness)."""
    right = np.cross([0.0, 1.0, 0.0], towards_sun)
    right /= np.linalg.norm(right)
    axes = np.stack([right, np.cross(right, towards_sun), towards_sun])
    axes[:2] *= side / extent_m
    offset = -axes @ centre + np.array([side / 2, side / 2, 0.0])
    inverses = []
    for quad in scene.quads:
        mapped = axes @ np.stack([quad.along, quad.down, quad.corner], axis=1)
        mapped[:, 2] += offset
        nearness = mapped[2].copy()
        mapped[2] = (0.0, 0.0, 1.0)
        inverse = _inverse(mapped, quad, towards_sun)
        inverses.append(np.stack([inverse[0], inverse[1], nearness @ inverse]))
    coverage = _cover(scene, inverses, perspective=False, width=side, height=side)
    return coverage, np.concatenate([axes, offset[:, None]], axis=1)


def _inverse(
    matrix: Float[np.ndarray, "3 3"], quad: Quad, towards_eye: Float[np.ndarray, " 3"]
) -> Float[np.ndarray, "3 3"]:
    """The inverse; zeros, which cover nothing, for a quad seen from behind or edge-on."""
    if abs(np.linalg.det(matrix)) < 1e-9 or (not quad.double_sided and quad.normal @ towards_eye <= 0):
        return np.zeros((3, 3))
    inverse: np.ndarray = np.linalg.inv(matrix)
    return inverse


def _cover(
    scene: Scene, inverses: Sequence[Float[np.ndarray, "3 3"]], perspective: bool, width: int, height: int
) -> Coverage:
    coverage = Coverage(
        quad=np.full((height, width), NOTHING, dtype=np.int16),
        s=np.zeros((height, width), dtype=np.float32),
        t=np.zeros((height, width), dtype=np.float32),
        nearness=np.full((height, width), 0.0 if perspective else -np.inf, dtype=np.float32),
        footprints=np.array([abs(np.linalg.det(inverse)) for inverse in inverses]),
    )
    for row, inverse in enumerate(inverses):
        window = _window(inverse, perspective, width, height)
        if window is not None:
            _draw(coverage, scene, row, inverse, perspective, window)
    return coverage


def _draw(
    coverage: Coverage,
    scene: Scene,
    row: int,
    inverse: Float[np.ndarray, "3 3"],
    perspective: bool,
    window: tuple[int, int, int, int],
) -> None:
    """Enter one quad where it is nearer than what is there."""
    x0, y0, x1, y1 = window
    xs, ys = np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5
    a, b, c = (
        (m[0] * xs + m[2]).astype(np.float32)[None, :] + (m[1] * ys).astype(np.float32)[:, None]
        for m in inverse
    )
    one = c if perspective else np.float32(1)
    hit = (c > coverage.nearness[y0:y1, x0:x1]) & (a >= 0) & (b >= 0) & (a <= one) & (b <= one)
    if perspective:
        hit &= c < 1 / _NEAREST_M
    inside = np.flatnonzero(hit)
    nearness = c.ravel()[inside]
    scale = nearness if perspective else np.float32(1)
    s, t = a.ravel()[inside] / scale, b.ravel()[inside] / scale
    if scene.quads[row].cutout:
        solid = solid_at(scene, scene.quads[row], s, t)
        inside, s, t, nearness = inside[solid], s[solid], t[solid], nearness[solid]
    line, column = np.divmod(inside, x1 - x0)
    pixel = (line + y0) * coverage.quad.shape[1] + column + x0
    coverage.quad.ravel()[pixel] = row
    coverage.nearness.ravel()[pixel] = nearness
    coverage.s.ravel()[pixel] = s
    coverage.t.ravel()[pixel] = t


def _window(
    inverse: Float[np.ndarray, "3 3"], perspective: bool, width: int, height: int
) -> tuple[int, int, int, int] | None:
    """The pixels x0, y0, x1, y1 that may see the quad: around its corners, or all where it reaches behind."""
    if not inverse.any():
        return None
    square = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=np.float64)
    homography = np.linalg.inv(
        inverse if perspective else np.stack([inverse[0], inverse[1], [0.0, 0.0, 1.0]])
    )
    corners = square @ homography.T
    depth = corners[:, 2]
    if (depth < _NEAREST_M).all():
        return None
    if (depth < _NEAREST_M).any():
        return 0, 0, width, height
    pixels = corners[:, :2] / depth[:, None]
    x0, y0 = np.clip(np.floor(pixels.min(axis=0)), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(pixels.max(axis=0)) + 1, 0, (width, height)).astype(int)
    return (int(x0), int(y0), int(x1), int(y1)) if x1 > x0 and y1 > y0 else None


def solid_at(
    scene: Scene, quad: Quad, s: Float[np.ndarray, " n"], t: Float[np.ndarray, " n"]
) -> Bool[np.ndarray, " n"]:
    """Where the nearest texel of the quad is opaque."""
    texels = scene.textures[quad.texture]
    x0, y0, x1, y1 = quad.rect
    columns = np.clip((x0 + s * (x1 - x0)).astype(np.int32), 0, texels.shape[1] - 1)
    rows = np.clip((y0 + t * (y1 - y0)).astype(np.int32), 0, texels.shape[0] - 1)
    opaque: np.ndarray = texels[rows, columns, 3] > 127
    return opaque
