"""Which photos were taken near each other, by the positions in their EXIF."""

import math

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.spatial import KDTree

from groundwork.arrays import slices

_EARTH_RADIUS_M = 6_371_008.8
# Rows whose neighbours are looked up at a time.
_BLOCK = 65_536


def near_pairs(
    latitude: Float[np.ndarray, " n"],
    longitude: Float[np.ndarray, " n"],
    usable: Bool[np.ndarray, " n"],
    *,
    neighbours: int,
    max_distance_m: float,
) -> Int[np.ndarray, "p 2"]:
    """Unique pairs of usable rows with a position, one among the other's nearest and within the distance.

    Distances are on a sphere. The smaller row comes first. Of equally near ones the search decides.
    """
    rows = np.flatnonzero(usable & np.isfinite(latitude) & np.isfinite(longitude))
    wanted = min(neighbours, len(rows) - 1)
    if wanted < 1:
        return np.empty((0, 2), dtype=np.int64)
    points = _on_unit_sphere(latitude[rows], longitude[rows])
    # A chord is as long as twice the sine of half its angle; an arc of half a turn reaches everything.
    longest = 2.0 * math.sin(min(max_distance_m / _EARTH_RADIUS_M, math.pi) / 2.0)
    tree = KDTree(points)
    found = []
    for block in slices(len(rows), _BLOCK):
        queries = np.arange(block.start, block.stop)
        # One more than wanted: each is the nearest to itself, or as near as others at the same spot.
        distance, found_rows = tree.query(points[queries], k=wanted + 1, distance_upper_bound=longest)
        nearest = np.asarray(found_rows)
        kept = np.isfinite(distance) & (nearest != queries[:, None])
        kept &= np.cumsum(kept, axis=1) <= wanted
        query, column = np.nonzero(kept)
        found.append(np.sort(rows[np.column_stack([queries[query], nearest[query, column]])], axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _on_unit_sphere(
    latitude: Float[np.ndarray, " n"], longitude: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    polar, around = np.radians(latitude), np.radians(longitude)
    flat = np.cos(polar)
    return np.column_stack([flat * np.cos(around), flat * np.sin(around), np.sin(polar)])
