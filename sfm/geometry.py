"""Geometry of cameras and points, arrays in, arrays out: centres, axes, angles, depths, scales.

Poses are cam_from_world (x_cam = rotation @ x_world + translation); a camera looks along its +z axis.
"""

import numpy as np
from jaxtyping import Float


def centres_in_world(
    rotations: Float[np.ndarray, "n 3 3"], translations: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Projection centres: -R^T t."""
    centres: np.ndarray = -np.einsum("nij,ni->nj", rotations, translations)
    return centres


def viewing_directions(rotations: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3"]:
    """Optical axes in the world, unit length: the world direction that the rotation sends to +z."""
    return rotations[:, 2, :]


def angles_between_deg(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, " n"]:
    """Angle in [0, 180] between the vectors of each row, of any length but zero.

    atan2 of sine and cosine: arccos alone loses half of the digits near 0 and 180 degrees.
    """
    sines = np.linalg.norm(np.cross(a, b), axis=1)
    cosines = np.einsum("ni,ni->n", a, b)
    angles: np.ndarray = np.degrees(np.arctan2(sines, cosines))
    return angles


def depths(
    rotations: Float[np.ndarray, "n 3 3"],
    translations: Float[np.ndarray, "n 3"],
    points: Float[np.ndarray, "n 3"],
) -> Float[np.ndarray, " n"]:
    """Coordinate of point n along the optical axis of camera n; <= 0 behind the camera."""
    along_axis: np.ndarray = np.einsum("ni,ni->n", rotations[:, 2, :], points) + translations[:, 2]
    return along_axis


def scales_at_points(
    focal_px: Float[np.ndarray, " n"], point_depths: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """Pixels per unit of the model with which camera n sees a small patch at point n: focal / depth.

    NaN where the point is not in front of the camera.
    """
    in_front = point_depths > 0
    return np.where(in_front, focal_px / np.where(in_front, point_depths, 1.0), np.nan)
