from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

WIDTH, HEIGHT = 480, 360
# A lens of 40 mm on 36 x 24 mm, as the photos' EXIF says: 554.7 px.
FOCAL_35MM = 40
FOCAL_PX = FOCAL_35MM / np.hypot(36, 24) * np.hypot(WIDTH, HEIGHT)


@dataclass(frozen=True)
class Scene:
    """A folder of rendered photos and the true centre of each camera, by file name."""

    folder: Path
    centres: dict[str, Float[np.ndarray, " 3"]]


def render_scene(folder: Path, *, seed: int, photos: int) -> Scene:
    """Photos of the corner of a room: three square walls of 4 units with a random pattern each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    walls = [_pattern(rng) for _ in range(3)]
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Maker", "Model"
    exif.get_ifd(0x8769)[0xA405] = FOCAL_35MM
    centres = {}
    for number, turn in enumerate(np.linspace(0.2, 1.3, photos)):
        centre = np.array([4.2 * np.cos(turn), 4.2 * np.sin(turn), 1.6 + 0.35 * (number % 3)])
        target = np.array([0.9, 0.9, 1.1]) + rng.uniform(-0.15, 0.15, 3)
        name = f"{number}.png"
        Image.fromarray(_photo(walls, centre, target)).save(folder / name, exif=exif)
        centres[name] = centre
    return Scene(folder=folder, centres=centres)


def _pattern(rng: np.random.Generator) -> Float[np.ndarray, "512 512"]:
    """Overlapping rectangles on soft noise: corners at many scales."""
    pattern = 128 + 900 * gaussian_filter(rng.standard_normal((512, 512)), 6)
    for _ in range(350):
        y, x = rng.integers(0, 500, 2)
        height, width = rng.integers(6, 60, 2)
        pattern[y : y + height, x : x + width] += rng.uniform(-60, 60)
    return np.clip(gaussian_filter(pattern, 1.0), 0, 255)


def _photo(
    walls: list[Float[np.ndarray, "512 512"]],
    centre: Float[np.ndarray, " 3"],
    target: Float[np.ndarray, " 3"],
) -> UInt8[np.ndarray, "360 480"]:
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH] + 0.5
    rays = ((x - WIDTH / 2) / FOCAL_PX)[..., None] * right + ((y - HEIGHT / 2) / FOCAL_PX)[..., None] * down
    rays = rays + forward
    photo, nearest = np.full((HEIGHT, WIDTH), 128.0), np.full((HEIGHT, WIDTH), np.inf)
    for axis, wall in enumerate(walls):
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = -centre[axis] / rays[..., axis]
            points = centre + depth[..., None] * rays
        across, along = (points[..., other] * 512 / 4 for other in range(3) if other != axis)
        hit = (depth > 0) & (depth < nearest) & (across >= 0) & (across < 511) & (along >= 0) & (along < 511)
        seen = map_coordinates(wall, [across[hit], along[hit]], order=1)
        photo[hit], nearest[hit] = seen, depth[hit]
    return photo.round().astype(np.uint8)


@pytest.fixture(scope="session")
def two_scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Scene]:
    """Photos of two places, in two folders below one."""
    root = tmp_path_factory.mktemp("photos")
    return {
        "one": render_scene(root / "one", seed=3, photos=6),
        "two": render_scene(root / "two", seed=4, photos=4),
    }
