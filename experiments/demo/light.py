"""Light of a photo: sun with cast shadows, sky light, colour temperature, the sky itself."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from experiments.demo.cameras import Camera
from experiments.demo.noise import fractal_noise
from experiments.demo.raster import sun_coverage
from experiments.demo.samples import Samples
from experiments.demo.scene import Scene

_SHADOW_SIDE = 640
_SHADOW_EXTENT_M = 56.0
# Less than the depth of a window, more than a texel of the shadow map at a slope.
_SHADOW_BIAS_M = 0.22


@dataclass(frozen=True, kw_only=True, eq=False)
class Light:
    """Sun and sky; colours are linear radiances relative to a white wall in full light."""

    towards_sun: Float[np.ndarray, " 3"]
    sun: Float[np.ndarray, " 3"]
    sky: Float[np.ndarray, " 3"]
    zenith: Float[np.ndarray, " 3"]
    horizon: Float[np.ndarray, " 3"]
    cloudiness: float


def draw_light(rng: np.random.Generator) -> Light:
    """A random hour and weather: sun in front of the building, or a covered sky."""
    azimuth, elevation = np.radians(rng.uniform(-70, 70)), np.radians(rng.uniform(18, 62))
    towards = np.array(
        [np.sin(azimuth) * np.cos(elevation), np.sin(elevation), np.cos(azimuth) * np.cos(elevation)]
    )
    overcast = rng.random() < 0.35
    warmth = rng.uniform(-0.5, 1.0) * (1.2 - np.degrees(elevation) / 62)
    sun = (0.12 if overcast else rng.uniform(0.55, 1.0)) * np.array(
        [1 + 0.28 * warmth, 1.0, 1 - 0.35 * warmth]
    )
    sky = (0.62 if overcast else rng.uniform(0.28, 0.45)) * np.array([0.95, 1.0, 1.0 + rng.uniform(0.0, 0.2)])
    zenith = np.array([0.5, 0.55, 0.6]) if overcast else np.array([0.12, 0.28, 0.62]) * rng.uniform(0.7, 1.2)
    horizon = np.array([0.75, 0.78, 0.8]) * (1 + 0.2 * warmth * np.array([1, 0.2, -0.8]))
    return Light(
        towards_sun=towards,
        sun=sun,
        sky=sky,
        zenith=zenith,
        horizon=horizon,
        cloudiness=float(rng.uniform(0, 1)),
    )


def sky_picture(
    rng: np.random.Generator, camera: Camera, light: Light
) -> Float[np.ndarray, "height width 3"]:
    """The sky behind everything: a gradient by elevation with drifting clouds."""
    height, width = camera.height, camera.width
    y = np.arange(height) + 0.5 - height / 2
    pitch = np.arcsin(np.clip(camera.rotation[2, 1], -1, 1))
    elevation = np.clip(np.sin(pitch - np.arctan(y / camera.focal_px)), 0, 1)[:, None, None]
    blend = elevation**0.6
    gradient = light.horizon * (1 - blend) + light.zenith * blend
    clouds = fractal_noise(rng, height, width, 0.45 * width, 5, 0.55)[..., None]
    veil = np.clip(0.5 * clouds + light.cloudiness - 0.6, 0, 1)
    picture: np.ndarray = gradient * (1 - veil) + np.array([0.9, 0.9, 0.92]) * veil
    return picture.astype(np.float32)


def irradiance(scene: Scene, samples: Samples, light: Light) -> Float[np.ndarray, "n 3"]:
    """Light on each sample: sky light by how much its surface faces up, sun where nothing is between."""
    normals = np.array([quad.normal for quad in scene.quads])
    facing = np.maximum(normals @ light.towards_sun, 0)
    # Crowns and people are round: they take light from both sides.
    facing[[quad.double_sided for quad in scene.quads]] = 0.55
    sun = facing.astype(np.float32)[samples.quad] * _lit(scene, samples, light)
    sky = (0.75 + 0.25 * normals[:, 1]).astype(np.float32)[samples.quad]
    total: np.ndarray = sun[:, None] * light.sun + sky[:, None] * light.sky
    return total.astype(np.float32)


def _lit(scene: Scene, samples: Samples, light: Light) -> Float[np.ndarray, " n"]:
    """1 in the sun, 0 in shadow: each sample against what the sun sees first, softened over 2 x 2 texels."""
    seen, to_light = sun_coverage(
        scene, light.towards_sun, np.array([0.0, 4.0, 2.0]), _SHADOW_EXTENT_M, _SHADOW_SIDE
    )
    planes = np.array([np.stack([q.along, q.down, q.corner], axis=1) for q in scene.quads])
    mapped = np.einsum("ij,qjk->qik", to_light[:, :3], planes)
    mapped[:, :, 2] += to_light[:, 3]
    rows = mapped.astype(np.float32)[samples.quad]
    x, y, nearness = (rows[:, k, 0] * samples.s + rows[:, k, 1] * samples.t + rows[:, k, 2] for k in range(3))
    total = np.zeros(len(samples.quad), dtype=np.float32)
    for dx in (-0.5, 0.5):
        for dy in (-0.5, 0.5):
            column = np.clip((x + dx).astype(np.int32), 0, _SHADOW_SIDE - 1)
            row = np.clip((y + dy).astype(np.int32), 0, _SHADOW_SIDE - 1)
            total += seen.nearness[row, column] < nearness + np.float32(_SHADOW_BIAS_M)
    inside = (np.minimum(x, y) > 0) & (np.maximum(x, y) < _SHADOW_SIDE - 1)
    return np.where(inside, total / 4, 1).astype(np.float32)
