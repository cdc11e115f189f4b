"""Putative matches of two images: mutual nearest neighbours of local descriptors that stand out."""

import numpy as np
from jaxtyping import Float32, Shaped, UInt32

# Beyond this distance of unit descriptors two patches have nothing in common (COLMAP's limit).
_MAX_DISTANCE = 0.7


def unit_descriptors(descriptors: Shaped[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    """Descriptors as they are stored, as unit rows; zero rows stay zero.

    COLMAP's SIFT bytes already hold square roots (RootSIFT).
    """
    rows = descriptors.astype(np.float32)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows


def mutual_matches(
    first: Float32[np.ndarray, "n d"], second: Float32[np.ndarray, "m d"], max_ratio: float
) -> UInt32[np.ndarray, "k 2"]:
    """Rows (i, j) where j is i's nearest, i is j's nearest, and i's second nearest is clearly farther.

    Distances are L2 between unit rows; `max_ratio` bounds nearest / second nearest (D. Lowe, IJCV 2004).
    Exact search: n * m products, faster on one core than an index of an image's few thousand descriptors.
    """
    if not len(first) or len(second) < 2:
        return np.empty((0, 2), dtype=np.uint32)
    products = first @ second.T
    rows = np.arange(len(first))
    nearest = products.argmax(axis=1)
    best = products[rows, nearest]
    products[rows, nearest] = -np.inf
    runner_up = products.max(axis=1)
    squared, squared_next = 2.0 - 2.0 * best, 2.0 - 2.0 * runner_up
    products[rows, nearest] = best
    kept = np.flatnonzero((squared <= max_ratio**2 * squared_next) & (squared <= _MAX_DISTANCE**2))
    # Only the few columns that are still in question are searched the other way round.
    mutual = products[:, nearest[kept]].argmax(axis=0) == kept
    return np.column_stack([kept[mutual], nearest[kept][mutual]]).astype(np.uint32)


def mutual_nearest(
    first: Float32[np.ndarray, "n d"], second: Float32[np.ndarray, "m d"], min_product: float
) -> UInt32[np.ndarray, "k 2"]:
    """Rows (i, j) where j is i's nearest, i is j's nearest, and the product of the unit rows is large enough.

    For descriptors that are learned to be far apart wherever points differ.
    """
    if not len(first) or not len(second):
        return np.empty((0, 2), dtype=np.uint32)
    products = first @ second.T
    rows = np.arange(len(first))
    nearest = products.argmax(axis=1)
    kept = np.flatnonzero(products[rows, nearest] > min_product)
    # Only the few columns that are still in question are searched the other way round.
    mutual = products[:, nearest[kept]].argmax(axis=0) == kept
    return np.column_stack([kept[mutual], nearest[kept][mutual]]).astype(np.uint32)
