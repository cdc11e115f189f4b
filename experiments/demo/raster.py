"""Which quad a pixel sees, and where on it: a depth buffer over homographies, for cameras and for the sun.

A quad's plane maps to the picture by a homography. Its inverse gives, for pixel p = (x, y, 1), the numbers
(a, b, c) = A p with s = a / c, t = b / c on the quad and depth = 1 / c, all three affine in the pixel; for
parallel light c is constant and the depth itself is affine.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

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
        nearness: 1 / depth for a camera, minus the depth for parallel light; any unit of the world frame.
        footprints: per quad the determinant of its inverse homography, for the choice of texture level.

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
    inverses = []
    for quad in scene.quads:
        plane = np.stack([quad.along, quad.down, quad.corner], axis=1)
        plane = camera.rotation @ plane
        plane[:, 2] += camera.translation
        inverses.append(_inverse(calibration @ plane))
    return _cover(scene, inverses, inverses_of_depth=True, width=width, height=height)


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
    scale = side / extent_m
    axes[:2] *= scale
    offset = -axes @ centre + np.array([side / 2, side / 2, 0.0])
    to_light = np.concatenate([axes, offset[:, None]], axis=1)
    inverses = []
    for quad in scene.quads:
        plane = np.stack([quad.along, quad.down, quad.corner], axis=1)
        mapped = to_light[:, :3] @ plane
        mapped[:, 2] += offset
        flat = mapped.copy()
        flat[2] = (0.0, 0.0, 1.0)
        inverse = _inverse(flat)
        # Nearness is affine in (s, t), hence in the pixel: kept as the third row.
        inverses.append(np.stack([inverse[0], inverse[1], mapped[2] @ inverse]))
    return _cover(scene, inverses, inverses_of_depth=False, width=side, height=side), to_light


def _inverse(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The inverse; zeros, which cover nothing, for a plane seen edge-on."""
    if abs(np.linalg.det(matrix)) < 1e-9:
        return np.zeros((3, 3))
    inverse: np.ndarray = np.linalg.inv(matrix)
    return inverse


def _cover(
    scene: Scene,
    inverses: Sequence[Float[np.ndarray, "3 3"]],
    inverses_of_depth: bool,
    width: int,
    height: int,
) -> Coverage:
    far = 0.0 if inverses_of_depth else -np.inf
    nearness = np.full((height, width), far, dtype=np.float32)
    nearest = np.full((height, width), NOTHING, dtype=np.int16)
    s_map, t_map = np.zeros((2, height, width), dtype=np.float32)
    for row, (quad, inverse) in enumerate(zip(scene.quads, inverses, strict=True)):
        window = _window(inverse, inverses_of_depth, width, height)
        if window is None:
            continue
        x0, y0, x1, y1 = window
        xs, ys = np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5
        a, b, c = (
            (m[0] * xs + m[2]).astype(np.float32)[None, :] + (m[1] * ys).astype(np.float32)[:, None]
            for m in inverse
        )
        one = c if inverses_of_depth else np.float32(1)
        part = np.s_[y0:y1, x0:x1]
        hit = (c > nearness[part]) & (a >= 0) & (b >= 0) & (a <= one) & (b <= one)
        if inverses_of_depth:
            hit &= c < 1 / _NEAREST_M
        if not hit.any():
            continue
        ys_hit, xs_hit = np.nonzero(hit)
        below = c[ys_hit, xs_hit]
        scale = below if inverses_of_depth else np.float32(1)
        s, t = a[ys_hit, xs_hit] / scale, b[ys_hit, xs_hit] / scale
        if quad.cutout:
            solid = _solid(scene, quad, s, t)
            ys_hit, xs_hit, s, t, below = ys_hit[solid], xs_hit[solid], s[solid], t[solid], below[solid]
        ys_hit, xs_hit = ys_hit + y0, xs_hit + x0
        nearest[ys_hit, xs_hit] = row
        nearness[ys_hit, xs_hit] = below
        s_map[ys_hit, xs_hit], t_map[ys_hit, xs_hit] = s, t
    footprints = np.array([abs(np.linalg.det(inverse)) for inverse in inverses])
    return Coverage(quad=nearest, s=s_map, t=t_map, nearness=nearness, footprints=footprints)


def _window(
    inverse: Float[np.ndarray, "3 3"], perspective: bool, width: int, height: int
) -> tuple[int, int, int, int] | None:
    """The pixels x0, y0, x1, y1 that may see the quad: around its corners, or all where it reaches behind."""
    if not inverse.any():
        return None
    square = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=np.float64)
    affine = inverse if perspective else np.stack([inverse[0], inverse[1], [0.0, 0.0, 1.0]])
    corners = square @ np.linalg.inv(affine).T
    depth = corners[:, 2]
    if (depth < _NEAREST_M).all():
        return None
    if (depth < _NEAREST_M).any():
        return 0, 0, width, height
    pixels = corners[:, :2] / depth[:, None]
    x0, y0 = np.clip(np.floor(pixels.min(axis=0)), 0, (width, height)).astype(int)
    x1, y1 = np.clip(np.ceil(pixels.max(axis=0)) + 1, 0, (width, height)).astype(int)
    return (int(x0), int(y0), int(x1), int(y1)) if x1 > x0 and y1 > y0 else None


def _solid(scene: Scene, quad: Quad, s: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Where the nearest texel of a cut-out is opaque."""
    texels = scene.textures[quad.texture]
    x0, y0, x1, y1 = quad.rect
    columns = np.clip((x0 + s * (x1 - x0)).astype(np.int32), 0, texels.shape[1] - 1)
    rows = np.clip((y0 + t * (y1 - y0)).astype(np.int32), 0, texels.shape[0] - 1)
    opaque: np.ndarray = texels[rows, columns, 3] > 127
    return opaque
