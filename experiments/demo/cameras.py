"""The cameras of a place: on a ring around its front, at different distances, heights and focal lengths."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

# Focal lengths as a phone or camera writes them; 43.27 mm is the diagonal of the 36 x 24 mm film.
FOCALS_35MM = (24, 26, 28, 31, 35, 40)
FILM_DIAGONAL_MM = 43.2666


@dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """A pinhole with square pixels and its principal point in the middle; pixel centres at .5."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]
    focal_px: float
    focal_35mm: int
    width: int
    height: int

    @property
    def centre_in_world(self) -> Float[np.ndarray, " 3"]:
        """Projection centre, m."""
        centre: np.ndarray = -self.rotation.T @ self.translation
        return centre


def look_at(
    centre: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"], roll_deg: float
) -> Float[np.ndarray, "3 3"]:
    """cam_from_world rotation of a camera at `centre` that sees `target` in its middle, x right, y down."""
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    upright = np.stack([right, np.cross(forward, right), forward])
    cos, sin = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    rotation: np.ndarray = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ upright
    return rotation


def ring(
    rng: np.random.Generator, count: int, size: tuple[int, int], width_m: float, height_m: float
) -> tuple[Camera, ...]:
    """`count` cameras around a front of this size whose middle is the origin, at most 55 degrees to a side.

    Each stands in its own sector of the ring, so that neighbours overlap. Sizes are (width, height) in px;
    some cameras are held upright.
    """
    reach = rng.uniform(38, 55)
    order = rng.permutation(count)
    cameras = []
    for slot in order:
        azimuth = np.radians(reach * (2 * (slot + rng.uniform(0.15, 0.85)) / count - 1))
        width, height = size if rng.random() > 0.2 else size[::-1]
        focal_35mm = int(rng.choice(FOCALS_35MM))
        focal_px = focal_35mm / FILM_DIAGONAL_MM * float(np.hypot(*size))
        # From a view with room around the front to one that shows a good half of it.
        fill = rng.uniform(0.85, 1.4) * (1.0 if width > height else 1.3)
        span_m = max(width_m, 0.95 * height_m * width / height)
        distance = max(focal_px * span_m / (fill * width), 8.0)
        eye = rng.uniform(1.5, 1.9) if rng.random() < 0.7 else rng.uniform(2.5, 6.0)
        target = np.array([rng.uniform(-0.14, 0.14) * width_m, rng.uniform(0.36, 0.55) * height_m, 0.0])
        centre = np.array([distance * np.sin(azimuth), eye, distance * np.cos(azimuth)])
        rotation = look_at(centre, target, float(rng.normal(0, 1.5)))
        cameras.append(
            Camera(
                rotation=rotation,
                translation=-rotation @ centre,
                focal_px=focal_px,
                focal_35mm=focal_35mm,
                width=width,
                height=height,
            )
        )
    return tuple(cameras)
