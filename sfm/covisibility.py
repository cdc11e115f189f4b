"""Which images of a model see the same 3D points, from the sparse incidence of images and tracks."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array, triu

from sfm.model import Model


@dataclass(frozen=True, kw_only=True, eq=False)
class CovisiblePairs:
    """The unordered image pairs of a model that share at least one track, sorted by (first, second).

    `first` < `second` are rows of the model's images.
    """

    first: Int[np.ndarray, " p"]
    second: Int[np.ndarray, " p"]
    shared_points: Int[np.ndarray, " p"]


def visibility(model: Model) -> csr_array:
    """Incidence (num_images, num_points) with a 1 where the image sees the point, in int64.

    An image that observes a point at two pixels sees it once.
    """
    ones = np.ones(model.num_observations, dtype=np.int64)
    shape = (model.num_images, model.num_points)
    incidence = csr_array((ones, (model.track_image, model.track_point)), shape=shape)
    incidence.sum_duplicates()
    incidence.data[:] = 1
    return incidence


def covisible_pairs(visible: csr_array) -> CovisiblePairs:
    """All pairs of rows of `visibility` that share a point: V V^T above its diagonal.

    Memory grows with the number of such pairs and time with the sum of squared track lengths, neither with
    the square of the number of images.
    """
    shared = triu(visible @ visible.T, k=1, format="csr").tocoo()
    order = np.lexsort((shared.col, shared.row))
    return CovisiblePairs(
        first=shared.row[order].astype(np.int64),
        second=shared.col[order].astype(np.int64),
        shared_points=shared.data[order],
    )
