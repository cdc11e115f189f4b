"""A picture as another camera would have taken it: lens, viewpoint, blur, noise, something in the way."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageFilter
from pydantic import Field
from scipy import ndimage

from cnnimretrieval.descriptors.distort import recompress
from groundwork.settings import Settings


class RetakeConfig(Settings):
    """How far the camera is another one; each is drawn uniformly, either way where it has two."""

    tilt: float = Field(
        default=0.12, ge=0, lt=0.5, description="of the viewpoint: corners move by up to this share of a side"
    )
    bend: float = Field(
        default=0.08, ge=0, lt=0.5, description="of the lens: k1 of r (1 + k1 r^2), r = 1 at the corners"
    )
    # At 1,024 px 1.5 and 5 px: what people call a blurred photo, and still keep.
    blur: float = Field(default=0.0015, ge=0, description="of focus: sigma as a share of the longest side")
    shake: float = Field(
        default=0.005, ge=0, lt=1, description="of the hand: path as a share of the longest side"
    )
    noise: float = Field(
        default=0.03, ge=0, description="of the sensor: standard deviation; levels are 0 to 1"
    )
    shade: float = Field(default=0.4, ge=0, lt=1, description="of the corners: light lost there")
    hidden: float = Field(default=0.15, ge=0, lt=1, description="of the picture: area that something covers")
    jpeg_quality: int = Field(default=70, ge=1, le=95)


@dataclass(frozen=True)
class Retaken:
    """Edit of a picture; the same seed does the same each time.

    None of this is how training distorts its queries (`distort.Relit`), so what is scored with it is not what
    was learned.
    """

    seed: int
    config: RetakeConfig = field(default_factory=RetakeConfig)

    def __call__(self, image: Image.Image) -> Image.Image:
        """The changed picture, RGB, of the same size."""
        rng, config = np.random.default_rng(self.seed), self.config
        levels = np.asarray(image.convert("RGB"), np.float32) / 255.0
        levels = warped(levels, rng, config)
        levels = covered(levels, rng, config.hidden)
        levels = _shaken(levels, rng, config.shake) * _shade(levels.shape[:2], rng.uniform(0, config.shade))
        levels = levels + rng.normal(0.0, rng.uniform(0, config.noise), levels.shape).astype(np.float32)
        picture = Image.fromarray(np.rint(levels.clip(0.0, 1.0) * 255.0).astype(np.uint8))
        radius = rng.uniform(0, config.blur) * max(picture.size)
        return recompress(picture.filter(ImageFilter.GaussianBlur(radius)), config.jpeg_quality)


def warped(
    levels: Float[np.ndarray, "h w 3"], rng: np.random.Generator, config: RetakeConfig
) -> Float[np.ndarray, "h w 3"]:
    """Seen from another side, through another lens: a homography of moved corners, then radial distortion.

    What lies beyond the picture is its mean colour.
    """
    height, width = levels.shape[:2]
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], np.float64)
    moved = corners + 2 * rng.uniform(-config.tilt, config.tilt, corners.shape)
    homography = _homography(corners, moved)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    bend = 1 + rng.uniform(-config.bend, config.bend) * (x**2 + y**2) / 2
    seen = np.stack([x * bend, y * bend, np.ones_like(x)]).reshape(3, -1)
    from_x, from_y, depth = homography @ seen
    rows = (from_y / depth + 1) * (height - 1) / 2
    columns = (from_x / depth + 1) * (width - 1) / 2
    mean = levels.mean(axis=(0, 1))
    channels = [
        ndimage.map_coordinates(levels[..., channel], [rows, columns], order=1, cval=float(mean[channel]))
        for channel in range(3)
    ]
    changed: Float[np.ndarray, "h w 3"] = np.stack(channels, axis=-1).reshape(levels.shape)
    return changed


def covered(
    levels: Float[np.ndarray, "h w 3"], rng: np.random.Generator, share: float
) -> Float[np.ndarray, "h w 3"]:
    """With a soft-edged ellipse of one colour in the way, up to `share` of the area."""
    height, width = levels.shape[:2]
    area, stretch = rng.uniform(0, share), 2.0 ** rng.uniform(-1, 1)
    centre, colour = rng.uniform(0, 1, 2), rng.uniform(0, 1, 3).astype(np.float32)
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    radius = max((area / np.pi) ** 0.5, 1e-6)
    distance = np.hypot((x - centre[0]) / (radius * stretch), (y - centre[1]) * stretch / radius)
    hides = np.clip((1.1 - distance) / 0.2, 0, 1).astype(np.float32)[..., None]
    mixed: Float[np.ndarray, "h w 3"] = levels * (1 - hides) + colour * hides
    return mixed


def _homography(
    source: Float[np.ndarray, "4 2"], target: Float[np.ndarray, "4 2"]
) -> Float[np.ndarray, "3 3"]:
    """The map that takes the four source points to the target ones."""
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    values = np.linalg.solve(np.array(rows), target.reshape(-1))
    return np.append(values, 1.0).reshape(3, 3)


def _shaken(
    levels: Float[np.ndarray, "h w 3"], rng: np.random.Generator, shake: float
) -> Float[np.ndarray, "h w 3"]:
    """Blurred along a straight path in a random direction."""
    length, angle = rng.uniform(0, shake) * max(levels.shape[:2]), rng.uniform(0, np.pi)
    steps = max(1, round(length))
    along = np.linspace(-length / 2, length / 2, steps) if steps > 1 else np.zeros(1)
    shifted = [
        ndimage.shift(levels, (step * np.sin(angle), step * np.cos(angle), 0), order=1, mode="nearest")
        for step in along
    ]
    return np.asarray(np.mean(shifted, axis=0, dtype=np.float32))


def _shade(shape: tuple[int, int], lost: float) -> Float[np.ndarray, "h w 1"]:
    """Factors that fall from 1 in the middle to 1 - `lost` in the corners."""
    y, x = np.meshgrid(np.linspace(-1, 1, shape[0]), np.linspace(-1, 1, shape[1]), indexing="ij")
    return (1 - lost * (x**2 + y**2) / 2).astype(np.float32)[..., None]
