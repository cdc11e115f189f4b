"""How much of what one image sees lies in the field of view of another, seen there or not."""

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from groundwork.arrays import slices
from sfm.model import Model

# Of an image at most so many points are looked at: that tells a share to about 3 %, however many there are.
_MAX_POINTS = 256
# Points held at a time: about 50 MB with their poses.
_BLOCK_POINTS = 1 << 18


def frustum_overlaps(
    model: Model, visible: csr_array, query: Int[np.ndarray, " p"], other: Int[np.ndarray, " p"]
) -> Float[np.ndarray, " p"]:
    """Share, in [0, 1], of the points that `query` sees which lie in the frustum of `other`.

    In front of the camera and inside its picture, the principal point taken to be the picture's centre.
    Occlusion is not looked at. Estimated from at most 256 of the query's points; 0 for a query without any.
    """
    share = np.zeros(len(query))
    for block in slices(len(query), _BLOCK_POINTS // _MAX_POINTS):
        pair, point = _points_of(visible, query[block])
        inside = _in_frustum(model, other[block][pair], point)
        size = len(query[block])
        total = np.bincount(pair, minlength=size)
        share[block] = np.bincount(pair, inside, minlength=size) / np.maximum(total, 1)
    return share


def _points_of(
    visible: csr_array, images: Int[np.ndarray, " b"]
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " k"]]:
    """Of each entry of `images` up to `_MAX_POINTS` of its points, evenly spaced; and whose they are."""
    count = np.diff(visible.indptr)[images]
    taken = np.minimum(count, _MAX_POINTS)
    entry = np.repeat(np.arange(len(images)), taken)
    number = np.arange(len(entry)) - np.repeat(np.cumsum(taken) - taken, taken)
    offset = number * count[entry] // np.maximum(taken[entry], 1)
    return entry, visible.indices[visible.indptr[images][entry] + offset]


def _in_frustum(
    model: Model, image: Int[np.ndarray, " k"], point: Int[np.ndarray, " k"]
) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    seen = np.einsum("kij,kj->ki", model.rotations[image], model.points[point]) + model.translations[image]
    depth = seen[:, 2]
    half = model.sizes[image] / 2.0
    # Multiplied out: a depth near zero divides nothing, and behind the camera it never holds.
    reach = model.focal_px[image, None] * np.abs(seen[:, :2]) <= half * depth[:, None]
    inside: np.ndarray = reach.all(axis=1)
    return inside
