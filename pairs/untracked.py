"""Which pairs show the same thing although hardly a track says so: by frusta, or by chains of images."""

import numpy as np
from jaxtyping import Bool, Float
from scipy.sparse import csr_array

from pairs.image_pairs import Candidates
from sfm.paircodes import encode, num_rows


def frusta_overlap(pairs: Candidates, min_overlap: float, max_angle_deg: float) -> Bool[np.ndarray, " p"]:
    """Where each image has more than `min_overlap` of the other's points in view, from about the same side.

    Points behind a wall are in view as well: an angle that is not too large keeps most of them away. A pair
    of which the other direction is not among `pairs` has no overlap that way.
    """
    back = _of_reverse(pairs, pairs.frustum_overlap)
    both = np.minimum(pairs.frustum_overlap, back) > min_overlap
    return np.asarray(both & (pairs.angle_deg <= max_angle_deg))


def chained(pairs: Candidates, links: Bool[np.ndarray, " p"]) -> Bool[np.ndarray, " p"]:
    """Where one link, or a chain of two, query to third image to positive, leads from one to the other.

    Of a chain the positive has something of the query in view: along a street it leads out of sight.
    """
    size = num_rows(pairs.query, pairs.positive)
    ones = np.ones(int(links.sum()), dtype=np.int64)
    linked = csr_array((ones, (pairs.query[links], pairs.positive[links])), shape=(size, size))
    chains = (linked @ linked).tocoo()
    codes = encode(chains.row, chains.col, size)
    reached = np.isin(encode(pairs.query, pairs.positive, size), codes[chains.data > 0])
    return np.asarray(links | (reached & (pairs.frustum_overlap > 0)))


def _of_reverse(pairs: Candidates, values: Float[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """The value of each pair's other direction, 0 where that is not there."""
    if not len(pairs):
        return values
    size = num_rows(pairs.query, pairs.positive)
    codes = encode(pairs.query, pairs.positive, size)
    order = np.argsort(codes)
    wanted = encode(pairs.positive, pairs.query, size)
    place = np.minimum(np.searchsorted(codes, wanted, sorter=order), len(codes) - 1)
    found = order[place]
    return np.where(codes[found] == wanted, values[found], 0.0)
