"""A model set upright: points and cameras in a frame whose third axis points to the sky."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sfm.geometry import centres_in_world
from sfm.model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class Upright:
    """Positions in the model's unit, from the mean camera: x to the right, y ahead, z up.

    Attributes:
        points: of the point cloud, far outliers left out.
        centres: projection centres.
        rotations: cam_from_world in this frame; the third rows are the unit viewing directions.

    """

    points: Float[np.ndarray, "m 3"]
    centres: Float[np.ndarray, "n 3"]
    rotations: Float[np.ndarray, "n 3 3"]


# What is down in the upright photo, in axes of the stored one, by EXIF orientation.
_DOWN = {1: (0, 1), 2: (0, 1), 3: (0, -1), 4: (0, -1), 5: (1, 0), 6: (1, 0), 7: (-1, 0), 8: (-1, 0)}


def upright(model: Model, orientations: Int[np.ndarray, " n"]) -> Upright:
    """The model with the sky above; `orientations` are the EXIF orientations of its images.

    People hold cameras level and walk on the ground: up is where the cameras' horizontal axes, their viewing
    directions and the spread of their centres together point least. Ahead is where they look on average.
    """
    centres = centres_in_world(model.rotations, model.translations)
    axes = _axes(model, centres, orientations)
    origin = centres.mean(axis=0)
    return Upright(
        points=(_without_outliers(model.points, centres) - origin) @ axes,
        centres=(centres - origin) @ axes,
        rotations=model.rotations @ axes,
    )


def _axes(
    model: Model, centres: Float[np.ndarray, "n 3"], orientations: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "3 3"]:
    """Right, ahead and up as columns, in the model's world."""
    x, y, forward = model.rotations[:, 0], model.rotations[:, 1], model.rotations[:, 2]
    down_x, down_y = np.array([_DOWN[int(orientation)] for orientation in orientations]).T[:, :, None]
    downwards, sideways = down_x * x + down_y * y, down_y * x + down_x * y
    offsets = centres - centres.mean(axis=0)
    spread = offsets.T @ offsets
    total = np.trace(spread)
    evidence = (sideways.T @ sideways + forward.T @ forward) / model.num_images
    evidence += spread / total if total > 0 else 0.0
    up = np.linalg.eigh(evidence)[1][:, 0]
    up = -up if up @ downwards.sum(axis=0) > 0 else up
    ahead = forward.mean(axis=0) - (forward.mean(axis=0) @ up) * up
    if np.linalg.norm(ahead) < 1e-6:
        # Cameras all around look nowhere on average: any direction will do.
        ahead = np.cross(up, np.eye(3)[int(np.argmin(np.abs(up)))])
    ahead = ahead / np.linalg.norm(ahead)
    return np.stack([np.cross(ahead, up), ahead, up], axis=1)


def _without_outliers(
    points: Float[np.ndarray, "m 3"], centres: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "k 3"]:
    """Points within three times the distance that holds nine in ten: a few run off to the horizon."""
    if len(points) == 0:
        return points
    distance = np.linalg.norm(points - np.median(np.concatenate([points, centres]), axis=0), axis=1)
    kept: np.ndarray = points[distance <= 3 * np.quantile(distance, 0.9)]
    return kept
