"""Which cameras of a model stand nearest to each camera."""

import numpy as np
from jaxtyping import Int
from scipy.spatial import cKDTree

from pairs.frustum import frustum_overlaps
from pairs.image_pairs import Candidates
from sfm.covisibility import visibility
from sfm.geometry import angles_between_deg, centres_in_world, viewing_directions
from sfm.model import Model


def nearest_cameras(model: Model, count: int) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
    """Rows (image, neighbour) of the `count` cameras of the model whose centres are nearest to each image's.

    By image, then by distance; fewer where the model is small. Nothing depends on the model's frame.
    """
    num_images = model.num_images
    count = min(count, num_images - 1)
    if count < 1:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    centres = centres_in_world(model.rotations, model.translations)
    found: np.ndarray = np.asarray(cKDTree(centres).query(centres, k=count + 1)[1])
    # Each finds itself, but where more cameras than asked for stand at one point: there the last one goes.
    other = found != np.arange(num_images)[:, None]
    other[other.all(axis=1), -1] = False
    return np.repeat(np.arange(num_images), count), found[other].astype(np.int64)


def near_camera_pairs(model: Model, count: int) -> Candidates:
    """The pairs of `nearest_cameras` as rows of the model's images, sorted by (query, positive).

    Shared points are not counted here: 0, and what would follow from them is unknown.
    """
    query, neighbour = nearest_cameras(model, count)
    order = np.lexsort((neighbour, query))
    query, neighbour = query[order], neighbour[order]
    axes = viewing_directions(model.rotations)
    unknown = np.full(len(query), np.inf)
    return Candidates(
        query=query,
        positive=neighbour,
        shared_points=np.zeros(len(query), dtype=np.int64),
        overlap=np.zeros(len(query)),
        scale_change=unknown,
        angle_deg=angles_between_deg(axes[query], axes[neighbour]),
        baseline=unknown,
        frustum_overlap=frustum_overlaps(model, visibility(model), query, neighbour),
    )
