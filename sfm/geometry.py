"""Geometry of cameras and points, arrays in, arrays out: centres, angles, depths, relative pose, similarity.

Poses are cam_from_world (x_cam = rotation @ x_world + translation); a camera looks along its +z axis.
"""

from dataclasses import dataclass

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


def rotation_angles_deg(rotations: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, " n"]:
    """Angle in [0, 180] by which each matrix rotates."""
    r = rotations
    axis = np.stack([r[:, 2, 1] - r[:, 1, 2], r[:, 0, 2] - r[:, 2, 0], r[:, 1, 0] - r[:, 0, 1]], axis=1)
    cosines = np.trace(r, axis1=1, axis2=2) - 1.0
    angles: np.ndarray = np.degrees(np.arctan2(np.linalg.norm(axis, axis=1), cosines))
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


def relative_poses(
    rotations_a: Float[np.ndarray, "n 3 3"],
    translations_a: Float[np.ndarray, "n 3"],
    rotations_b: Float[np.ndarray, "n 3 3"],
    translations_b: Float[np.ndarray, "n 3"],
) -> tuple[Float[np.ndarray, "n 3 3"], Float[np.ndarray, "n 3"]]:
    """Rotation and translation b_from_a: x_b = rotation @ x_a + translation."""
    rotations = rotations_b @ rotations_a.transpose(0, 2, 1)
    return rotations, translations_b - np.einsum("nij,nj->ni", rotations, translations_a)


@dataclass(frozen=True, kw_only=True, eq=False)
class Similarity:
    """Maps a world frame to another one: x -> scale * rotation @ x + translation."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]

    def apply(self, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """Points of the source frame in the target frame."""
        mapped: np.ndarray = self.scale * points @ self.rotation.T + self.translation
        return mapped

    def apply_to_poses(
        self, rotations: Float[np.ndarray, "n 3 3"], translations: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 3 3"], Float[np.ndarray, "n 3"]]:
        """cam_from_world in the target frame: centres and axes move along, camera coordinates grow."""
        mapped = rotations @ self.rotation.T
        return mapped, self.scale * translations - mapped @ self.translation


def align_similarity(source: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "n 3"]) -> Similarity:
    """The similarity with the least squared error from source to target points.

    Closed form: S. Umeyama, "Least-squares estimation of transformation parameters between two point
    patterns", PAMI 1991. ValueError for fewer than three points or points on one line: they leave a rotation
    open.
    """
    if len(source) < 3 or len(source) != len(target):
        raise ValueError(
            f"similarity: expected at least 3 points, as many in source as in target, got {len(source)} and "
            f"{len(target)}; give more camera centres"
        )
    source_mean, target_mean = source.mean(axis=0), target.mean(axis=0)
    centred = source - source_mean
    covariance = (target - target_mean).T @ centred / len(source)
    u, singular, vt = np.linalg.svd(covariance)
    if singular[1] <= 1e-12 * singular[0]:
        raise ValueError(
            "similarity: expected points that span a plane, got points on a line; give other centres"
        )
    # The last sign turns the best orthogonal matrix into the best rotation.
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * signs) @ vt
    scale = float(singular @ signs / centred.var(axis=0).sum())
    return Similarity(
        scale=scale, rotation=rotation, translation=target_mean - scale * rotation @ source_mean
    )
